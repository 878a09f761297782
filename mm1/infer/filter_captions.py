"""Prepared captions without those that do not describe their picture, by a CLIP of
one's own or an imported one.

A pair's score is the cosine between the features of picture and caption. What stays is
a share of the best, as data filtering networks have it (Fang et al. 2023,
arXiv:2309.17425), or all from a score on (Schuhmann et al. 2021).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.data.prepared.shards import read_documents, read_manifest
from mm1.data.tokenizer import Tokenizer
from mm1.dist import say
from mm1.infer.encoder import Encoder
from mm1.infer.trained_model import TrainedModel
from mm1.nn.clip import CLIP
from mm1.prepare.convert import SCRATCH, SPLITS, Tally, new_part
from mm1.prepare.deduplicate import Verdict
from mm1.prepare.each_file import each_file
from mm1.prepare.output_folder import Unfinished, unfinished
from mm1.prepare.pipeline import finish, finished, summary
from mm1.prepare.rewrite import Sifting, sift_file, write_verdicts
from mm1.prepare.workers import Report

PAIRS_PER_BATCH = 512
KEPT = (
    "format",
    "kind",
    "config",
    "tokenizer",
    "validation",
    "validation_by",
    "filters",
)
"""What the new manifest takes over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """One shard whose pairs are scored."""

    number: int
    file: Path
    folder: Path


def filter_captions(
    trained: TrainedModel,
    prepared: Path,
    out: Path,
    *,
    model: str,
    keep: float | None = None,
    min_score: float | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Writes `prepared` again to `out` without the pairs of low score; returns the
    manifest of `out`.

    `model` names the weights in the manifest. Shards that are scored are not scored
    again after an interruption; pairs are left out of both splits by one threshold.

    Raises:
        ConfigError: not one of `keep` and `min_score`, or no share; the documents are
            no pairs; see `prepare`.
    """
    _check(trained, model, keep, min_score)
    before = read_manifest(prepared)
    shards = [
        (split, shard)
        for split in SPLITS
        for shard in before["splits"][split]["shards"]
    ]
    inputs = [{"file": str(prepared / shard["file"]), **shard} for _, shard in shards]
    captions = {"model": model, "keep": keep, "min_score": min_score}
    plan = {key: before.get(key) for key in KEPT} | {
        "captions": captions,
        "inputs": inputs,
    }
    if known := finished(out, plan):
        return known
    with unfinished(out, plan) as work:
        Tokenizer.Config(path=str(prepared)).build().save(work.path)
        sizes = [shard["bytes"] for _, shard in shards]
        siftings = [
            Sifting(
                number=n,
                file=file,
                folder=work.path,
                tokenizer=before["tokenizer"],
                shards=(file,),
                split=split,
            )
            for n, (split, file) in enumerate(
                (split, prepared / shard["file"]) for split, shard in shards
            )
        ]
        read = score_and_judge(
            work, siftings, sizes, Encoder.of(trained), keep, min_score
        )
        total = Tally()
        for tally in [
            *read,
            *each_file(work, "sift", sift_file, siftings, sizes, workers),
        ]:
            total.add(tally)
        manifest = finish(work, plan, total)
    say(summary(out, manifest))
    return manifest


def _check(
    trained: TrainedModel, model: str, keep: float | None, min_score: float | None
) -> None:
    if (keep is None) == (min_score is None) or (
        keep is not None and not 0 < keep <= 1
    ):
        raise ConfigError(
            "give either keep, a share of pairs from above 0 to 1, or min_score, a"
            " cosine"
        )
    if not isinstance(trained.model, CLIP):
        raise ConfigError(
            f"{model} has no features of texts: name a run that was trained with"
            " captions, as CLIP"
        )


def score_and_judge(
    work: Unfinished,
    shards: Sequence[Sifting],
    sizes: Sequence[int],
    encoder: Encoder,
    keep: float | None,
    min_score: float | None,
) -> list[Tally]:
    """Scores the pairs of all shards and writes down what each shard loses."""
    scorings = [
        Scoring(number=shard.number, file=shard.file, folder=work.path)
        for shard in shards
    ]
    tallies = [*each_file(work, "score", partial(score_file, encoder), scorings, sizes)]
    scores = [np.load(scores_path(work.path, shard.number)) for shard in shards]
    write_verdicts(
        work.path, verdicts(scores, _threshold(np.concatenate(scores), keep, min_score))
    )
    return tallies


def scores_path(folder: Path, number: int) -> Path:
    return folder / SCRATCH / "scores" / f"{number:05}.npy"


def score_file(encoder: Encoder, job: Scoring, report: Report) -> tuple[Path, Tally]:
    """A shard -> the scores of its pairs."""
    found: list[float] = []
    with new_part(job, begin=False) as part:
        for documents in batches(job.file, PAIRS_PER_BATCH):
            found += scores(encoder, documents)
            part.tally.records_in = len(found)
            report(len(found), 0)
        (path := scores_path(part.folder, job.number)).parent.mkdir(parents=True)
        np.save(path, np.array(found, dtype=np.float32))
    return part.folder, part.tally


def batches(shard: Path, size: int) -> Iterator[list[tuple[str, Document]]]:
    """(key, document) of a shard, some at a time."""
    documents = read_documents(shard)
    while batch := list(islice(documents, size)):
        yield batch


def scores(encoder: Encoder, pairs: Sequence[tuple[str, Document]]) -> list[float]:
    """The cosine of each picture with its caption."""
    for key, document in pairs:
        if len(document.images) != 1:
            raise ConfigError(
                f"{key} is no pair: it has {len(document.images)} pictures; filter"
                " prepared captions"
            )
    pictures = encoder.images([document.images[0] for _, document in pairs])
    texts = encoder.texts(
        [document.text.replace("<image>", "", 1).strip() for _, document in pairs]
    )
    return (pictures * texts).sum(-1).tolist()


def _threshold(
    scores: Float[np.ndarray, " pairs"], keep: float | None, min_score: float | None
) -> float:
    """The lowest score that stays; of pairs as good as the last one of a share, all
    stay."""
    if keep is None:
        return min_score or 0.0
    return float(np.sort(scores)[::-1][max(0, round(keep * len(scores)) - 1)])


def verdicts(scores: Sequence[np.ndarray], threshold: float) -> list[Verdict]:
    """What each shard loses."""
    low = "low CLIP score"
    return [
        Verdict(
            documents={
                n: (low, f"{shard[n]:.4f}")
                for n in np.flatnonzero(shard < threshold).tolist()
            }
        )
        for shard in scores
    ]
