"""How far a preparation is: a live line on a terminal, a plain one now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mm1.dist import say

QUIET_SECONDS = 15.0
"""Time between two lines where there is no terminal."""


class Display:
    """The files and records of one preparation."""

    def __init__(self, num_files: int) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("prepare"),
            MofNCompleteColumn(),
            TextColumn("files  {task.description}"),
        )
        self.bar = Progress(
            *columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True
        )
        self.task = self.bar.add_task("", total=num_files)
        self.spoke = time.monotonic()

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, number: int, name: str, records: int, dropped: int) -> None:
        """File `number` is being read: `records` so far."""
        words = f"{name}  {records:,} records, {dropped:,} dropped"
        if not self.bar.disable:
            self.bar.update(self.task, completed=number, description=words)
        elif time.monotonic() - self.spoke > QUIET_SECONDS:
            self.spoke = time.monotonic()
            say(f"prepare: file {number + 1}  {words}")
