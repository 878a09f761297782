"""Checksums of the files of a folder, so that a damaged one is named and never taken
for what was written.

    checksums.json    {"config.json": [{"bytes": 812, "xxh3_128": "5f1a..."}], ...}

The hash is XXH3, which finds damage, not forgery: at 10 GB/s on one core it costs a
tenth of reading the file from a fast disk.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from mm1.config import ConfigError
from mm1.files import atomic_path, read_object, write_json

CHECKSUMS = "checksums.json"
BLOCK_BYTES = 1 << 20

Checksum = dict[str, Any]
"""`bytes` and `xxh3_128` of a file."""


def checksum(
    path: Path, on_block: Callable[[], None] = lambda: None
) -> Checksum:
    """Of a file of any size: it is read block by block; `on_block` is called after
    each.

    Raises:
        OSError: it cannot be read.
    """
    hasher = xxhash.xxh3_128()
    num_bytes = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
            num_bytes += len(block)
            on_block()
    return {"bytes": num_bytes, "xxh3_128": hasher.hexdigest()}


def write_checksums(folder: Path, checksums: Mapping[str, Checksum]) -> None:
    """Notes the checksums of all files of a folder, once they are written."""
    write_json(
        folder / CHECKSUMS, {name: [sums] for name, sums in checksums.items()}
    )


def noted_checksums(folder: Path) -> dict[str, list[Checksum]]:
    """File name -> the checksums that it may have; empty where nothing is noted.

    Raises:
        ConfigError: checksums.json itself is damaged.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    noted = read_object(path, "delete it to use the folder unchecked")
    if not all(isinstance(sums, list) for sums in noted.values()):
        raise ConfigError(
            f"{path} is damaged: delete it to use the folder unchecked"
        )
    return noted


def find_damage(
    path: Path,
    noted: Mapping[str, list[Checksum]],
    found: Checksum | None = None,
) -> str:
    """What is wrong with a file, empty if nothing is or if no checksum is noted.

    `found` is its checksum, if it has been computed already.
    """
    expected = noted.get(path.name)
    if expected is None:
        return ""
    try:
        found = found or checksum(path)
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error})"
    if found in expected:
        return ""
    last: Any = expected[-1] if expected else None
    size = last.get("bytes") if isinstance(last, dict) else None
    if size == found["bytes"]:
        return (
            f"{path.name} is damaged: its bytes are not those that were written"
        )
    return f"{path.name} has {found['bytes']:,} bytes, not {size:,}"


@contextmanager
def checked_path(path: Path) -> Iterator[Path]:
    """`atomic_path` for a file whose checksum is noted in its folder before it has its
    name."""
    with atomic_path(path) as temporary:
        yield temporary
        note_replacement(path, checksum(temporary))


def note_replacement(
    path: Path, new: Checksum, on_block: Callable[[], None] = lambda: None
) -> None:
    """Notes the checksum of a file that is about to be renamed to `path`, beside that
    of the file to be replaced: wherever a kill falls, the file that is there has a
    checksum that is noted. `on_block` is called as the old file is read."""
    noted = noted_checksums(path.parent)
    sums = [new]
    if path.is_file():
        old = checksum(path, on_block)
        if old not in sums and old in noted.get(path.name, [old]):
            sums.insert(0, old)
    noted[path.name] = sums
    write_json(path.parent / CHECKSUMS, noted)


def forget_checksums(folder: Path) -> None:
    """Of files that are there no more."""
    noted = noted_checksums(folder)
    kept = {n: sums for n, sums in noted.items() if (folder / n).is_file()}
    if kept != noted:
        write_json(folder / CHECKSUMS, kept)


def check_file(path: Path, remedy: str, found: Checksum | None = None) -> None:
    """Raises ConfigError if a file is not the one whose checksum is noted beside it."""
    damage = find_damage(path, noted_checksums(path.parent), found)
    if damage:
        raise ConfigError(
            f"{path.parent}: {damage}; {remedy} (if you have changed it on purpose,"
            f" delete {path.parent / CHECKSUMS})"
        )
