"""Where the runs of a study are trained: on this machine, as jobs of `mm1 launch` or
as tasks of Ray.

On a cluster, the study's folder and this Python must lie on a file system that all
machines share, under the same paths. Jobs of Slurm outlive this process: a second call
finds those that are still queued and waits for them. Ray tasks end with this process.

`launcher` replaces this Python at the start of a command: it is followed by `-m mm1.cli
train ...`, must wait for the run to end, and must exit with its exit code.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mm1.config import UserError
from mm1.dist import LAUNCHER_PID
from mm1.ray_jobs import RayJob, RayJobs

POLL_SECONDS = 0.2


@runtime_checkable
class RunProcess(Protocol):
    """A run that was started; `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """Returns its exit code, or None while it runs."""
        ...

    def terminate(self) -> None:
        """Asks it to save a checkpoint and exit."""
        ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


@dataclass(slots=True)
class RunCommand:
    """The command of one run, which writes `log.txt` into its folder."""

    argv: tuple[str, ...]
    folder: Path
    environment: dict[str, str]
    """Added to the machine's own."""
    process: subprocess.Popen | None = field(default=None, init=False)

    def start(self) -> subprocess.Popen:
        """Raises UserError if an earlier call is still training the run."""
        with (self.folder / "log.txt").open("a") as log:
            # The child inherits the lock and holds it as long as it lives: if this
            # process is killed, the next call does not start the run twice.
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.folder} is being trained by an earlier call; wait for it,"
                    " or stop it"
                ) from None
            streams = {
                "stdin": subprocess.DEVNULL,
                "stdout": log,
                "stderr": log,
            }
            environment = os.environ | self.environment
            # In a session of its own: Ctrl-C in a terminal reaches this process alone,
            # which then stops the runs one by one.
            return subprocess.Popen(
                self.argv, **streams, env=environment, start_new_session=True
            )

    def __call__(self) -> int:
        """Runs it on the machine of a job, and returns its exit code.

        When interrupted, asks the run to stop and waits for its checkpoint.
        """
        while True:
            try:
                if self.process is None:
                    # An interrupt before the assignment would lose the process.
                    with _interrupts_deferred():
                        self.process = self.start()
                # Polled, because Ray's interrupt does not wake a process that waits.
                while (code := self.process.poll()) is None:
                    time.sleep(POLL_SECONDS)
                return code
            except KeyboardInterrupt:
                if self.process is None:
                    raise
                self.process.terminate()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Raises KeyboardInterrupt at the end if SIGINT arrived within."""
    received: list[int] = []
    before = signal.signal(
        signal.SIGINT, lambda number, _: received.append(number)
    )
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


class Executor:
    """Starts the commands of runs."""

    def __init__(
        self, jobs: int | None = None, launcher: Sequence[str] = ()
    ) -> None:
        """`jobs` is the number of runs at a time; None: as many as can be started."""
        self.jobs = jobs
        self.launcher = tuple(launcher) or (sys.executable,)
        self.environment: dict[str, str] = {}

    def argv(self, config: Path, folder: Path) -> tuple[str, ...]:
        """The command that trains a run, or goes on with it."""
        words = ("-m", "mm1.cli", "train", str(config), "--out", str(folder))
        return (*self.launcher, *words, "--resume")

    def start(self, command: RunCommand) -> RunProcess:
        """A process of this machine, which trains the run or waits for its job."""
        return command.start()


class LocalExecutor(Executor):
    """Processes on this machine, which share its cores evenly.

    `jobs` defaults to one for each core.
    """

    def __init__(
        self, jobs: int | None = None, launcher: Sequence[str] = ()
    ) -> None:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")  # not on macOS
            else os.cpu_count() or 1
        )
        super().__init__(jobs or cores, launcher)
        self.environment[LAUNCHER_PID] = str(os.getpid())
        if not launcher:
            self.environment["OMP_NUM_THREADS"] = str(
                max(1, cores // (jobs or cores))
            )


class LaunchExecutor(Executor):
    """Jobs of `mm1 launch`, each on any number of nodes.

    `jobs` defaults to one on this machine; on a cluster, whose scheduler decides, to
    all.
    """

    def __init__(self, options: Sequence[str], jobs: int | None = None) -> None:
        """`options` are those of `mm1 launch`."""
        parser = ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--on", default="here")
        is_here = parser.parse_known_args(options)[0].on == "here"
        super().__init__(jobs or (1 if is_here else None))
        self.options = tuple(options)

    def argv(self, config: Path, folder: Path) -> tuple[str, ...]:
        words = ("-m", "mm1.cli", "launch", str(config), "--out", str(folder))
        return (*self.launcher, *words, "--wait", *self.options)


class RayExecutor(Executor):
    """Tasks on the Ray cluster of `RAY_ADDRESS`, or on one that is started here."""

    def __init__(
        self,
        jobs: int | None = None,
        launcher: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`options` are those of a Ray task.

        Raises:
            UserError: Ray is not installed or does not start, or an option is unknown.
        """
        super().__init__(jobs, launcher)
        self.ray = RayJobs(_train, max_retries=0, options=options)

    def start(self, command: RunCommand) -> RunProcess:
        return _RayRun(self.ray, self.ray.submit(command), command)


def _train(command: RunCommand) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return command()


class _RayRun:
    """A run that is a Ray task."""

    def __init__(self, ray: RayJobs, job: RayJob, command: RunCommand) -> None:
        self.ray = ray
        self.job = job
        self.command = command

    def poll(self) -> int | None:
        return self.wait() if self.job.done() else None

    def terminate(self) -> None:
        self.job.cancel()

    def kill(self) -> None:
        self.job.cancel(force=True)

    def wait(self) -> int:
        try:
            return self.job.result()
        except self.ray.ray.exceptions.RayError as error:
            return _failed(self.command, error)


def _failed(command: RunCommand, error: BaseException) -> int:
    """Logs why the run's process did not exit by itself, and returns exit code 1."""
    with (command.folder / "log.txt").open("a") as log:
        log.write(f"{error}\n")
    return 1
