"""Filter prepared captions by CLIP score: drop pairs whose caption does not describe
the image.

The score of a pair is the cosine between the features of image and caption, by a CLIP
trained here or imported. Kept is a share of the best, as in data filtering networks
(Fang et al. 2023, arXiv:2309.17425), or all from a score on (Schuhmann et al. 2021).
"""

from collections.abc import Iterator, Sequence
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
from mm1.prepare.deduplicate import Removals
from mm1.prepare.output_folder import (
    SCRATCH,
    SPLITS,
    ConversionStats,
    file_output,
)
from mm1.prepare.pipeline import read_finished, summary, write_manifest
from mm1.prepare.process_files import process_files
from mm1.prepare.process_pool import Report
from mm1.prepare.remote_output import open_output
from mm1.prepare.rewrite import RewriteJob, rewrite_file, write_removals

PAIRS_PER_BATCH = 512
COPIED_KEYS = (
    "format",
    "kind",
    "config",
    "tokenizer",
    "validation",
    "validation_by",
    "filters",
)
"""Keys of the old manifest that the new one takes over."""


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
    """Write `prepared` to `out` without the pairs of low score; return the manifest of
    `out`.

    `model` names the weights in the manifest. One threshold applies to both splits.
    After an interruption, shards already scored are not scored again.

    Raises:
        ConfigError: not exactly one of `keep` and `min_score`, or not a share; the
            documents are not pairs; see `prepare`.
    """
    if (keep is None) == (min_score is None) or (
        keep is not None and not 0 < keep <= 1
    ):
        raise ConfigError(
            "give either keep, a share of pairs above 0 and up to 1, or min_score, a"
            " cosine"
        )
    if not isinstance(trained.model, CLIP):
        raise ConfigError(
            f"{model} has no features of texts: name a run that was trained on"
            " captions, such as CLIP"
        )
    manifest = read_manifest(prepared)
    shards = [
        (split, shard)
        for split in SPLITS
        for shard in manifest["splits"][split]["shards"]
    ]
    plan = {key: manifest.get(key) for key in COPIED_KEYS} | {
        "captions": {"model": model, "keep": keep, "min_score": min_score},
        "inputs": [
            {"file": str(prepared / each["file"]), **each} for _, each in shards
        ],
    }
    if finished := read_finished(out, plan):
        return finished
    sizes = [shard["bytes"] for _, shard in shards]
    with open_output(out, plan) as output:
        Tokenizer.Config(path=str(prepared)).build().save(output.path)
        jobs = [
            RewriteJob(
                number=number,
                file=prepared / shard["file"],
                folder=output.path,
                tokenizer=manifest["tokenizer"],
                shards=(prepared / shard["file"],),
                split=split,
            )
            for number, (split, shard) in enumerate(shards)
        ]
        score = partial(score_shard, Encoder.of(trained))
        stats = process_files(output, "score", score, jobs, sizes)
        scores = [np.load(scores_path(output.path, job.number)) for job in jobs]
        threshold = _threshold(np.concatenate(scores), keep, min_score)
        write_removals(
            output.path, [_low_scores(each, threshold) for each in scores]
        )
        stats += process_files(
            output, "rewrite", rewrite_file, jobs, sizes, workers=workers
        )
        manifest = write_manifest(output, plan, stats)
    say(summary(out, manifest))
    return manifest


def scores_path(folder: Path, number: int) -> Path:
    return folder / SCRATCH / "scores" / f"{number:05}.npy"


def score_shard(
    encoder: Encoder, job: RewriteJob, report: Report
) -> tuple[Path, ConversionStats]:
    """Write the scores of a shard's pairs; return their folder and the counts."""
    scores: list[float] = []
    with file_output(job, begin=False) as output:
        for pairs in read_batches(job.file, PAIRS_PER_BATCH):
            scores += score_pairs(encoder, pairs)
            output.stats.records_in = len(scores)
            report(len(scores), 0)
        (path := scores_path(output.folder, job.number)).parent.mkdir(
            parents=True
        )
        np.save(path, np.array(scores, dtype=np.float32))
    return output.folder, output.stats


def read_batches(
    shard: Path, size: int
) -> Iterator[list[tuple[str, Document]]]:
    """Up to `size` (key, document) pairs of a shard at a time."""
    documents = read_documents(shard)
    while batch := list(islice(documents, size)):
        yield batch


def score_pairs(
    encoder: Encoder, pairs: Sequence[tuple[str, Document]]
) -> list[float]:
    """The cosine of each image with its caption."""
    for key, document in pairs:
        if len(document.images) != 1:
            raise ConfigError(
                f"{key} is not a pair: it has {len(document.images)} images; filter"
                " prepared captions"
            )
    images = encoder.images([document.images[0] for _, document in pairs])
    texts = encoder.texts(
        [
            document.text.replace("<image>", "", 1).strip()
            for _, document in pairs
        ]
    )
    return (images * texts).sum(-1).tolist()


def _threshold(
    scores: Float[np.ndarray, " pairs"],
    keep: float | None,
    min_score: float | None,
) -> float:
    """The lowest score that is kept; pairs that tie with it are all kept."""
    if keep is None:
        return min_score or 0.0
    return float(np.sort(scores)[::-1][max(0, round(keep * len(scores)) - 1)])


def _low_scores(
    scores: Float[np.ndarray, " pairs"], threshold: float
) -> Removals:
    low = np.flatnonzero(scores < threshold).tolist()
    return Removals(
        documents={n: ("low CLIP score", f"{scores[n]:.4f}") for n in low}
    )
