"""Raw data -> shards, once: read, verify, filter, tokenise, count. What is left out is
listed, and why.

`prepare` works in `<out>.unfinished` (`mm1.prepare.output_folder`), renamed when it is
whole: a folder with a manifest is always finished, and a preparation that was killed
goes on where it was. Each raw file becomes shards of its own (`mm1.prepare.convert`),
the same whatever process reads it. Filters that look at all files together take a
second pass over what was read (`mm1.prepare.rewrite`).
"""

import contextlib
import importlib
import json
import pkgutil
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError, nearest
from mm1.data.prepared import shards
from mm1.data.prepared.shards import read_manifest
from mm1.data.tokenizer import Tokenizer
from mm1.dist import say
from mm1.files import write_json
from mm1.prepare import sources
from mm1.prepare.content_hash import ValidationBy
from mm1.prepare.convert import SCRATCH, Job, Tally, marks_path, read_file
from mm1.prepare.each_file import Where, each_file, identity
from mm1.prepare.filters import Filters
from mm1.prepare.output_folder import Unfinished, unfinished
from mm1.prepare.rewrite import Sifting, aside, sift_file, write_verdicts
from mm1.prepare.sources import Source


def prepare(
    source: str | Source.Config,
    paths: Sequence[Path],
    out: Path,
    tokenizer: Path,
    *,
    validation: float = 0.0,
    validation_by: ValidationBy = "text",
    filters: Filters.Config | None = None,
    workers: int = 1,
    on: Where = "processes",
) -> dict[str, Any]:
    """Prepares raw files, or the files of folders, into the folder `out`; returns its
    manifest.

    `source` is a config, the name of a file in `mm1/prepare/sources`, or
    `package.module:Class`. `validation` is the share of documents put into a split of
    their own (see `content.is_held_out` for what stays together). An `out` that was
    prepared from the same files in the same way is left as it is; one that was begun is
    gone on with. The bytes of a finished folder depend neither on `workers`, the number
    of files read at a time, nor on where they run.

    Raises:
        ConfigError: an unknown source; `out` holds something else; a file lacks a
            column; no record can be used; somebody else is at it.
        FileNotFoundError: a path does not exist, or a folder holds no file of this
            source.
        WorkerDied: a process was killed or hung; its file is named.
    """
    config = config_of(source) if isinstance(source, str) else source
    vocabulary = Tokenizer.Config(path=str(tokenizer)).build()
    files = find_files(config.owner, paths)
    how = {
        "source": config,
        "filters": filters or Filters.Config(),
        "validation": validation,
        "validation_by": validation_by,
    }
    plan = plan_of(files, vocabulary, **how)
    if known := finished(out, plan):
        say(f"{out} is prepared already: {known['documents']:,} documents")
        return known
    with unfinished(out, plan) as work:
        vocabulary.save(work.path)
        facts = {"folder": work.path, "tokenizer": vocabulary.fingerprint}
        jobs = [
            Job(number=number, file=file, **facts, **how)
            for number, file in enumerate(files)
        ]
        manifest = finish(work, plan, read_and_sift(work, jobs, plan, workers, on))
    say(summary(out, manifest))
    return manifest


def plan_of(
    files: Sequence[Path],
    vocabulary: Tokenizer,
    *,
    source: Source.Config,
    filters: Filters.Config,
    validation: float,
    validation_by: ValidationBy,
) -> dict[str, Any]:
    """All that decides what a preparation makes, as its manifest tells it; JSON.

    Raises:
        ConfigError: a filter or the share makes no sense.
    """
    filters.build()
    if not 0 <= validation < 1:
        raise ConfigError(
            f"validation is a share of documents from 0 to below 1, not {validation}"
        )
    return {
        "format": shards.FORMAT,
        "kind": source.owner.__module__.rpartition(".")[2],
        "config": configs.to_json(source),
        "tokenizer": vocabulary.fingerprint,
        "validation": validation,
        "validation_by": validation_by,
        "filters": configs.to_json(filters),
        "inputs": [identity(file) for file in files],
    }


def read_and_sift(
    work: Unfinished, jobs: Sequence[Job], plan: dict[str, Any], workers: int, on: Where
) -> Tally:
    """All files read and, where filters look at them together, judged and gone over
    once more."""
    sizes = [each["bytes"] for each in plan["inputs"]]
    tallies = [
        *each_file(work, "prepare", read_file, jobs, sizes, workers, on, plan["inputs"])
    ]
    filters = jobs[0].filters.build()
    if filters.duplicates.asked_for:
        if not work.tallies("sift"):
            judge(work, jobs, filters)
        siftings = [_sifting(job) for job in jobs]
        tallies += each_file(work, "sift", sift_file, siftings, sizes, workers, on)
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def judge(work: Unfinished, jobs: Sequence[Job], filters: Filters) -> None:
    """The verdicts on all files, from their marks."""
    import pyarrow as pa

    say(f"comparing the documents of {len(jobs):,} files")
    marks = [
        pa.ipc.open_stream(
            pa.memory_map(str(marks_path(work.path, job.number)))
        ).read_all()
        for job in jobs
    ]
    matter = jobs[0].source.owner.PICTURES_MATTER  # type: ignore[attr-defined]
    write_verdicts(
        work.path,
        filters.duplicates.judge(
            marks, filters.check_num_images, pictures_matter=matter
        ),
    )


def _sifting(job: Job) -> Sifting:
    shards = aside(job.folder, job.number)
    return Sifting(
        number=job.number,
        file=job.file,
        folder=job.folder,
        tokenizer=job.tokenizer,
        shards=shards,
        job=job,
    )


def kinds() -> list[str]:
    """The sources that come with mm1, by name."""
    return [
        module.name
        for module in pkgutil.iter_modules(sources.__path__)
        if not module.ispkg
    ]


def config_of(kind: str) -> Source.Config:
    """The default config of a source, by its file's name or by
    `package.module:Class`."""
    if ":" in kind:
        found = configs.find_class(kind)
        if not issubclass(found, Source):
            raise ConfigError(f"{kind!r} is no source of documents")
        return found.Config()
    if kind not in kinds():
        raise ConfigError(f"no source {kind!r}{nearest(kind, kinds())}")
    module = importlib.import_module(f"{sources.__name__}.{kind}")
    classes = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and c.__module__ == module.__name__
    ]
    for found in classes:
        if issubclass(found, Source):
            return found.Config()
    raise ConfigError(f"{module.__name__} defines no source")


def find_files(source: type[Source], paths: Sequence[Path]) -> list[Path]:
    """What is read, in order, each once; see `Source.find`."""
    return list(dict.fromkeys(found for path in paths for found in source.find(path)))


def finished(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of `out` where it was made by this very plan; None where there is
    nothing yet.

    Raises:
        ConfigError: `out` is something else; what differs is named.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise ConfigError(
            f"{out} is not empty and no prepared data; name another folder"
        )
    shutil.rmtree(
        out / SCRATCH, ignore_errors=True
    )  # of one that was killed while it tidied up
    manifest = read_manifest(out)
    unfiltered = {
        "validation_by": "text",
        "filters": configs.to_json(Filters.Config()),
    }  # older manifests do not say so
    for key, value in plan.items():
        old = manifest.get(key, unfiltered.get(key))
        if key in (
            "config",
            "filters",
        ):  # options that are newer than the folder had their defaults
            with contextlib.suppress(ConfigError):
                old = configs.to_json(configs.from_json(old))
        if key == "inputs":  # a folder may be reached by another path, or have moved
            old, value = (
                [{**i, "file": Path(i["file"]).name} for i in inputs]
                for inputs in (old or [], value)
            )
        if old != value:
            what = (
                "other or changed raw files"
                if key == "inputs"
                else f"{key} {old!r} (now {value!r})"
            )
            raise ConfigError(
                f"{out} was prepared with {what}: delete it, or name another folder"
            )
    return manifest


def finish(work: Unfinished, plan: dict[str, Any], total: Tally) -> dict[str, Any]:
    """Joins the lists of drops, checks the books and writes the manifest.

    Raises:
        ConfigError: there is not one usable record; the first reasons are named.
    """
    work.join_drops()
    documents = total.total("documents")
    dropped = total.drops.total()
    if documents + dropped != total.records_in:
        raise RuntimeError(
            f"{total.records_in} records became {documents} documents and {dropped}"
            " drops"
        )
    if not documents:
        with (work.path / "drops.jsonl").open(encoding="utf-8") as lines:
            first = json.loads(next(lines, "{}"))
        shutil.rmtree(work.scratch / "tallies")  # nothing to go on with
        raise ConfigError(
            f"none of {total.records_in} records can be used: {_reasons(total.drops)};"
            f" first: {first}"
        )
    manifest = plan | total.to_json()
    write_json(work.path / "manifest.json", manifest)
    return manifest


def _reasons(drops: dict[str, int] | Counter[str]) -> str:
    return (
        ", ".join(
            f"{count:,} {reason}" for reason, count in Counter(drops).most_common()
        )
        or "there are none"
    )


def summary(out: Path, manifest: dict[str, Any]) -> str:
    """What came of a preparation, in a few lines for a person."""
    validation = manifest["splits"]["validation"]["documents"]
    lines = [
        f"{out}: {manifest['documents']:,} documents of {manifest['records_in']:,}"
        " records"
        + (f" ({validation:,} held out)" if validation else "")
        + f", {manifest['images']:,} images, {manifest['tokens']:,} text tokens"
    ]
    for what, key in (("records", "drops"), ("images", "images_dropped")):
        if manifest[key]:
            lines.append(
                f"  dropped {what}: {_reasons(manifest[key])}; see"
                f" {out / 'drops.jsonl'}"
            )
    if manifest["noted"]:
        lines.append(f"  noted: {_reasons(manifest['noted'])}")
    return "\n".join(lines)
