"""Progress of a long operation: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from mm1 import dist

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 15.0
"""Time between two lines where there is no terminal."""


class ProgressBar:
    """One operation, shown on rank 0 alone, with the time that is left.

    with ProgressBar("questions", 200) as bar:
        bar.update(12)             # questions 12/200, 40/s, 0:00:04 left
        bar.update(13, "13 asked") # questions 13 asked, 0:00:04 left
    """

    def __init__(
        self,
        description: str,
        total: int | float,
        *,
        completed: int | float = 0,
        in_bytes: bool = False,
        transient: bool = True,
    ) -> None:
        """`completed` was done by an earlier attempt. A `transient` bar vanishes at the
        end."""
        self.in_bytes = in_bytes
        self.description = description
        self.total = total
        self.initial = completed
        self.completed = completed
        self.is_terminal = sys.stderr.isatty()
        self.started = time.monotonic()
        self.shown = self.started
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            console=Console(stderr=True),
            disable=not self.is_terminal or dist.rank() != 0 or dist.is_quiet(),
            transient=transient,
        )
        self.task = self.bar.add_task(
            description, total=max(total, 1e-9), details=""
        )
        self.bar.update(self.task, completed=completed)

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def is_due(self) -> bool:
        """Is it time to show something again?"""
        seconds = TERMINAL_SECONDS if self.is_terminal else LOG_SECONDS
        return time.monotonic() - self.shown >= seconds

    def update(
        self,
        completed: int | float,
        details: str | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        """`details` take the place of the count and its rate; they are shown when they
        are due, or `at_once`."""
        self.completed = completed
        if not (at_once or self.is_due):
            return
        self.shown = time.monotonic()
        words = details if details is not None else self.count()
        line = f"{words}{self.time_left()}"
        if self.is_terminal:
            self.bar.update(self.task, completed=completed, details=line)
        else:
            dist.say(f"{self.description}  {line}")

    def advance(self, amount: int | float) -> None:
        self.update(self.completed + amount)

    @property
    def rate(self) -> float:
        """Per second, of what this attempt has done."""
        seconds = time.monotonic() - self.started
        return (self.completed - self.initial) / max(seconds, 1e-9)

    def count(self) -> str:
        numbers = (self.completed, self.total, self.rate)
        done, total, rate = (
            decimal(int(number)) if self.in_bytes else f"{number:,.0f}"
            for number in numbers
        )
        return f"{done}/{total}, {rate}/s"

    def time_left(self) -> str:
        """Nothing before the first advance."""
        if self.rate <= 0:
            return ""
        seconds = int((self.total - self.completed) / self.rate)
        return f", {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"


def track_tensors(
    description: str, tensors: Iterable[tuple[str, Tensor]], num_bytes: int
) -> Iterator[tuple[str, Tensor]]:
    """Yields named tensors, of `num_bytes` in all, and shows their progress."""
    with ProgressBar(description, num_bytes, in_bytes=True) as bar:
        for name, tensor in tensors:
            yield name, tensor
            bar.advance(tensor.nbytes)
