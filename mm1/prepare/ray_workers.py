"""The same work for each file as Ray tasks: on this machine, or on a cluster that
shares the file system.

Ray takes one CPU for each task, tries a file again elsewhere where a node is lost, and
says so where that fails too. What an abandoned attempt leaves behind is in a folder of
its own and never moved into place.
"""

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

from mm1.config import UserError
from mm1.prepare.workers import Job, Work, WorkerDied, WorkerFailed

ATTEMPTS = 3
POLL_SECONDS = 5.0


def on_ray(
    work: Work, jobs: Sequence[Job], show: Callable[[Any, int, int], None]
) -> Generator[tuple[Any, Any]]:
    """(job, result) of each job as they are finished; on the cluster of `RAY_ADDRESS`,
    or one made for this here.

    Raises:
        UserError: Ray is not installed.
        WorkerDied, WorkerFailed: as `in_processes`.
    """
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError("--on ray needs Ray: pip install 'mm1[ray]'") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                log_to_driver=False, include_dashboard=False, logging_level="warning"
            )
        except (
            Exception
        ) as error:  # Ray raises bare Exceptions, a late raylet's among them
            raise UserError(f"Ray did not start: {error}") from error
    try:
        task = ray.remote(max_retries=ATTEMPTS - 1)(_work_in)
        waiting = {task.remote(os.getcwd(), work, job): job for job in jobs}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_SECONDS)
            for reference in ready:
                job = waiting.pop(reference)
                yield job, _result(ray, reference, job)
            for job in waiting.values():
                show(job, 0, 0)
                break
    finally:
        if ours:
            ray.shutdown()


def _work_in(folder: str, work: Work, job: Job) -> Any:
    """Paths are as they were given, so that the keys of records are the same wherever
    they are read."""
    os.chdir(folder)
    return work(job, _silent)


def _silent(records: int, dropped: int) -> None:
    """Ray tells when a task is through, not how far it is."""


def _result(ray: Any, reference: Any, job: Job) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (UserError, OSError)):
            raise error.cause from None
        raise WorkerFailed(f"in {job.file}:\n{error}") from None
    except ray.exceptions.RayError as error:
        raise WorkerDied(
            f"the Ray task that read {job.file} was lost in {ATTEMPTS} attempts:"
            f" {error}"
        ) from error
