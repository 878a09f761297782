"""How far a preparation is: a live line on a terminal, a plain one now and then
elsewhere."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mm1.dist import say

QUIET_SECONDS = 15.0
"""Time between two lines where there is no terminal."""

LIVE_SECONDS = 0.1


class Display:
    """The files and records of one pass over them; time is told by bytes.

    How far a file is read is not known before its end: it is taken from its records and
    the bytes of a record so far.
    """

    def __init__(
        self, what: str, sizes: Sequence[int], done: Sequence[int] = ()
    ) -> None:
        """`sizes`: bytes of each file; `done`: numbers of files that an earlier attempt
        finished."""
        self.what = what
        self.sizes = sizes
        self.open: dict[int, tuple[int, int]] = {}
        self.finished = set(done)
        self.before = sum(sizes[number] for number in done)
        self.records = self.dropped = 0
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            TextColumn("{task.description}"),
        )
        self.bar = Progress(
            *columns, console=console, disable=not sys.stderr.isatty(), transient=True
        )
        self.task = self.bar.add_task("", total=max(1, sum(sizes)), what=what)
        self.started = self.spoke = time.monotonic()

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, number: int, records: int, dropped: int) -> None:
        """File `number` is being read: `records` so far."""
        self.open[number] = (records, dropped)
        self._speak()

    def finish(self, number: int, records: int, dropped: int) -> None:
        self.open.pop(number, None)
        self.finished.add(number)
        self.records = self.records + records
        self.dropped = self.dropped + dropped
        self._speak()

    def _speak(self) -> None:
        if time.monotonic() - self.spoke < (
            QUIET_SECONDS if self.bar.disable else LIVE_SECONDS
        ):
            return
        self.spoke = time.monotonic()
        if not self.bar.disable:
            self.bar.update(
                self.task,
                completed=self.before + self._bytes_read(),
                description=self.words(),
            )
        else:
            say(f"{self.what}: {self.words()}")

    def _bytes_read(self) -> float:
        whole = float(sum(self.sizes[number] for number in self.finished) - self.before)
        a_record = whole / self.records if self.records else 0.0
        return whole + sum(
            min(records * a_record, self.sizes[number])
            for number, (records, _) in self.open.items()
        )

    def words(self) -> str:
        """Files, records, rate and, from the first finished file on, the time that is
        left."""
        passed = max(time.monotonic() - self.started, 1e-9)
        records = self.records + sum(records for records, _ in self.open.values())
        dropped = self.dropped + sum(dropped for _, dropped in self.open.values())
        read = self._bytes_read()
        left = ""
        if read:
            seconds = int(passed * (sum(self.sizes) - self.before - read) / read)
            left = f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
        of = f"{len(self.finished)}/{len(self.sizes)} files"
        return (
            f"{of}, {records:,} records, {dropped:,} dropped,"
            f" {records / passed:,.0f}/s{left}"
        )
