"""Trains the runs of a plan as separate processes, several at a time, those that others
start from first.

Whatever happens to one run, the others continue. Ctrl-C (or SIGTERM) stops all of them
with a checkpoint, and a second call resumes them. A run whose gradient stays non-finite
has diverged: that is its result, and it is not tried again.
"""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from mm1 import config as configs
from mm1 import dist
from mm1.files import append_jsonl, write_json
from mm1.launch.here import python_environment
from mm1.runs.description import finished
from mm1.study.executors import POLL_SECONDS, Executor, RunCommand, RunProcess
from mm1.study.plan import ATTEMPTS, DIVERGED_CODE, StudyPlan, diverged

RunState = Literal["waiting", "finished", "diverged", "failed", "not run"]
"""A run is `not run` if one that it starts from has diverged or failed."""


@dataclass(frozen=True, slots=True)
class _Child:
    process: RunProcess
    started: float


class Runner:
    """The state of every run of a plan while they are trained."""

    def __init__(self, plan: StudyPlan, executor: Executor) -> None:
        self.plan = plan
        self.executor = executor
        self.jobs = executor.jobs or len(plan.runs)
        self.states: dict[str, RunState] = {
            folder: _known(folder) for folder in plan.runs
        }
        self.children: dict[str, _Child] = {}
        self.took: dict[str, float] = {}
        """Seconds for each run that ended in this call."""
        quiet = not sys.stderr.isatty() or dist.is_quiet()
        self.bar = Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            disable=quiet,
        )

    def run(self) -> dict[str, RunState]:
        """Trains all runs and returns the final state of each.

        Raises:
            UserError: an earlier call is still training one of the runs.
            KeyboardInterrupt: on SIGINT or SIGTERM, after the runs have been stopped.
        """
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        task = self.bar.add_task("", total=len(self.states))
        try:
            with self.bar:
                while self._start():
                    done = sum(
                        state != "waiting" for state in self.states.values()
                    )
                    self.bar.update(
                        task, completed=done, description=self._left()
                    )
                    time.sleep(POLL_SECONDS)
                    self._collect()
        finally:
            self._stop()
            signal.signal(signal.SIGTERM, before)
        return self.states

    def _start(self) -> bool:
        """Starts what can be started; returns False when no run is left in progress."""
        for folder, state in self.states.items():
            if state != "waiting" or folder in self.children:
                continue
            origins = [
                self.states[origin] for origin in self.plan.origins(folder)
            ]
            if any(state not in ("waiting", "finished") for state in origins):
                self.states[folder] = "not run"
            elif "waiting" not in origins and len(self.children) < self.jobs:
                self.children[folder] = self._child(Path(folder))
        return bool(self.children)

    def _child(self, folder: Path) -> _Child:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder.with_suffix(".json")
        write_json(config, configs.to_json(self.plan.runs[str(folder)]))
        argv = (
            *self.executor.argv(config, folder),
            *(f"--trust={module}" for module in configs.TRUSTED[1:]),
        )
        environment = self.executor.environment | python_environment()
        command = RunCommand(argv, folder, environment)
        return _Child(self.executor.start(command), time.monotonic())

    def _collect(self) -> None:
        for folder, child in list(self.children.items()):
            code = child.process.poll()
            if code is not None:
                del self.children[folder]
                seconds = time.monotonic() - child.started
                _log_attempt(folder, seconds, code)
                self.states[folder] = _ended(folder, code)
                self.took[folder] = seconds
                self._say(folder, seconds)

    def _say(self, folder: str, seconds: float) -> None:
        done = sum(state != "waiting" for state in self.states.values())
        words = (
            f"{done} of {len(self.states)} runs: {Path(folder).name}"
            f" {self.states[folder]} after {seconds:.0f} s"
        )
        if self.states[folder] == "failed":
            last = _last_line(Path(folder) / "log.txt")
            words += f"; {folder}/log.txt ends with: {last}"
        self.bar.console.print(
            f"{words}{self._left()}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _left(self) -> str:
        """The time left, estimated from finished runs of the same stage."""
        waiting = [
            folder
            for folder, state in self.states.items()
            if state == "waiting"
        ]
        if not self.took or not waiting:
            return ""
        by_stage: dict[str, list[float]] = {}
        for folder, seconds in self.took.items():
            by_stage.setdefault(self.plan.stages[folder], []).append(seconds)
        overall = sum(self.took.values()) / len(self.took)
        means = {
            stage: sum(each) / len(each) for stage, each in by_stage.items()
        }
        total = sum(
            means.get(self.plan.stages[folder], overall) for folder in waiting
        )
        now = time.monotonic()
        spent = sum(now - child.started for child in self.children.values())
        return (
            f"; about {max(0.0, total - spent) / 60 / self.jobs:.0f} min left"
        )

    def _stop(self) -> None:
        """Asks every run to stop and waits until each has saved a checkpoint."""
        for child in self.children.values():
            child.process.terminate()
        try:
            for folder, child in self.children.items():
                code = child.process.wait()
                _log_attempt(folder, time.monotonic() - child.started, code)
        except KeyboardInterrupt:
            for child in self.children.values():
                child.process.kill()
            raise


def _known(folder: str) -> RunState:
    if finished(Path(folder)):
        return "finished"
    return "diverged" if diverged(folder) else "waiting"


def _ended(folder: str, code: int) -> RunState:
    if code == DIVERGED_CODE:
        return "diverged"
    return "finished" if code == 0 and finished(Path(folder)) else "failed"


def _log_attempt(folder: str, seconds: float, code: int) -> None:
    record = {"seconds": round(seconds, 1), "code": code}
    append_jsonl(Path(folder) / ATTEMPTS, record)


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n")
    return next(
        (line.strip() for line in reversed(lines) if line.strip()), "nothing"
    )
