"""Lines of text files, of which none is ever held in memory beyond a limit."""

from collections.abc import Iterator
from io import BufferedReader, TextIOWrapper
from typing import Any

from mm1.prepare import verify
from mm1.prepare.sources import Unusable

SKIPPED_AT_ONCE = 1 << 20


def bounded_lines(file: BufferedReader | TextIOWrapper) -> Iterator[Any]:
    """The lines of a file in order, with their ends: bytes or text, as the file is.

    One of more than `verify.MAX_LINE` bytes (characters, where the file is text) is an
    `Unusable` in its place; the rest of it is read in small pieces and thrown away.
    """
    while line := file.readline(verify.MAX_LINE):
        if len(line) < verify.MAX_LINE or _is_complete(line):
            yield line
            continue
        size = len(line)
        while rest := file.readline(SKIPPED_AT_ONCE):
            size += len(rest)
            if _is_complete(rest):
                break
        detail = f"{size:,} characters; the limit is {verify.MAX_LINE:,}"
        yield Unusable("line too long", detail)


def _is_complete(line: bytes | str) -> bool:
    return line[-1:] in (b"\n", "\n", "\r")
