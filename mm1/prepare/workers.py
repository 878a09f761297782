"""One piece of work for each file, in several processes; none of them can die or hang
unnoticed.

The parent hands each process one job at a time over a pipe of its own, so that it knows
what a process was at when its pipe breaks. A process whose parent dies finds its pipe
broken in turn, and ends.
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
from typing import Any, Protocol, runtime_checkable

from mm1.config import UserError

PATIENCE = 600.0
"""Seconds without a sign of life from a process after which waiting for it is an error
and not a hang."""

REPORT_SECONDS = 0.2

PRELOAD = ("pyarrow", "pandas")
"""Imported once for all processes, beside the work's own module: pyarrow imports pandas
when it first makes a batch."""

Report = Callable[[int, int], None]
"""How far a job is: (records read, records dropped)."""


@runtime_checkable
class Job(Protocol):
    """What is to be done with one file; it is pickled."""

    @property
    def number(self) -> int: ...
    @property
    def file(self) -> Path: ...


Work = Callable[[Any, Report], Any]
"""(job, report) -> result, a function of a module; it reports each record."""


class WorkerDied(UserError):
    """A process ended in the middle of a file."""


class WorkerFailed(RuntimeError):
    """An error of ours in a process; its traceback is the message."""


@dataclass(slots=True)
class _Worker:
    process: Any
    pipe: Connection
    job: Any = None
    heard: float = field(default_factory=time.monotonic)

    def take(self, jobs: deque[Any]) -> None:
        self.job = jobs.popleft() if jobs else None
        self.heard = time.monotonic()
        if self.job is not None:
            try:
                self.pipe.send(self.job)
            except OSError:
                self._died()

    def receive(self) -> Any:
        try:
            self.heard = time.monotonic()
            return self.pipe.recv()
        except (EOFError, OSError):
            self._died()

    def _died(self) -> None:
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
    work: Work, jobs: Sequence[Job], show: Callable[[Any, int, int], None]
) -> Generator[tuple[Any, Any]]:
    """As `in_processes`, one after the other here."""
    for job in jobs:
        yield job, work(job, partial(show, job))


def in_processes(
    work: Work, jobs: Sequence[Job], workers: int, show: Callable[[Any, int, int], None]
) -> Generator[tuple[Any, Any]]:
    """(job, result) of each job, as they are finished.

    Raises:
        WorkerDied: a process was killed, or said nothing for `PATIENCE` seconds; its
            file is named.
        WorkerFailed: the work raised something else than a `UserError` or `OSError`,
            which come as they are.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__, *PRELOAD])
    waiting = deque(jobs)
    crew = list[_Worker]()
    try:
        for _ in range(min(workers, len(jobs))):
            crew.append(_start(context, work))
            crew[-1].take(waiting)
        while busy := [worker for worker in crew if worker.job is not None]:
            ready = wait(
                [worker.pipe for worker in busy],
                timeout=max(0.0, PATIENCE - _longest_silence(busy)),
            )
            if not ready and _longest_silence(busy) >= PATIENCE:
                silent = min(busy, key=lambda worker: worker.heard)
                raise WorkerDied(
                    f"the process that reads {silent.job.file} said nothing for"
                    f" {PATIENCE:.0f} seconds"
                )
            for worker in (worker for worker in busy if worker.pipe in ready):
                kind, value = worker.receive()
                if kind == "failed":
                    raise value
                if kind == "done":
                    yield worker.job, value
                    worker.take(waiting)
                else:
                    show(worker.job, *value)
    finally:
        _dismiss(crew)


def _longest_silence(busy: Sequence[_Worker]) -> float:
    return time.monotonic() - min(worker.heard for worker in busy)


def _start(context: Any, work: Work) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, theirs), daemon=True)
    process.start()
    # with the process alone holding it, its death is the end of the file
    theirs.close()
    return _Worker(process, ours)


def _dismiss(crew: Sequence[_Worker]) -> None:
    for worker in crew:
        worker.pipe.close()
        worker.process.terminate()
    for worker in crew:
        worker.process.join(timeout=5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _serve(work: Work, pipe: Connection) -> None:
    """The life of a process: jobs until the parent closes the pipe."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all processes of a terminal; the parent decides
    _one_thread()
    spoke = 0.0

    def report(records: int, dropped: int) -> None:
        nonlocal spoke
        if (now := time.monotonic()) - spoke > REPORT_SECONDS:
            spoke = now
            pipe.send(("at", (records, dropped)))

    try:
        while True:
            job = pipe.recv()
            try:
                answer = ("done", work(job, report))
            except (UserError, OSError) as error:
                answer = ("failed", error)
            except Exception:
                answer = (
                    "failed",
                    WorkerFailed(f"in {job.file}:\n{traceback.format_exc()}"),
                )
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
