"""Where the runs of a study are trained: on this machine, as jobs of Slurm, or on a Ray
cluster.

Elsewhere than here the study's folder must lie on a file system that all machines
share, under the same path, and so must this Python. Slurm's jobs are submitit's: one
that nears its time limit, or is preempted, saves a checkpoint and is queued again. They
outlive us: a second call finds those that it queued before and waits for them. Ray's
tasks end with us.

`launcher` is what starts a process in place of this Python: it is followed by `-m
mm1.cli train ...`, must wait for the run to end, and must end with its exit code.
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

POLL_SECONDS = 0.2
TIMEOUTS = 1000
"""How often a job may reach its time limit and be queued again."""
JOB = "job.txt"
"""In a run's folder: the number of the Slurm job that trains it."""


@runtime_checkable
class Job(Protocol):
    """A run that was started; `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """Its exit code; None: it has not ended."""
        ...

    def terminate(self) -> None:
        """Asks it to save a checkpoint and end."""
        ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


@dataclass(slots=True)
class Work:
    """The command of one run, which writes `log.txt` in its folder."""

    command: tuple[str, ...]
    folder: Path
    environment: dict[str, str]
    """What is added to that of the machine."""
    process: subprocess.Popen | None = field(default=None, init=False)

    def start(self) -> subprocess.Popen:
        """Raises UserError where the run is being trained already."""
        with (self.folder / "log.txt").open("a") as log:
            # The child holds it as long as it lives: should we be killed, the next call
            # does not start it twice.
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.folder} is being trained by an earlier call; wait for it,"
                    " or end it"
                ) from None
            # In a session of its own: a terminal's Ctrl-C reaches us alone, and we stop
            # the runs one by one.
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            environment = os.environ | self.environment
            return subprocess.Popen(
                self.command, **streams, env=environment, start_new_session=True
            )

    def __call__(self) -> int:
        """On another machine: starts it and waits; its exit code. Interrupted, it waits
        for the checkpoint."""
        while True:
            try:
                if self.process is None:
                    with (
                        _interrupts_later()
                    ):  # else one before the assignment loses the process
                        self.process = self.start()
                while (
                    code := self.process.poll()
                ) is None:  # Ray's interrupt does not wake one who waits
                    time.sleep(POLL_SECONDS)
                return code
            except KeyboardInterrupt:
                if self.process is None:
                    raise
                self.process.terminate()

    def checkpoint(self) -> Any:
        """What submitit calls, in a signal's handler, before it queues the job
        again."""
        from submitit.helpers import DelayedSubmission  # type: ignore[import-not-found]

        if self.process is not None:
            self.process.terminate()
            with suppress(
                ChildProcessError
            ):  # `Popen.wait` would wait for a lock that the interrupted call holds
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Work(self.command, self.folder, self.environment))


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """An interrupt that comes within is raised at the end."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


class Place:
    """Somewhere that takes work."""

    def __init__(self, jobs: int | None = None, launcher: Sequence[str] = ()) -> None:
        """`jobs` is how many runs are trained at a time; None: all that can be
        started."""
        self.jobs = jobs
        self.launcher = tuple(launcher) or (sys.executable,)
        self.environment: dict[str, str] = {}

    def start(self, work: Work) -> Job:
        raise NotImplementedError


class Here(Place):
    """Processes of this machine; its threads are shared out among them, and `jobs` is
    by default one for each core."""

    def __init__(self, jobs: int | None = None, launcher: Sequence[str] = ()) -> None:
        cores = len(os.sched_getaffinity(0))
        super().__init__(jobs or cores, launcher)
        if not launcher:
            self.environment["OMP_NUM_THREADS"] = str(max(1, cores // (jobs or cores)))

    def start(self, work: Work) -> Job:
        return work.start()


class OnSlurm(Place):
    """Jobs of Slurm, through submitit; `asked` are parameters of its `AutoExecutor`."""

    def __init__(
        self,
        folder: Path,
        jobs: int | None = None,
        launcher: Sequence[str] = (),
        asked: Mapping[str, Any] | None = None,
        cluster: str = "slurm",
    ) -> None:
        """`folder` is for submitit's own files; a `cluster` "local" plays Slurm on this
        machine.

        Raises:
            UserError: submitit is not installed, there is no Slurm, or it knows no such
                parameter.
        """
        try:
            import submitit  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError(
                "--on slurm needs submitit: pip install 'mm1[slurm]'"
            ) from error
        super().__init__(jobs, launcher)
        if any((asked or {}).get(name, 1) != 1 for name in ("nodes", "tasks_per_node")):
            raise UserError(
                "--on slurm: a job is one task on one node; for runs over several nodes"
                ' leave --on out, and give --launcher "srun --nodes N ... torchrun'
                ' --nnodes N ..."'
            )
        try:
            self.executor = submitit.AutoExecutor(
                folder, cluster=cluster, **{f"{cluster}_max_num_timeout": TIMEOUTS}
            )
            self.executor.update_parameters(**asked or {})
        except (
            RuntimeError,
            AssertionError,
            NameError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(f"--on slurm: {error}") from error

    def start(self, work: Work) -> Job:
        note = work.folder / JOB
        kind: Any = self.executor.job_class
        if (
            note.is_file()
            and not (earlier := kind(self.executor.folder, note.read_text())).done()
        ):
            return _Queued(earlier, work)
        self.executor.update_parameters(name=work.folder.name)
        job = self.executor.submit(work)
        note.write_text(job.job_id)
        return _Queued(job, work)


class _Queued:
    """A job of submitit's."""

    def __init__(self, job: Any, work: Work) -> None:
        self.job = job
        self.work = work

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
        return self.job.result() if error is None else _failed(self.work, error)


class OnRay(Place):
    """Tasks on the cluster of `RAY_ADDRESS`, or on one made here; `asked` are options
    of a Ray task."""

    def __init__(
        self,
        jobs: int | None = None,
        launcher: Sequence[str] = (),
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises UserError where Ray is not installed or does not start, or knows no
        such option."""
        try:
            import ray  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError("--on ray needs Ray: pip install 'mm1[ray]'") from error
        super().__init__(jobs, launcher)
        self.ray = ray
        try:
            if not ray.is_initialized():
                ray.init(
                    log_to_driver=False,
                    include_dashboard=False,
                    logging_level="warning",
                )
            self.task = ray.remote(_train).options(max_retries=0, **asked or {})
        except (
            Exception
        ) as error:  # Ray raises bare Exceptions, a late raylet's among them
            raise UserError(f"--on ray: {error}") from error

    def start(self, work: Work) -> Job:
        return _Task(self.ray, self.task.remote(work), work)


def _train(work: Work) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return work()


class _Task:
    """A task of Ray's."""

    def __init__(self, ray: Any, reference: Any, work: Work) -> None:
        self.ray = ray
        self.reference = reference
        self.work = work

    def poll(self) -> int | None:
        return self.wait() if self.ray.wait([self.reference], timeout=0)[0] else None

    def terminate(self) -> None:
        self.ray.cancel(self.reference)

    def kill(self) -> None:
        self.ray.cancel(self.reference, force=True)

    def wait(self) -> int:
        try:
            return self.ray.get(self.reference)
        except self.ray.exceptions.RayError as error:
            return _failed(self.work, error)


def _failed(work: Work, error: BaseException) -> int:
    """The run's process did not end by itself; its log says why."""
    with (work.folder / "log.txt").open("a") as log:
        log.write(f"{error}\n")
    return 1
