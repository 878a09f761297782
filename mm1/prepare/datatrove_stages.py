"""De-duplication in stages of datatrove pipelines, for more documents than one machine
has memory to compare.

    fingerprints   raw files -> tables of fingerprints, a task for each block of files
    signatures     fingerprints -> keys of bands, sorted          (datatrove)
    buckets        equal keys -> pairs, a task for each band      (datatrove)
    clusters       pairs -> clusters, in one task
    members        fingerprints of what is in a cluster, by part
    comparison     a part -> what it loses: `Duplicates.find_removals`
    verdicts       what each raw file loses

Documents that the comparison in one process would compare share a band, or are equal;
so they are in one cluster, and in one part. Each part is compared by the very code that
compares everything where it fits into memory, so the verdicts are the same.
"""

import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError, run
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.base import PipelineStep  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import MinhashDedupBuckets  # type: ignore[import-not-found]
from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found]
from datatrove.utils.hashing import HashConfig  # type: ignore[import-not-found]
from datatrove.utils.word_tokenizers import WordTokenizer  # type: ignore[import-not-found]
from loguru import logger  # type: ignore[import-not-found]

from mm1.config import UserError
from mm1.prepare.datatrove_steps import (
    BandKeys,
    Clusters,
    Comparison,
    Fingerprints,
    Members,
    Signatures,
    Step,
    Verdicts,
    Work,
)
from mm1.prepare.process_pool import Report

LINES = 1024
"""Signatures read at a time from each file that is merged."""

HEARTBEAT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A pipeline for any of datatrove's executors; it needs the stages before it."""

    name: str
    pipeline: list[PipelineStep]
    tasks: int
    sizes: list[int] = field(default_factory=list)
    """Bytes that each task reads, where it reads raw files; progress is measured by
    them."""
    labels: list[str] = field(default_factory=list)
    """The raw files that each task reads."""


def stages(work: Work) -> list[Stage]:
    """The pipelines of a de-duplication, in order."""
    blocks = len(work.blocks)
    sizes = [
        sum(work.inputs[n]["bytes"] for n in block) for block in work.blocks
    ]
    config = MinhashConfig(
        num_buckets=work.preparation.filters.duplicates.build().num_band_keys,
        hashes_per_bucket=2,
        hash_config=HashConfig(precision=32),
    )
    signatures = str(work.scratch / "signatures")
    buckets = str(work.scratch / "buckets")
    return [
        Stage(
            name="fingerprints",
            pipeline=[Fingerprints(work)],
            tasks=blocks,
            sizes=sizes,
            labels=[
                " ... ".join(
                    str(work.files[n]) for n in sorted({block[0], block[-1]})
                )
                for block in work.blocks
            ],
        ),
        Stage(
            name="signatures",
            pipeline=[
                BandKeys(work),
                Signatures(signatures, config, _NoTokenizer()),
            ],
            tasks=blocks,
        ),
        Stage(
            name="buckets",
            pipeline=[
                MinhashDedupBuckets(
                    signatures,
                    buckets,
                    config=config,
                    lines_to_buffer=LINES,
                )
            ],
            tasks=config.num_buckets,
        ),
        Stage(name="clusters", pipeline=[Clusters(work)], tasks=1),
        Stage(name="members", pipeline=[Members(work)], tasks=blocks),
        Stage(name="comparison", pipeline=[Comparison(work)], tasks=blocks),
        Stage(name="verdicts", pipeline=[Verdicts(work)], tasks=blocks),
    ]


def run_pipeline(stage: Stage, task: int, report: Report) -> tuple[int, int]:
    """Run one task of a stage in this process; return the records read and dropped.

    `report` is told of records where they are read, and now and then in the other
    stages.
    """
    counts = (0, 0)

    def note(records: int, dropped: int) -> None:
        nonlocal counts
        counts = (records, dropped)
        report(records, dropped)

    logger.disable("datatrove")
    data = None
    for step in stage.pipeline:
        if isinstance(step, Step):
            step.report = note
    with nullcontext() if stage.sizes else _heartbeat(report):
        for step in stage.pipeline:
            data = step(data, task, stage.tasks)
        deque(data or (), maxlen=0)
    return counts


@contextmanager
def _heartbeat(report: Report) -> Iterator[None]:
    """Say now and then that this process is alive: a merge takes hours.

    Where nobody listens any more, it ends: another one may have begun the same task.
    """
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                report(0, 0)
            except OSError:
                os._exit(1)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def submit_to_slurm(
    stages: Sequence[Stage],
    logs: Path,
    workers: int,
    options: Mapping[str, Any],
) -> None:
    """One array of Slurm jobs for each stage, each after the one before it; what is
    done is not submitted again.

    Raises:
        UserError: there is no Slurm, or it refuses; an option is missing or unknown;
            jobs that were submitted before have not ended.
    """
    logger.disable("datatrove")
    note = logs / "jobs.json"
    if note.exists() and (left := _unfinished(json.loads(note.read_text()))):
        raise UserError(
            f"--on slurm: job {left} has not ended: wait, or cancel it"
        )
    executors: list[Any] = []
    try:
        for stage in stages:
            executors.append(
                SlurmPipelineExecutor(
                    stage.pipeline,
                    stage.tasks,
                    job_name=f"mm1-{stage.name}",
                    workers=workers if workers > 1 else -1,
                    logging_dir=str(logs / stage.name),
                    depends=executors[-1] if executors else None,
                    **options,
                )
            )
        executors[-1].run()
    except TypeError as error:
        raise UserError(
            f"--on slurm: {error} (--ask partition=cpu time=24:00:00)"
        ) from error
    except (OSError, CalledProcessError) as error:
        raise UserError(f"--on slurm: {error}") from error
    # -1 where a stage is done.
    jobs = [each.job_id for each in executors if each.job_id not in (None, -1)]
    note.write_text(json.dumps(jobs))


def _unfinished(jobs: Sequence[str]) -> str:
    """The first of these jobs that waits or runs; Slurm forgets those that ended."""
    words = ["squeue", "--noheader", "--format=%A", f"--jobs={','.join(jobs)}"]
    answer = run(words, capture_output=True, text=True, check=False)
    return next(iter(answer.stdout.split()), "")


class _NoTokenizer(WordTokenizer):
    """What datatrove asks for, and `Signatures` does not use."""

    def word_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError
