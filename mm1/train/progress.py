"""The live display of a long operation: a bar on a terminal, a line now and then
elsewhere."""

import sys
import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mm1 import dist

QUIET_SECONDS = 15.0
"""Time between two lines where there is no terminal."""


class Display:
    """Stage, step, loss, tokens/s and the time that is left; rank 0 alone shows it."""

    def __init__(self, stage: str, step: int, steps: int) -> None:
        self.stage = stage
        self.first = step
        self.steps = steps
        self.live = sys.stderr.isatty() and dist.rank() == 0
        self.started = self.spoke = time.monotonic()
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __enter__(self) -> "Display":
        if self.live:
            from rich.console import Console

            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[words]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(
                self.stage, total=self.steps, completed=self.first, words=""
            )
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def show(
        self, step: int, learnt: dict[str, float], costs: dict[str, float]
    ) -> None:
        words = f"loss {learnt.get('loss', float('nan')):.3f}"
        if costs["tokens_per_second"]:
            words += f"  {costs['tokens_per_second']:,.0f} tokens/s"
        if costs["images_per_second"]:
            words += f"  {costs['images_per_second']:,.0f} images/s"
        now = time.monotonic()
        if self.bar:
            self.bar.update(self.task, completed=step, words=words)
        elif now - self.spoke > QUIET_SECONDS or step == self.steps:
            self.spoke = now
            left = (
                (now - self.started) / max(1, step - self.first) * (self.steps - step)
            )
            dist.say(
                f"{self.stage}  step {step}/{self.steps}  {words}  {left:.0f} s left"
            )
