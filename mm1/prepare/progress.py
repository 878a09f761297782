"""Progress of one pass over files, in bytes."""

import time
from collections.abc import Sequence

from mm1.progress import ProgressBar


class Display:
    """Files, records and drops of one pass.

    How far a file is read is not known before its end: it is estimated from its records
    and the bytes of a record so far.
    """

    def __init__(
        self,
        description: str,
        sizes: Sequence[int],
        done: Sequence[int] = (),
        unit: str = "files",
    ) -> None:
        """`sizes`: bytes of each file; `done`: numbers of the files that an earlier
        attempt finished. `unit` is their name, where they are others than files."""
        self.unit = unit
        self.sizes = sizes
        self.open: dict[int, tuple[int, int]] = {}
        self.finished = set(done)
        self.before = sum(sizes[number] for number in done)
        self.records = 0
        self.dropped = 0
        self.started = time.monotonic()
        self.bar = ProgressBar(description, sum(sizes), completed=self.before)

    def __enter__(self) -> "Display":
        self.bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.__exit__()

    def show(self, number: int, records: int, dropped: int) -> None:
        """File `number` is being read: `records` so far."""
        self.open[number] = (records, dropped)
        self._show()

    def finish(self, number: int, records: int, dropped: int) -> None:
        self.open.pop(number, None)
        self.finished.add(number)
        self.records = self.records + records
        self.dropped = self.dropped + dropped
        self._show()

    def _show(self) -> None:
        if self.bar.is_due:
            self.bar.update(self.before + self.bytes_read(), self.details())

    def bytes_read(self) -> float:
        """Of this attempt: of the finished files, and what is estimated of the others,
        nothing before the first file is finished."""
        whole = float(
            sum(self.sizes[number] for number in self.finished) - self.before
        )
        bytes_per_record = whole / self.records if self.records else 0.0
        return whole + sum(
            min(records * bytes_per_record, self.sizes[number])
            for number, (records, _) in self.open.items()
        )

    def details(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        records = self.records + sum(
            records for records, _ in self.open.values()
        )
        dropped = self.dropped + sum(
            dropped for _, dropped in self.open.values()
        )
        finished = f"{len(self.finished)}/{len(self.sizes)} {self.unit}"
        if not records:
            return finished
        return (
            f"{finished}, {records:,} records, {dropped:,} dropped,"
            f" {records / seconds:,.0f}/s"
        )
