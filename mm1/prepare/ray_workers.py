"""One Ray task for each raw file, on this machine or on a cluster with a shared file
system.

Ray reserves one CPU for each task and retries a file on another node when a node is
lost. An abandoned attempt leaves its output in a folder of its own, which is never
moved into place.

Tasks rather than Ray Data: a file is what is committed and resumed, and its output is
a folder of shards; Ray Data would move rows through its object store and keeps no
record of the files that are finished.
"""

import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from mm1.config import UserError
from mm1.prepare.process_pool import (
    FileFunction,
    FileJob,
    Report,
    WorkerDied,
    WorkerFailed,
)
from mm1.ray_jobs import RayJob, RayJobs

ATTEMPTS = 3
POLL_SECONDS = 5.0
WINDOW = 2
"""Submitted files for each CPU of the cluster: one is read, one is next. What is
submitted is what Ray has to hold and what every wait goes through."""


def in_ray_tasks(
    function: FileFunction,
    jobs: Sequence[FileJob],
    show: Callable[[Any, int, int], None],
) -> Generator[tuple[Any, Any]]:
    """Yield (job, result) of each job as it finishes; a bounded number of them is
    submitted at a time.

    Raises:
        UserError: Ray is not installed or does not start.
        WorkerDied, WorkerFailed: as `in_processes`.
    """
    ray = RayJobs(_run_in_folder, max_retries=ATTEMPTS - 1)
    try:
        board = ray.start_actor(ProgressBoard)
        by_number = {job.number: job for job in jobs}
        waiting = iter(jobs)
        submitted: dict[RayJob, FileJob] = {}
        while True:
            # Asked for each time: a cluster grows and shrinks.
            for _ in range(WINDOW * ray.num_cpus - len(submitted)):
                if (job := next(waiting, None)) is None:
                    break
                handle = ray.submit(
                    os.getcwd(), function, job, board, POLL_SECONDS
                )
                submitted[handle] = job
            if not submitted:
                break
            for done in ray.wait(list(submitted), timeout=POLL_SECONDS):
                job = submitted.pop(done)
                del by_number[job.number]
                yield job, _result(ray, done, job)
            for number, counts in ray.read(board.changes).items():
                # A task may have reported after its result was taken.
                if number in by_number:
                    show(by_number[number], *counts)
    finally:
        ray.shut_down()


class ProgressBoard:
    """A Ray actor on which tasks note how far they are."""

    def __init__(self) -> None:
        self.notes: dict[int, tuple[int, int]] = {}

    def note(self, number: int, records: int, dropped: int) -> None:
        """Of file `number`: records read and dropped."""
        self.notes[number] = (records, dropped)

    def changes(self) -> dict[int, tuple[int, int]]:
        """The newest note of each file since the last call."""
        notes = self.notes
        self.notes = {}
        return notes


def _run_in_folder(
    folder: str,
    function: FileFunction,
    job: FileJob,
    board: Any,
    seconds: float,
) -> Any:
    """Run in the caller's folder, so that relative paths give the same record keys."""
    os.chdir(folder)
    return function(job, _report_to(board, job.number, seconds))


def _report_to(board: Any, number: int, seconds: float) -> Report:
    last = time.monotonic()

    def report(records: int, dropped: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last > seconds:
            last = now
            board.note.remote(number, records, dropped)

    return report


def _result(ray: RayJobs, done: RayJob, job: FileJob) -> Any:
    try:
        return done.result()
    except ray.ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (UserError, OSError)):
            raise error.cause from None
        raise WorkerFailed(f"in {job.file}:\n{error}") from None
    except ray.ray.exceptions.RayError as error:
        raise WorkerDied(
            f"the Ray task that read {job.file} was lost in {ATTEMPTS} attempts:"
            f" {error}"
        ) from error
