"""The metrics of a run as files, and in its trackers (`mm1.runs.trackers`).

metrics.jsonl   losses, norms, learning rates, data seen: reproducible to the byte
speed.jsonl     tokens and images per second, data loading, memory, MFU
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1 import dist
from mm1.files import append_jsonl, read_jsonl, write_jsonl
from mm1.runs.layout import METRICS, SPEED
from mm1.runs.trackers import Tracker, open_trackers
from mm1.runs.working_folder import put_working_files, start_working_folder


class MetricsLog:
    """Writes metrics, on rank 0 alone."""

    def __init__(
        self,
        run: Path,
        config: Any,
        *,
        resume_step: int,
        num_lines: int | None = None,
    ) -> None:
        """Drops lines after `resume_step`, whose steps will be done again. Says where
        metrics.jsonl has fewer lines than `num_lines`, as a checkpoint noted it."""
        self.run = run
        self.folder = start_working_folder(run)
        self.unwritten: dict[str, list[Any]] = {METRICS: [], SPEED: []}
        """Lines that the disk was too full for, by file."""
        self.trackers: Sequence[Tracker] = ()
        self.num_lines = 0
        """In metrics.jsonl."""
        if dist.rank() != 0:
            return
        for name in (METRICS, SPEED):
            lines = read_jsonl(run / name)
            if lines:
                lines = [x for x in lines if x["step"] <= resume_step]
                write_jsonl(self.folder / name, lines)
            if name == METRICS:
                self.num_lines = len(lines)
        self.trackers = open_trackers(config.trackers, run, config, resume_step)
        if num_lines is not None and self.num_lines < num_lines:
            dist.say(
                f"{run / METRICS} has {self.num_lines} lines up to step {resume_step};"
                f" when the checkpoint was saved there were {num_lines}: the others are"
                " lost to reports, training is not affected"
            )

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(METRICS, step, metrics)
        self.num_lines = self.num_lines + 1

    def write_speed(self, step: int, speed: Mapping[str, float]) -> None:
        self._write(SPEED, step, speed)

    def flush(self) -> None:
        """Writes the lines that could not be written before; raises OSError where they
        still cannot."""
        for name, lines in self.unwritten.items():
            if lines:
                append_jsonl(self.folder / name, *lines)
                lines.clear()

    def finish(self) -> None:
        """Has every line where reports read it.

        Raises:
            OSError: some cannot be written.
            StorageError: the run is at an object store, which does not take them.
        """
        self.flush()
        put_working_files(self.run)

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
