"""Files whose names agree up to their suffix, as one sample: of a tar (WebDataset) or
of a folder.

    00017.jpg    00017.txt    00017.json    |    fig 2.1.jpg    fig 2.1.txt

WebDataset takes a name up to its first dot, others up to the last one. Both are read:
files with the same name up to the first dot lie together; those that make a whole
sample up to the last dot are one, and what is left over beside the sample of the first
dot (`00017.mask.png` beside `00017.jpg` and `00017.txt`) is counted, with its name.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

from mm1.prepare import verify
from mm1.prepare.skipped import Skipped
from mm1.prepare.sources import Unusable
from mm1.prepare.tars import Member
from mm1.storage.remote_path import RemotePath

Sample = dict[str, bytes | Unusable]
"""Suffix, without its dot and in lower case -> content."""

MAX_OPEN = 16
"""Samples that wait for further files of theirs; of the same name up to the first
dot."""

BESIDE = "file beside a sample"

MACOS_FOLDER = "__MACOSX"


class Samples:
    """Puts files together, in their order: samples are complete once other names
    come."""

    def __init__(
        self,
        suffixes: Collection[str],
        is_whole: Callable[[Sample], bool],
        skipped: Skipped,
    ) -> None:
        """`suffixes`: the files that samples consist of, such as "jpg"; `is_whole`:
        whether a sample has all it needs; `skipped`: takes the names of other files."""
        self.suffixes = suffixes
        self.is_whole = is_whole
        self.skipped = skipped
        self.prefix = ""
        self.open: dict[str, Sample] = {}
        """Name up to the last dot -> sample; all are equal up to the first one."""

    def read(self, members: Iterable[Member]) -> Iterator[tuple[str, Sample]]:
        """Each sample with its name.

        Raises:
            Unusable: the files are damaged from here on; whole samples come first.
        """
        try:
            for member in members:
                if split := self._split(member.name):
                    yield from self._add(*split, member)
        except Unusable:
            for name in [*self.open]:
                if self.is_whole(self.open[name]):
                    yield name, self.open.pop(name)
            raise
        yield from self._close()

    def _split(self, path: str) -> tuple[str, str, str] | None:
        """(name up to the first dot, name up to the last one, suffix), or None."""
        folder, slash, name = path.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        if name.startswith("._") or MACOS_FOLDER in folder.split("/"):
            self.skipped.add("macOS metadata file", path)
        elif name.startswith("."):
            self.skipped.add("hidden file", path)
        elif not dot:
            self.skipped.add("file without a suffix", path)
        else:
            first = stem.partition(".")[0]
            place = folder + slash
            return place + first, place + stem, suffix.lower()
        return None

    def _add(
        self, prefix: str, name: str, suffix: str, member: Member
    ) -> Iterator[tuple[str, Sample]]:
        if prefix != self.prefix:
            yield from self._close()
            self.prefix = prefix
        if suffix not in self.suffixes:
            self.skipped.add(f".{suffix} file", member.name)
            return
        if suffix in self.open.get(name, ()):
            yield name, self.open.pop(name)
        if name not in self.open:
            whole = [each for each in self.open if self._is_done(each)]
            whole += [*self.open][: max(0, len(self.open) - MAX_OPEN)]
            for each in dict.fromkeys(whole):
                yield each, self.open.pop(each)
        content = member.read()
        self.open.setdefault(name, {})[suffix] = content

    def _is_done(self, name: str) -> bool:
        return name != self.prefix and self.is_whole(self.open[name])

    def _close(self) -> Iterator[tuple[str, Sample]]:
        plain = self.open.get(self.prefix)
        is_whole = plain is not None and self.is_whole(plain)
        for name, sample in self.open.items():
            if name == self.prefix or not is_whole or self.is_whole(sample):
                yield name, sample
                continue
            for suffix in sample:
                self.skipped.add(BESIDE, f"{name}.{suffix}")
        self.open = {}


def folder_members(folder: Path, skipped: Skipped) -> Iterator[Member]:
    """The files of a folder at any depth, sorted in each folder; hidden and linked
    folders are `skipped`."""
    if isinstance(folder, RemotePath):
        yield from _remote_members(folder, folder, skipped)
        return
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        for name in sorted(folders):
            path = Path(place, name)
            if path.is_symlink() or name.startswith("."):
                kind = "linked" if path.is_symlink() else "hidden"
                skipped.add(f"{kind} folder", (inside / name).as_posix())
                folders.remove(name)
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            relative = (inside / name).as_posix()
            if path.is_file():
                yield Member(relative, partial(read_small_file, path))
            else:
                kind = (
                    "link to nothing" if path.is_symlink() else "special file"
                )
                skipped.add(kind, relative)


def _remote_members(
    root: RemotePath, folder: RemotePath, skipped: Skipped
) -> Iterator[Member]:
    """As `folder_members` does; a listing gives no more than a folder at a time."""
    folders = []
    for path in folder.iterdir():
        relative = path.relative_to(root).as_posix()
        if path.is_file():
            yield Member(relative, partial(read_small_file, path))
        elif path.name.startswith("."):
            skipped.add("hidden folder", relative)
        else:
            folders.append(path)
    for each in folders:
        yield from _remote_members(root, each, skipped)


def read_small_file(file: Path) -> bytes | Unusable:
    """The bytes of one of many files, or why it is dropped."""
    try:
        if (size := file.stat().st_size) > verify.MAX_BYTES:
            return Unusable(
                "file too large",
                f"{size:,} bytes; the limit is {verify.MAX_BYTES:,}",
            )
        return file.read_bytes()
    except OSError as error:
        return Unusable("unreadable file", str(error))
