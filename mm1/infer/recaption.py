"""Write captions for the images of prepared captions, as a table to join with the raw
files.

VeCap (arXiv:2310.07699) mixes such captions with those of the web;
`mm1.prepare.sources.synthetic_captions` reads the mix.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.prepared.shards import read_manifest
from mm1.dist import say
from mm1.infer.filter_captions import read_batches
from mm1.infer.predictor import Predictor
from mm1.infer.trained_model import TrainedModel
from mm1.nn.decoder import LanguageModel
from mm1.prepare.output_folder import (
    SPLITS,
    ConversionStats,
    file_output,
)
from mm1.prepare.process_files import process_files
from mm1.prepare.process_pool import Report
from mm1.prepare.remote_output import UNFINISHED, open_output

IMAGES_PER_BATCH = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class RecaptionJob:
    """One shard and how its images are captioned."""

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
    """Write a folder of parquet files with `file`, `key` and `caption` of each pair;
    return the counts.

    `key` is the last part of a record's key, by which the source `synthetic_captions`
    looks samples up. Both splits are captioned. `model` names the weights in the files.
    `prompt` follows the image. A caption ends at its first line break. After an
    interruption, finished shards are not captioned again.

    Raises:
        ConfigError: the model cannot write; a document has no image; `out` exists or is
            being written.
    """
    if out.exists() and any(each.name != UNFINISHED for each in out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another folder")
    if not isinstance(trained.model, LanguageModel):
        raise ConfigError(
            f"{model} cannot write text: name a run with a language model, such as MM1"
        )
    manifest = read_manifest(prepared)
    splits = manifest["splits"]
    shards = [shard for split in SPLITS for shard in splits[split]["shards"]]
    plan = {
        "captions_of": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "inputs": [
            {"file": str(prepared / each["file"]), **each} for each in shards
        ],
    }
    with open_output(out, plan) as output:
        jobs = [
            RecaptionJob(
                number=number,
                file=prepared / shard["file"],
                folder=output.path,
                model=model,
                prompt=prompt,
                max_tokens=max_tokens,
            )
            for number, shard in enumerate(shards)
        ]
        caption = partial(caption_shard, Predictor.of(trained))
        sizes = [shard["bytes"] for shard in shards]
        stats = process_files(output, "caption", caption, jobs, sizes)
    counts = {
        "captions": sum(each.records_in for each in stats),
        "empty": sum(each.noted["empty"] for each in stats),
    }
    say(
        f"{out}: {counts['captions']:,} captions, {counts['empty']:,} of them empty"
    )
    return counts


def caption_shard(
    predictor: Predictor, job: RecaptionJob, report: Report
) -> tuple[Path, ConversionStats]:
    """Write a shard's table of captions; return its folder and the counts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, str]] = []
    with file_output(job, begin=False) as output:
        for pairs in read_batches(job.file, IMAGES_PER_BATCH):
            rows += caption_pairs(predictor, pairs, job.prompt, job.max_tokens)
            output.stats.records_in = len(rows)
            report(len(rows), 0)
        output.stats.noted["empty"] = sum(not row["caption"] for row in rows)
        schema = pa.schema(
            {"file": pa.string(), "key": pa.string(), "caption": pa.string()},
            metadata={"model": job.model, "prompt": job.prompt},
        )
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, output.folder / f"{job.number:05}.parquet")
    return output.folder, output.stats


def caption_pairs(
    predictor: Predictor,
    pairs: list[tuple[str, Document]],
    prompt: str,
    max_tokens: int,
) -> list[dict[str, str]]:
    """A row of the table for each pair; the model sees its first image only."""
    suffix = (Text(prompt, loss=False),) if prompt else ()
    prompts = []
    for key, document in pairs:
        if not document.images:
            raise ConfigError(f"{key} has no image to caption")
        prompts.append(Document((document.images[0], *suffix)))
    answers = predictor.generate(prompts, max_tokens=max_tokens, stop=("\n",))
    rows = []
    for (key, _), answer in zip(pairs, answers, strict=True):
        file, _, record = key.rpartition("#")
        rows.append(
            {"file": file, "key": Path(record).name, "caption": answer.strip()}
        )
    return rows
