"""One Ray task for each raw file, on this machine or on a cluster with a shared file
system.

Ray reserves one CPU for each task and retries a file on another node when a node is
lost. An abandoned attempt leaves its output in a folder of its own, which is never
moved into place.
"""

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

from mm1.config import UserError
from mm1.prepare.process_pool import (
    FileFunction,
    FileJob,
    WorkerDied,
    WorkerFailed,
)
from mm1.ray_jobs import RayJob, RayJobs

ATTEMPTS = 3
POLL_SECONDS = 5.0


def in_ray_tasks(
    function: FileFunction,
    jobs: Sequence[FileJob],
    show: Callable[[Any, int, int], None],
) -> Generator[tuple[Any, Any]]:
    """Yield (job, result) of each job as it finishes.

    Raises:
        UserError: Ray is not installed or does not start.
        WorkerDied, WorkerFailed: as `in_processes`.
    """
    ray = RayJobs(_run_in_folder, max_retries=ATTEMPTS - 1)
    try:
        waiting = {ray.submit(os.getcwd(), function, job): job for job in jobs}
        while waiting:
            for done in ray.wait(list(waiting), timeout=POLL_SECONDS):
                job = waiting.pop(done)
                yield job, _result(ray, done, job)
            for job in waiting.values():
                show(job, 0, 0)
                break
    finally:
        ray.shut_down()


def _run_in_folder(folder: str, function: FileFunction, job: FileJob) -> Any:
    """Run in the caller's folder, so that relative paths give the same record keys."""
    os.chdir(folder)
    return function(job, _silent)


def _silent(records: int, dropped: int) -> None:
    """Ray reports that a task has finished, not how far it is."""


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
