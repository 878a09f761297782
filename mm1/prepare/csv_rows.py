"""Rows of CSV and TSV, read so that a damaged one costs its own line and no other.

A quoted field may extend over lines, so a quote that is never closed would swallow the
rows below it. Two things show it: behind the next quote comes something other than a
separator or a line's end, or the row has another number of fields than the header. Then
the first line alone is the damage, and reading goes on at the second.
"""

import csv
from collections import deque
from collections.abc import Iterator

from mm1.prepare import verify
from mm1.prepare.sources import Unusable

MAX_ROW = 1 << 22
"""Characters below its first line that a row may extend over: a quote that is not
closed within them is damage."""

Line = str | Unusable
Row = list[str] | Unusable


class CsvRows:
    """Iterates over (line number, row); blank lines are skipped.

    A field without line breaks may hold quotes of its own: `"He said "hi" to me"` is
    read as pandas reads it.
    """

    def __init__(
        self, lines: Iterator[Line], separator: str, num_fields: int, start: int
    ) -> None:
        """`start`: the number of the first line."""
        self.source = lines
        self.separator = separator
        self.num_fields = num_fields
        self.number = start
        self.waiting: deque[Line] = deque()
        """Lines that were read as part of a row and are not."""

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        csv.field_size_limit(verify.MAX_LINE + MAX_ROW)
        while (first := self._next_line()) is not None:
            number = self.number
            self.number += 1
            if isinstance(first, Unusable):
                yield number, first
            elif first.strip("\r\n"):
                yield number, self._row(first)

    def _next_line(self) -> Line | None:
        return (
            self.waiting.popleft() if self.waiting else next(self.source, None)
        )

    def _row(self, first: str) -> Row:
        """The row that begins with a line; its further lines are consumed."""
        further: list[str] = []
        rows = csv.reader(
            self._lines(first, further), delimiter=self.separator, strict=True
        )
        try:
            row = next(rows)
            why = ""
        except csv.Error as error:
            row = []
            why = str(error)
        if not why and (not further or len(row) == self.num_fields):
            self.number += len(further)
            return row
        self.waiting.extendleft(reversed(further))
        return self._row_of_one_line(first, why)

    def _lines(self, first: str, further: list[str]) -> Iterator[str]:
        """A line and those below it, which are noted in `further`."""
        yield first
        size = 0
        while size <= MAX_ROW and (line := self._next_line()) is not None:
            if isinstance(line, Unusable):
                self.waiting.appendleft(line)
                return
            further.append(line)
            size += len(line)
            yield line

    def _row_of_one_line(self, line: str, why: str) -> Row:
        if line.count('"') % 2:
            why = "a quote is not closed" + (f" ({why})" if why else "")
            return Unusable("broken CSV row", why)
        try:
            return next(csv.reader([line], delimiter=self.separator))
        except csv.Error as error:
            return Unusable("broken CSV row", str(error))
