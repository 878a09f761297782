"""The metrics of a run as files, and in the trackers that it asks for.

metrics.jsonl   losses, norms, learning rates, data seen: reproducible to the byte
speed.jsonl     tokens and images per second, data loading, memory, MFU
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1 import dist
from mm1.files import append_jsonl, read_jsonl, write_jsonl
from mm1.runs.layout import METRICS, SPEED

Tracker = Callable[[int, Mapping[str, float]], object]
"""Takes a step and its metrics."""


class MetricsLog:
    """Writes metrics, on rank 0 alone."""

    def __init__(
        self, run: Path, *, resume_step: int, trackers: Sequence[str] = ()
    ) -> None:
        """Drops lines after `resume_step`, whose steps will be done again."""
        self.run = run
        self.unwritten: dict[str, list[Any]] = {METRICS: [], SPEED: []}
        """Lines that the disk was too full for, by file."""
        self.trackers: list[Tracker] = []
        if dist.rank() != 0:
            return
        for name in (METRICS, SPEED):
            lines = read_jsonl(run / name)
            if lines:
                kept = (line for line in lines if line["step"] <= resume_step)
                write_jsonl(run / name, kept)
        if "tensorboard" in trackers:
            self.trackers.append(_tensorboard(run))
        if "wandb" in trackers:
            self.trackers.append(_wandb(run))

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(METRICS, step, metrics)

    def write_speed(self, step: int, speed: Mapping[str, float]) -> None:
        self._write(SPEED, step, speed)

    def flush(self) -> None:
        """Writes the lines that could not be written before; raises OSError where they
        still cannot."""
        for name, lines in self.unwritten.items():
            if lines:
                append_jsonl(self.run / name, *lines)
                lines.clear()

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if dist.rank() != 0:
            return
        lines = self.unwritten[name]
        lines.append({"step": step, **values})
        try:
            self.flush()
        except OSError as error:
            if len(lines) == 1:
                dist.say(
                    f"{self.run / name} could not be written ({error.strerror}): its"
                    " lines are kept in memory until they can be"
                )
        for tracker in self.trackers:
            tracker(step, values)


def _tensorboard(run: Path) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run / "tensorboard"))
    return lambda step, values: [
        writer.add_scalar(name, value, step) for name, value in values.items()
    ]


def _wandb(run: Path) -> Tracker:
    import wandb  # type: ignore[import-not-found]

    tracked = wandb.init(
        project="mm1",
        name=str(run),
        dir=str(run),
        resume="allow",
        id=str(run).replace("/", "-"),
    )
    return lambda step, values: tracked.log(values, step=step)
