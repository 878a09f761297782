"""Captions by a model for the pictures of prepared captions: a table that is joined to
the raw files of these.

VeCap (arXiv:2310.07699) mixes such captions with those of the web;
`mm1.prepare.sources.synthetic_captions` does.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.prepared.shards import read_manifest
from mm1.dist import say
from mm1.infer.filter_captions import batches
from mm1.infer.predictor import Predictor
from mm1.infer.trained_model import TrainedModel
from mm1.nn.decoder import LanguageModel
from mm1.prepare.convert import SPLITS, Tally, new_part
from mm1.prepare.each_file import each_file
from mm1.prepare.output_folder import unfinished
from mm1.prepare.workers import Report

PICTURES_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """One shard, and what its pictures are asked."""

    number: int
    file: Path
    folder: Path
    model: str
    prompt: str
    max_tokens: int


def recaption(
    trained: TrainedModel,
    prepared: Path,
    out: Path,
    *,
    model: str,
    prompt: str = "",
    max_tokens: int = 64,
) -> dict[str, Any]:
    """Writes a folder of parquet files with `file`, `key` and `caption` of each pair;
    returns what was counted.

    `key` is the last part of a record's key, as the source of synthetic captions looks
    samples up; pairs of the held-out split are captioned too. `model` names the weights
    in the files. `prompt` follows the picture. A caption ends at its first line break.
    Shards that are through are not asked again after an interruption.

    Raises:
        ConfigError: the model cannot write; a document has no picture; `out` exists;
            somebody else is at it.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: name another folder")
    if not isinstance(trained.model, LanguageModel):
        raise ConfigError(
            f"{model} has no words: name a run of a model that writes, as MM1"
        )
    before = read_manifest(prepared)
    shards = [shard for split in SPLITS for shard in before["splits"][split]["shards"]]
    inputs = [{"file": str(prepared / shard["file"]), **shard} for shard in shards]
    plan = {
        "captions_of": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "inputs": inputs,
    }
    with unfinished(out, plan) as work:
        facts = {"model": model, "prompt": prompt, "max_tokens": max_tokens}
        jobs = [
            Captioning(
                number=n, file=prepared / shard["file"], folder=work.path, **facts
            )
            for n, shard in enumerate(shards)
        ]
        ask = partial(caption_file, Predictor.of(trained))
        tallies = each_file(
            work, "caption", ask, jobs, [shard["bytes"] for shard in shards]
        )
    counts = {
        "captions": sum(t.records_in for t in tallies),
        "empty": sum(t.noted["empty"] for t in tallies),
    }
    say(f"{out}: {counts['captions']:,} captions, {counts['empty']:,} of them empty")
    return counts


def caption_file(
    predictor: Predictor, job: Captioning, report: Report
) -> tuple[Path, Tally]:
    """A shard -> a table of captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, str]] = []
    with new_part(job, begin=False) as part:
        for pairs in batches(job.file, PICTURES_PER_BATCH):
            rows += captions(predictor, pairs, job.prompt, job.max_tokens)
            part.tally.records_in = len(rows)
            report(len(rows), 0)
        part.tally.noted["empty"] = sum(not row["caption"] for row in rows)
        schema = pa.schema(
            {"file": pa.string(), "key": pa.string(), "caption": pa.string()}
        )
        schema = schema.with_metadata({"model": job.model, "prompt": job.prompt})
        pq.write_table(
            pa.Table.from_pylist(rows, schema), part.folder / f"{job.number:05}.parquet"
        )
    return part.folder, part.tally


def captions(
    predictor: Predictor,
    pairs: list[tuple[str, Document]],
    prompt: str,
    max_tokens: int,
) -> list[dict[str, str]]:
    """A row of the table for each pair, asked with its first picture alone."""
    asked = []
    for key, document in pairs:
        if not document.images:
            raise ConfigError(f"{key} has no picture to describe")
        asked.append(
            Document(
                (document.images[0], *([Text(prompt, loss=False)] if prompt else []))
            )
        )
    answers = predictor.generate(asked, max_tokens=max_tokens, stop=("\n",))
    rows = []
    for (key, _), answer in zip(pairs, answers, strict=True):
        file, _, record = key.rpartition("#")
        rows.append({"file": file, "key": Path(record).name, "caption": answer.strip()})
    return rows
