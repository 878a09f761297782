"""Members of tars, in order; each ends in the hands of the caller, in `skipped`, or in
what is said to be damaged.

A tar may begin anew behind its end mark, as `cat a.tar b.tar` makes it, and may lack
the end mark and the padding before it: with every byte of its last member it is whole.
"""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from mm1.prepare import verify
from mm1.prepare.skipped import Skipped
from mm1.prepare.sources import Unusable

DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError)
"""What tarfile raises on damaged headers, those of PAX included."""

NO_END_MARK = "tar without an end mark"

SCAN = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of a tar or a folder."""

    name: str
    """Its path, with slashes."""
    read: Callable[[], bytes | Unusable]
    """Its bytes, or why they cannot be used; of a tar, to be called before the next
    member is asked for."""
    start: int = 0
    """Where its bytes begin in the tar."""
    size: int = 0


def read_members(
    path: Path, skipped: Skipped, noted: Counter[str]
) -> Iterator[Member]:
    """The regular files of a tar; links, folders and devices are `skipped`.

    Raises:
        OSError: it cannot be opened.
        Unusable: it is no tar, or damaged from here on; while reading members, too.
    """
    with path.open("rb") as file:
        start: int | None = 0
        while start is not None:
            file.seek(start)
            try:
                tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
            except DAMAGE as error:
                raise Unusable("not a tar file", str(error)) from error
            yield from _members(tar, file, skipped, noted)
            start = _next_archive(file, tar.offset)


def _members(
    tar: tarfile.TarFile,
    file: IO[bytes],
    skipped: Skipped,
    noted: Counter[str],
) -> Iterator[Member]:
    end = tar.offset
    try:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # there may be millions
            if member.isfile():
                # Of a sparse member, the archive has less than its size.
                end = tar.offset if member.issparse() else _end_of_data(member)
                read = partial(_read_member, tar, member)
                start = member.offset_data
                yield Member(member.name, read, start, member.size)
            else:
                skipped.add(_kind(member), member.name)
    except DAMAGE as error:
        if isinstance(error, Unusable):
            raise
        # All zeros behind the last byte are missing where somebody stripped them; a
        # file that was cut short ends elsewhere.
        if file.seek(0, 2) != end:
            raise Unusable("truncated tar", str(error)) from error
        noted[NO_END_MARK] += 1
    else:
        _check_end(tar, file, noted)


def _end_of_data(member: tarfile.TarInfo) -> int:
    return member.offset_data + member.size


def _check_end(
    tar: tarfile.TarFile, file: IO[bytes], noted: Counter[str]
) -> None:
    """Whether a tar ends where reading stopped: tarfile takes a damaged header for the
    end; a complete tar ends in zeros."""
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(tarfile.NUL):
        raise Unusable(
            "truncated tar", f"damaged header at byte {tar.offset:,}"
        )
    if not block:
        noted[NO_END_MARK] += 1


def _next_archive(file: IO[bytes], start: int) -> int | None:
    """Where the next tar begins behind the zeros of an end mark; None without one."""
    file.seek(start)
    while chunk := file.read(SCAN):
        if rest := chunk.lstrip(tarfile.NUL):
            blocks = (len(chunk) - len(rest)) // tarfile.BLOCKSIZE
            return start + blocks * tarfile.BLOCKSIZE
        start += len(chunk)
    return None


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym():
        return "symbolic link"
    if member.islnk():
        return "hard link"
    return "folder" if member.isdir() else "special file"


def _read_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo
) -> bytes | Unusable:
    if member.size > verify.MAX_BYTES:
        return Unusable(
            "file too large",
            f"{member.name} has {member.size:,} bytes; the limit is"
            f" {verify.MAX_BYTES:,}",
        )
    try:
        file = tar.extractfile(member)
        return file.read() if file else b""
    except DAMAGE as error:
        detail = f"{member.name} of {member.size:,} bytes: {error}"
        raise Unusable("truncated tar", detail) from error
