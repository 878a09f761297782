"""A pool of processes that work through files; none can die or hang unnoticed.

The parent sends each process one job at a time over a pipe of its own, so that it knows
which file a process was reading when its pipe breaks. A process whose parent dies finds
its pipe broken in turn, and ends.
"""

import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from mm1.config import UserError

TIMEOUT_SECONDS = 600.0
"""A process that reports nothing for this long is taken to hang."""

REPORT_SECONDS = 0.2

PRELOAD = ("pyarrow", "pandas")
"""Imported once for all processes, like the function's own module: pyarrow imports
pandas when it first makes a batch."""

Report = Callable[[int, int], None]
"""Progress of a job: (records read, records dropped)."""


@runtime_checkable
class FileJob(Protocol):
    """What to do with one file; it is pickled."""

    @property
    def number(self) -> int: ...
    @property
    def file(self) -> Path: ...


FileFunction = Callable[[Any, Report], Any]
"""(job, report) -> result: a function at module level that reports each record."""


class WorkerDied(UserError):
    """A process ended in the middle of a file."""


class WorkerFailed(RuntimeError):
    """A bug in a process; its traceback is the message."""


@dataclass(slots=True)
class _Worker:
    process: Any
    pipe: Connection
    job: Any = None
    last_heard: float = field(default_factory=time.monotonic)

    def send_next(self, jobs: deque[Any]) -> None:
        self.job = jobs.popleft() if jobs else None
        self.last_heard = time.monotonic()
        if self.job is not None:
            try:
                self.pipe.send(self.job)
            except OSError:
                self._raise_death()

    def receive(self) -> Any:
        try:
            self.last_heard = time.monotonic()
            return self.pipe.recv()
        except (EOFError, OSError):
            self._raise_death()

    def _raise_death(self) -> NoReturn:
        self.process.join(timeout=5)
        code = self.process.exitcode
        how = (
            f"was killed by signal {-code}"
            if code is not None and code < 0
            else f"ended with exit code {code}"
        )
        why = (
            "; the system does this when memory runs out: try fewer --workers"
            if code == -signal.SIGKILL
            else ""
        )
        raise WorkerDied(f"the process that read {self.job.file} {how}{why}")


def in_this_process(
    function: FileFunction,
    jobs: Sequence[FileJob],
    show: Callable[[Any, int, int], None],
) -> Generator[tuple[Any, Any]]:
    """As `in_processes`, one after the other in this process."""
    for job in jobs:
        yield job, function(job, partial(show, job))


def in_processes(
    function: FileFunction,
    jobs: Sequence[FileJob],
    workers: int,
    show: Callable[[Any, int, int], None],
) -> Generator[tuple[Any, Any]]:
    """Yield (job, result) of each job as it finishes.

    Raises:
        WorkerDied: a process was killed, or reported nothing for `TIMEOUT_SECONDS`; its
            file is named.
        WorkerFailed: the function raised something other than a `UserError` or
            `OSError`, which are raised as they are.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *PRELOAD])
    waiting = deque(jobs)
    pool = list[_Worker]()
    try:
        for _ in range(min(workers, len(jobs))):
            pool.append(_start(context, function))
            pool[-1].send_next(waiting)
        while busy := [worker for worker in pool if worker.job is not None]:
            quietest = min(busy, key=lambda worker: worker.last_heard)
            deadline = quietest.last_heard + TIMEOUT_SECONDS
            ready = wait(
                [worker.pipe for worker in busy],
                timeout=max(0.0, deadline - time.monotonic()),
            )
            if not ready and time.monotonic() >= deadline:
                raise WorkerDied(
                    f"the process that reads {quietest.job.file} reported nothing for"
                    f" {TIMEOUT_SECONDS:.0f} seconds"
                )
            for worker in (worker for worker in busy if worker.pipe in ready):
                kind, value = worker.receive()
                if kind == "failed":
                    raise value
                if kind == "done":
                    yield worker.job, value
                    worker.send_next(waiting)
                else:
                    show(worker.job, *value)
    finally:
        _stop(pool)


def _start(context: Any, function: FileFunction) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(function, theirs), daemon=True
    )
    process.start()
    # Now the process alone holds its end: when it dies, we read the end of the file.
    theirs.close()
    return _Worker(process, ours)


def _stop(pool: Sequence[_Worker]) -> None:
    for worker in pool:
        worker.pipe.close()
        worker.process.terminate()
    for worker in pool:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _serve(function: FileFunction, pipe: Connection) -> None:
    """The main loop of a process: jobs until the parent closes the pipe."""
    # Ctrl-C reaches all processes of a terminal; the parent decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)
    last_report = 0.0

    def report(records: int, dropped: int) -> None:
        nonlocal last_report
        if (now := time.monotonic()) - last_report > REPORT_SECONDS:
            last_report = now
            pipe.send(("at", (records, dropped)))

    try:
        while True:
            job = pipe.recv()
            try:
                answer = ("done", function(job, report))
            except (UserError, OSError) as error:
                answer = ("failed", error)
            except Exception:
                trace = traceback.format_exc()
                answer = ("failed", WorkerFailed(f"in {job.file}:\n{trace}"))
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has ended
