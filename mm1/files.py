"""Files: written so that a reader never sees half of one, even after a power failure,
read with errors that name the file and the remedy."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from mm1.config import ConfigError
from mm1.storage.remote_file import put_file
from mm1.storage.remote_path import RemotePath

FRESH_COPY = "get a fresh copy"
"""The remedy where others wrote a file."""
MAX_DEPTH = 64
"""Of brackets within brackets in the JSON we read whole; a config of ours has 9."""
LONGEST_NAME = 200
"""Bytes of a name that becomes a file's; file systems allow 255 with what we add."""


def unfinished_path(path: Path) -> Path:
    """Where a file or folder is written before it is renamed to `path`."""
    return path.with_name(path.name + ".unfinished")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder at, which becomes `path` at the end of the
    block, or is deleted on an error.

    The folder around it is made if need be. What was written is on the disk before it
    is renamed, so no power failure leaves an empty file under the name of a whole one.
    A file at an object store is written on this machine, and put whole.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory(prefix="mm1-") as folder:
            yield Path(folder, path.name)
            put_file(Path(folder, path.name), str(path))
        return
    temporary = unfinished_path(path)
    remove(temporary)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        durable_rename(temporary, path)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError) and error.errno and not error.filename:
            # A write that fails does not say where.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def durable_rename(source: Path, target: Path) -> None:
    """Renames a file or a folder once it is on the disk, and returns once the new name
    is, too; a file at `target` is replaced."""
    if source.is_dir():
        for folder, _, names in os.walk(source):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
    else:
        sync(source)
    source.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do so for folders, and say this.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if there is one."""
    if isinstance(path, RemotePath):
        path.remove_tree()
        path.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """One JSON value on each line, in UTF-8."""
    write_text(path, "".join(map(_line, records)))


def append_jsonl(path: Path, *records: Any) -> None:
    """Adds lines; a kill may leave half of one, which `read_jsonl` skips.

    Raises:
        OSError: they cannot be written, as the disk is full; then none is.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = "".join(map(_line, records)).encode()
        try:
            while data:  # an unbuffered file may write less than it is given
                data = data[file.write(data) :]
        except OSError as error:
            file.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from error


def read_utf8(path: Path, remedy: str) -> str:
    """The text of a file. `remedy` ends the error, as in `read_object`.

    Raises:
        ConfigError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {remedy}") from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file. `remedy` ends the error: what to do where the file is
    damaged.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is not JSON, no object, or nested deeper than `MAX_DEPTH`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        _check_depth(value)
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): {remedy}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested deeper than {MAX_DEPTH} brackets: {remedy}"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path} holds a {type(value).__name__}, not an object: {remedy}"
        )
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The JSON objects on the lines of a file of our own, none if it is missing.

    A line that is no object is skipped: a killed process may leave half of its last.
    """
    if not path.is_file():
        return []
    records = []
    # Not `str.splitlines`: a line separator (U+2028) may stand in a string of JSON.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def _check_depth(value: Any) -> None:
    """Raises RecursionError, as `json.loads` does for what is far deeper, if there are
    more than `MAX_DEPTH` brackets within brackets."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise RecursionError


def file_name(name: str, what: str) -> str:
    """A name that becomes a file's or a folder's, unchanged.

    Raises:
        ConfigError: it would lead elsewhere, or no file may have it; `what` is what the
            message calls it.
    """
    if (
        name in ("", ".", "..")
        or not name.isprintable()
        or any(mark in name for mark in "/\\:")
        or len(name.encode()) > LONGEST_NAME
    ):
        raise ConfigError(
            f"{what} {name[:80]!r} cannot be the name of a file: use letters, digits,"
            f" dots, dashes and underscores, at most {LONGEST_NAME} of them"
        )
    return name


def path_within(folder: Path, name: str, what: str) -> Path:
    """`folder / name`, where a file of the folder names another of its files.

    Links are followed: the hub's cache and large disks are full of them.

    Raises:
        ConfigError: it leads out of the folder; `what` is what the message calls it.
    """
    parts = PurePath(name).parts
    if (
        not parts
        or ".." in parts
        or "\0" in name
        or PurePath(name).is_absolute()
    ):
        raise ConfigError(f"{what} {name[:80]!r} leads out of {folder}")
    return folder / name


def _line(record: Any) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
