"""`mm1 deduplicate`: which records of raw files are copies, found in stages that any
number of machines share.

`deduplicate` runs the stages of `datatrove_stages` one after the other, here, on Ray or
on Slurm, and leaves a folder of verdicts (`verdicts`) that `prepare` reads. The work is
done in `<out>.unfinished`; the same command resumes with the tasks that are not done.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.dist import say
from mm1.extras import needs_extra
from mm1.files import durable_rename, read_object, unfinished_path, write_json
from mm1.prepare.output_folder import lock_output
from mm1.prepare.pipeline import find_files
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_files import file_identity
from mm1.prepare.process_pool import Report, in_processes, in_this_process
from mm1.prepare.progress import Display
from mm1.prepare.verdicts import REMEDY
from mm1.storage.remote_path import check_local

if TYPE_CHECKING:
    from mm1.prepare.datatrove_stages import Stage

Place = Literal["processes", "ray", "slurm"]
STAGES = "stages"
"""Subfolder of the unfinished folder for what passes from stage to stage."""
LARGE_CLUSTER = 100_000
"""Documents of a cluster that are worth a line: if no two of them are copies, their
comparison takes minutes, a hundred times as long for ten times as many."""
MAX_TASKS = 500
"""Tasks of a stage, by default at most. A merge opens as many files; a process may
often have no more than 1,024."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageJob:
    """One task of a stage; it is a `FileJob`."""

    number: int
    file: Path
    """What it reads, as an error names it."""
    scratch: Path
    stage: int


def deduplicate(
    config: Preparation.Config,
    paths: Sequence[Path],
    out: Path,
    *,
    workers: int = 1,
    on: Place = "processes",
    tasks: int = MAX_TASKS,
    slurm: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Find the copies among raw files; return the manifest of the verdicts in `out`.

    `config` is that of the preparation to come: its source, all of its filters, and
    in `filters.duplicates` what a copy is. Documents that the other filters drop are
    not compared. `tasks` are the blocks of files that are read on their own, at most.

    On Slurm the stages are submitted, with `slurm` as the options of datatrove's
    executor, and nothing is returned: the same call, once they have run, finishes.

    Raises:
        ConfigError: no copies are asked for, or those of images; `out` holds something
            else or is being written; a file changes; not one record can be used.
        UserError: datatrove is not installed.
        WorkerDied: a task was killed or hung.
    """
    check_local(out)
    _check(config, tasks)
    files = find_files(config.source.owner, paths)
    plan = {
        "kind": config.source.owner.__module__.rpartition(".")[2],
        "config": configs.to_json(config.source),
        "filters": configs.to_json(config.filters),
        "inputs": [file_identity(file) for file in files],
    }
    if manifest := _finished(out, plan):
        say(f"{out} is finished: {_summary(manifest)}")
        return manifest
    folder = unfinished_path(out)
    scratch = folder / STAGES
    _begin(folder, plan | {"tasks": tasks})
    with lock_output(scratch / "lock", out):
        write_json(scratch / "plan.json", plan | {"tasks": tasks})
        stages = _stages(config, files, plan["inputs"], scratch, tasks)
        if on == "slurm":
            if any(_waiting(scratch, stage) for stage in stages):
                _submit(stages, scratch, workers, slurm or {})
                return None
        else:
            for number, stage in enumerate(stages):
                if stage.name == "comparison":
                    _say_if_large(_largest_cluster(scratch))
                _run(stage, number, scratch, workers, on)
        manifest = plan | _counts(scratch)
        write_json(folder / "manifest.json", manifest)
        _finish(folder, out)
    say(f"{out}: {_summary(manifest)}")
    return manifest


def _check(config: Preparation.Config, tasks: int) -> None:
    if tasks < 1:
        raise ConfigError(f"--tasks {tasks}: at least 1")
    duplicates = config.filters.duplicates
    if not duplicates.exact and duplicates.near is None:
        raise ConfigError(
            "there is nothing to compare: filters.duplicates.exact=True,"
            " filters.duplicates.near=0.8 or both"
        )
    if duplicates.verdicts:
        raise ConfigError(
            "filters.duplicates.verdicts is an option of `mm1 prepare`, which reads"
            " what `mm1 deduplicate` writes"
        )
    if duplicates.max_documents_of_image is not None:
        raise ConfigError(
            "filters.duplicates.max_documents_of_image is counted by `mm1 prepare`"
            " alone: set it to None"
        )
    config.build()


def _finished(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of `out`, or of its unfinished folder which it then becomes; None
    if there is neither.

    Raises:
        ConfigError: it was made by another plan, or is something else.
    """
    folder = unfinished_path(out)
    if not (out.exists() and any(out.iterdir())):
        if not (folder / "manifest.json").is_file():
            return None
        _finish(folder, out)
    shutil.rmtree(out / STAGES, ignore_errors=True)
    path = out / "manifest.json"
    manifest = read_object(path, REMEDY) if path.is_file() else {}
    if "verdicts" not in manifest:
        raise ConfigError(
            f"{out} is not empty, and not a folder of verdicts; choose another folder"
        )
    _check_plan(out, manifest, plan)
    return manifest


def _check_plan(
    folder: Path, before: dict[str, Any], plan: dict[str, Any]
) -> None:
    changed = [key for key in plan if before.get(key) != plan[key]]
    if changed:
        raise ConfigError(
            f"{folder} was made with other {', '.join(changed)}: delete it, or choose"
            " another folder"
        )


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Make the unfinished folder, or check that it is of this plan."""
    path = folder / STAGES / "plan.json"
    if path.is_file():
        _check_plan(folder, read_object(path, REMEDY), plan)
    elif folder.exists() and any(
        each.name != STAGES for each in folder.iterdir()
    ):
        raise ConfigError(
            f"{folder} is in the way and holds other files: move it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)


def _finish(folder: Path, out: Path) -> None:
    """What passed from stage to stage, up to terabytes, is not synchronised first."""
    shutil.rmtree(folder / STAGES, ignore_errors=True)
    durable_rename(folder, out)


def _stages(
    config: Preparation.Config,
    files: Sequence[Path],
    inputs: Sequence[dict[str, Any]],
    scratch: Path,
    tasks: int,
) -> "list[Stage]":
    with needs_extra("datatrove", "mm1 deduplicate"):
        from mm1.prepare.datatrove_stages import stages
        from mm1.prepare.datatrove_steps import Work
    work = Work(
        scratch=scratch.absolute(),
        preparation=config,
        files=tuple(files),
        inputs=tuple(inputs),
        blocks=tuple(blocks([each["bytes"] for each in inputs], tasks)),
    )
    work.save()
    return stages(work)


def blocks(sizes: Sequence[int], most: int) -> Iterator[range]:
    """Consecutive files in at most `most` blocks of about equal bytes."""
    whole = max(2 * sum(sizes), 1)

    def block(number: int) -> int:
        """The one in which the middle of the file is."""
        return min(middles[number] * most // whole, most - 1)

    ends = accumulate(sizes)
    middles = [2 * end - size for end, size in zip(ends, sizes, strict=True)]
    for _, numbers in groupby(range(len(sizes)), block):
        first, *others = numbers
        yield range(first, first + 1 + len(others))


def _waiting(scratch: Path, stage: "Stage") -> list[int]:
    """The tasks that are not done: datatrove's executors note them in the same way."""
    done = _marks(scratch, stage.name)
    return [
        task
        for task in range(stage.tasks)
        if not (done / f"{task:05}").exists()
    ]


def _marks(scratch: Path, stage: str) -> Path:
    return scratch / "logs" / stage / "completions"


def _run(
    stage: "Stage", number: int, scratch: Path, workers: int, on: Place
) -> None:
    """Run what is left of a stage, here or on Ray."""
    waiting = _waiting(scratch, stage)
    marks = _marks(scratch, stage.name)
    marks.mkdir(parents=True, exist_ok=True)
    jobs = [
        StageJob(
            number=task,
            file=_label(stage, task),
            scratch=scratch.absolute(),
            stage=number,
        )
        for task in waiting
    ]
    sizes = stage.sizes or [1] * stage.tasks
    done = sorted({*range(stage.tasks)} - {*waiting})
    with Display(stage.name, sizes, done, "tasks") as display:

        def show(job: StageJob, records: int, dropped: int) -> None:
            display.show(job.number, records, dropped)

        if on == "ray":
            from mm1.prepare.ray_workers import in_ray_tasks

            results = in_ray_tasks(run_task, jobs, show)
        elif workers > 1 and jobs:
            results = in_processes(run_task, jobs, workers, show)
        else:
            results = in_this_process(run_task, jobs, show)
        with closing(results):
            for job, counts in results:
                (marks / f"{job.number:05}").touch()
                display.finish(job.number, *counts)


def _label(stage: "Stage", task: int) -> Path:
    if stage.labels:
        return Path(stage.labels[task])
    return Path(f"{stage.name}, task {task + 1} of {stage.tasks}")


def run_task(job: StageJob, report: Report) -> tuple[int, int]:
    """Run one task of a stage; return the records that it read and dropped."""
    with needs_extra("datatrove", "mm1 deduplicate"):
        from mm1.prepare.datatrove_stages import run_pipeline, stages
        from mm1.prepare.datatrove_steps import Work

    work = Work.load(job.scratch)
    return run_pipeline(stages(work)[job.stage], job.number, report)


def _submit(
    stages: "Sequence[Stage]",
    scratch: Path,
    workers: int,
    options: Mapping[str, Any],
) -> None:
    with needs_extra("datatrove", "mm1 deduplicate"):
        from mm1.prepare.datatrove_stages import submit_to_slurm

    submit_to_slurm(stages, scratch / "logs", workers, options)
    say(
        f"submitted {len(stages)} stages to Slurm, logs in {scratch / 'logs'}: run the"
        " same command again when they have ended"
    )


def _counts(scratch: Path) -> dict[str, Any]:
    documents = 0
    verdicts: Counter[str] = Counter()
    for path in sorted((scratch / "counts").glob("*.json")):
        counts = read_object(path, REMEDY)
        documents += counts["documents"]
        verdicts += Counter(counts["drops"])
    unusable: Counter[str] = Counter()
    for path in sorted((scratch / "unusable").glob("*.json")):
        unusable += Counter(read_object(path, REMEDY))
    if not documents:
        raise ConfigError(
            f"none of {unusable.total():,} records can be used:"
            f" {_listed(unusable) or 'the files are empty'}"
        )
    return {
        "documents": documents,
        "unusable": dict(unusable.most_common()),
        "largest_cluster": _largest_cluster(scratch),
        "verdicts": dict(verdicts.most_common()),
    }


def _largest_cluster(scratch: Path) -> int:
    with needs_extra("datatrove", "mm1 deduplicate"):
        from mm1.prepare.datatrove_steps import Work

    path = Work.load(scratch).largest_cluster
    return read_object(path, REMEDY)["documents"]


def _say_if_large(documents: int) -> None:
    if documents >= LARGE_CLUSTER:
        say(
            f"a cluster has {documents:,} documents, which one task compares:"
            " docs/preparing.md says how long that takes"
        )


def _summary(manifest: dict[str, Any]) -> str:
    text = (
        f"{_listed(manifest['verdicts']) or 'no copies'} among"
        f" {manifest['documents']:,} documents"
    )
    if unusable := manifest.get("unusable"):  # not of older folders
        count = sum(unusable.values())
        text += f"; not compared: {count:,} records ({_listed(unusable)})"
    return text


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
