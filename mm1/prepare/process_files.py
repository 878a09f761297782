"""One step over many files: each is processed on its own, in one of several processes
or as a Ray task, and its output is moved into place."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from mm1.config import ConfigError
from mm1.prepare.output_folder import ConversionStats, OutputFolder
from mm1.prepare.process_pool import FileFunction, in_processes, in_this_process
from mm1.prepare.progress import Display
from mm1.prepare.rewrite import RewriteJob, pending_shards
from mm1.storage.remote_path import RemotePath, as_path

Executor = Literal["processes", "ray"]


def file_identity(file: Path) -> dict[str, Any]:
    """Size and time of a file, of a folder that is read as one, or of a hub name.

    Used to recognise raw data without reading it.
    """
    # Not as it was when its folder was listed.
    fresh = as_path(str(file)) if isinstance(file, RemotePath) else file
    stats = [
        each.stat()
        for each in (fresh.rglob("*") if fresh.is_dir() else [fresh])
        if each.is_file()
    ]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return {
        "file": str(file),
        "bytes": sum(stat.st_size for stat in stats),
        "modified": newest,
    }


def process_files(
    output: OutputFolder,
    step: str,
    function: FileFunction,
    jobs: Sequence[Any],
    sizes: Sequence[int],
    *,
    workers: int = 1,
    on: Executor = "processes",
    inputs: Sequence[dict[str, Any]] = (),
) -> list[ConversionStats]:
    """Run `function` on each job and commit its output; return the counts in order.

    Jobs that an earlier attempt finished are not run again. `sizes` are the bytes of
    the files, by which progress is measured.

    Raises:
        ConfigError: a file is not what it was when `inputs` were noted.
    """
    finished = output.stats(step)
    waiting = [job for job in jobs if job.number not in finished]
    with Display(step, sizes, [*finished]) as display:

        def show(job: Any, records: int, dropped: int) -> None:
            display.show(job.number, records, dropped)

        with closing(_results(function, waiting, workers, on, show)) as results:
            for job, (part, stats) in results:
                if inputs and file_identity(job.file) != inputs[job.number]:
                    raise ConfigError(
                        f"{job.file} changed while it was read: delete {output.path},"
                        " and start again when the file is complete"
                    )
                output.commit(step, job.number, part, stats)
                if isinstance(job, RewriteJob):
                    for shard in pending_shards(output.path, job.number):
                        shard.unlink()
                dropped = stats.drops.total()
                records = max(
                    stats.records_in, stats.total("documents") + dropped
                )
                display.finish(job.number, records, dropped)
                finished[job.number] = stats
    return [finished[job.number] for job in jobs]


def _results(
    function: FileFunction,
    jobs: Sequence[Any],
    workers: int,
    on: Executor,
    show: Any,
) -> Generator[Any]:
    if on == "ray":
        from mm1.prepare.ray_workers import in_ray_tasks

        return in_ray_tasks(function, jobs, show)
    if workers > 1 and jobs:
        return in_processes(function, jobs, workers, show)
    return in_this_process(function, jobs, show)
