"""Where the runs of a study are trained: on this machine, as Slurm jobs, or on Ray.

On a cluster, the study's folder and this Python must lie on a file system that all
machines share, under the same paths. Slurm jobs go through submitit: a job that nears
its time limit, or is preempted, saves a checkpoint and is queued again. They outlive
this process: a second call finds the jobs that are still queued and waits for them. Ray
tasks end with this process. A run over several nodes is a job of `mm1.launch`.

`launcher` replaces this Python at the start of a command: it is followed by `-m mm1.cli
train ...`, must wait for the run to end, and must exit with its exit code.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mm1.config import UserError
from mm1.dist import LAUNCHER_PID
from mm1.ray_jobs import RayJob, RayJobs

POLL_SECONDS = 0.2
MAX_TIMEOUTS = 1000
"""How often a job may reach its time limit and be queued again."""
JOB_FILE = "job.txt"
"""In a run's folder: the number of the Slurm job that trains it."""


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

    def checkpoint(self) -> Any:
        """Called by submitit, in a signal handler, before it queues the job again."""
        from submitit.helpers import DelayedSubmission  # type: ignore[import-not-found]

        if self.process is not None:
            self.process.terminate()
            # Not `Popen.wait`: it waits for a lock that the interrupted call holds.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        again = RunCommand(self.argv, self.folder, self.environment)
        return DelayedSubmission(again)


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
        raise NotImplementedError


class LocalExecutor(Executor):
    """Processes on this machine, which share its cores evenly.

    `jobs` defaults to one for each core.
    """

    def __init__(
        self, jobs: int | None = None, launcher: Sequence[str] = ()
    ) -> None:
        cores = len(os.sched_getaffinity(0))
        super().__init__(jobs or cores, launcher)
        self.environment[LAUNCHER_PID] = str(os.getpid())
        if not launcher:
            self.environment["OMP_NUM_THREADS"] = str(
                max(1, cores // (jobs or cores))
            )

    def start(self, command: RunCommand) -> RunProcess:
        return command.start()


class LaunchExecutor(LocalExecutor):
    """Jobs of `mm1 launch`, here or on a cluster, each on any number of nodes.

    `jobs` defaults to one.
    """

    def __init__(self, options: Sequence[str], jobs: int | None = None) -> None:
        """`options` are those of `mm1 launch`."""
        super().__init__(jobs or 1)
        self.options = tuple(options)

    def argv(self, config: Path, folder: Path) -> tuple[str, ...]:
        words = ("-m", "mm1.cli", "launch", str(config), "--out", str(folder))
        return (*self.launcher, *words, "--wait", *self.options)


class SlurmExecutor(Executor):
    """Slurm jobs, through submitit."""

    def __init__(
        self,
        folder: Path,
        jobs: int | None = None,
        launcher: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        """`folder` holds submitit's own files; `parameters` are for its `AutoExecutor`.

        A `cluster` of "local" imitates Slurm on this machine.

        Raises:
            UserError: submitit is not installed, there is no Slurm, or a parameter is
                unknown.
        """
        try:
            import submitit  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError(
                "--on slurm needs submitit: pip install 'mm1[slurm]'"
            ) from error
        super().__init__(jobs, launcher)
        parameters = parameters or {}
        if any(
            parameters.get(name, 1) != 1 for name in ("nodes", "tasks_per_node")
        ):
            raise UserError(
                "--on slurm: a job is one task on one node; for runs over several nodes"
                ' leave --on out, and give --launch "--on slurm --nodes N ..."'
            )
        try:
            self.executor = submitit.AutoExecutor(
                folder,
                cluster=cluster,
                **{f"{cluster}_max_num_timeout": MAX_TIMEOUTS},
            )
            self.executor.update_parameters(**parameters)
        except (
            RuntimeError,
            AssertionError,
            NameError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(f"--on slurm: {error}") from error

    def start(self, command: RunCommand) -> RunProcess:
        job_file = command.folder / JOB_FILE
        job_class: Any = self.executor.job_class
        if job_file.is_file():
            earlier = job_class(self.executor.folder, job_file.read_text())
            if not earlier.done():
                return _SlurmRun(earlier, command)
        self.executor.update_parameters(name=command.folder.name)
        job = self.executor.submit(command)
        job_file.write_text(job.job_id)
        return _SlurmRun(job, command)


class _SlurmRun:
    """A run that is a job of submitit."""

    def __init__(self, job: Any, command: RunCommand) -> None:
        self.job = job
        self.command = command

    def poll(self) -> int | None:
        return self._code() if self.job.done() else None

    def terminate(self) -> None:
        self.job.cancel(check=False)

    kill = terminate

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def _code(self) -> int:
        error = self.job.exception()
        return (
            self.job.result() if error is None else _failed(self.command, error)
        )


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
