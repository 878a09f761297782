"""A JSON list in a file, read item by item; damage costs the item that it is in."""

import json
import re
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from mm1.prepare import verify
from mm1.prepare.sources import Record, Unusable

CHUNK = 1 << 20
SEPARATORS = re.compile(r"[\s,]*")
BOUNDARY = re.compile(r",\s{0,99}(?=\{)")
LONGEST_BOUNDARY = 100


def is_json_list(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return _first_character(file) == "["


def read_json_list(path: Path) -> Iterator[Record]:
    """The items of a list, keyed by their index from 0.

    Behind a place that is not JSON, which gives one `Unusable`, reading goes on at the
    next object with a key that objects of the list had before.
    """
    # With surrogates for bad bytes, these spoil only their own record.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        _first_character(file)  # the bracket
        for number, item in enumerate(_Items(file)):
            yield Record(str(number), item)


class _Items:
    """The items behind the bracket of a list."""

    def __init__(self, file: TextIOWrapper) -> None:
        self.file = file
        self.decoder = json.JSONDecoder()
        self.buffer = file.read(CHUNK)
        self.at = 0
        self.keys: set[str] = set()

    def __iter__(self) -> Iterator[Any]:
        while not self._is_at_end():
            try:
                item, self.at = self._decode(self.at)
            except (json.JSONDecodeError, RecursionError) as error:
                if self._wants_more(error, self.at):
                    continue
                is_found = self._find_next()
                more = "the next item" if is_found else "nothing"
                reason = getattr(error, "msg", error)
                yield Unusable(
                    "broken JSON", f"{more} is read from here on: {reason}"
                )
                if not is_found:
                    return
                continue
            if isinstance(item, dict):
                self.keys |= item.keys()
            yield item

    def _is_at_end(self) -> bool:
        separators = SEPARATORS.match(self.buffer, self.at)
        self.at = separators.end() if separators else self.at
        return self.buffer.startswith("]", self.at)

    def _decode(self, place: int) -> tuple[Any, int]:
        return self.decoder.raw_decode(self.buffer, place)

    def _wants_more(self, error: Exception, start: int) -> bool:
        """Whether the buffer ends inside an item; if so, more of the file follows in
        the buffer, which begins at `start` now."""
        size = len(self.buffer) - start
        if size > verify.MAX_LINE or not _is_truncated(error, self.buffer):
            return False
        return self._read_more(start)

    def _read_more(self, start: int) -> bool:
        more = self.file.read(max(CHUNK, len(self.buffer) - start))
        if more:
            self.buffer = self.buffer[start:] + more
            self.at = 0
        return bool(more)

    def _find_next(self) -> bool:
        """Move to the next object of the list; False if there is none."""
        place = self.at + 1
        while True:
            boundary = BOUNDARY.search(self.buffer, place)
            if boundary is None:
                rest = max(place, len(self.buffer) - LONGEST_BOUNDARY)
                if not self._read_more(rest):
                    return False
                place = 0
                continue
            place = boundary.end()
            try:
                item, _ = self._decode(place)
            except (json.JSONDecodeError, RecursionError) as error:
                if self._wants_more(error, boundary.start()):
                    place = 0
                continue
            if not self.keys or self.keys & item.keys():
                self.at = place
                return True


def _first_character(file: TextIOWrapper) -> str:
    """The first character that is not white space."""
    while (character := file.read(1)).isspace():
        pass
    return character


def _is_truncated(error: Exception, buffer: str) -> bool:
    """Whether the buffer ends inside this item, so that more of the file may complete
    it."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    margin = len(r"\ud83d\ude00")
    return (
        error.msg.startswith("Unterminated string")
        or error.pos >= len(buffer) - margin
    )
