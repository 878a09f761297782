"""A pass over many files: each is worked on by itself, somewhere, and what comes of it
is moved into place."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from mm1.config import ConfigError
from mm1.prepare.convert import Tally
from mm1.prepare.output_folder import Unfinished
from mm1.prepare.progress import Display
from mm1.prepare.rewrite import aside
from mm1.prepare.workers import Work, in_processes, in_this_process

Where = Literal["processes", "ray"]


def identity(file: Path) -> dict[str, Any]:
    """How raw data is known again, without reading it: a file, a folder that is read as
    one, or a name on the hub."""
    stats = [
        found.stat()
        for found in (file.rglob("*") if file.is_dir() else [file])
        if found.is_file()
    ]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return {
        "file": str(file),
        "bytes": sum(stat.st_size for stat in stats),
        "modified": newest,
    }


def each_file(
    work: Unfinished,
    step: str,
    do: Work,
    jobs: Sequence[Any],
    sizes: Sequence[int],
    workers: int = 1,
    on: Where = "processes",
    inputs: Sequence[dict[str, Any]] = (),
) -> list[Tally]:
    """The tallies of all jobs, in their order; those that an earlier attempt finished
    are not done again.

    Raises ConfigError where a file is not what it was among the `inputs`.
    """
    done = work.tallies(step)
    left = [job for job in jobs if job.number not in done]
    with Display(step, sizes, [*done]) as display:

        def show(job: Any, records: int, dropped: int) -> None:
            display.show(job.number, records, dropped)

        with closing(_run(do, left, workers, on, show)) as results:
            for job, (part, tally) in results:
                if inputs and identity(job.file) != inputs[job.number]:
                    raise ConfigError(
                        f"{job.file} changed while it was read: delete {work.path}, and"
                        " begin when it is whole"
                    )
                work.publish(step, job.number, part, tally)
                if step == "sift":
                    for shard in aside(work.path, job.number):
                        shard.unlink()
                records = max(
                    tally.records_in, tally.total("documents") + tally.drops.total()
                )
                display.finish(job.number, records, tally.drops.total())
                done[job.number] = tally
    return [done[job.number] for job in jobs]


def _run(
    do: Work, jobs: Sequence[Any], workers: int, on: Where, show: Any
) -> Generator[Any]:
    if on == "ray":
        from mm1.prepare.ray_workers import on_ray

        return on_ray(do, jobs, show)
    return (
        in_processes(do, jobs, workers, show)
        if workers > 1 and jobs
        else in_this_process(do, jobs, show)
    )
