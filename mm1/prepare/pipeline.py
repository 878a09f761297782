"""Raw data -> shards: read, check, filter, tokenise and count once, before training.

`prepare` is the entry point. It writes `<out>.unfinished` (`output_folder`) and renames
it when complete, so a folder with a manifest is always finished and a preparation that
was killed resumes. Each raw file becomes shards of its own (`convert`), the same
whichever process reads it (`process_files`). Filters that compare files need a second
pass (`deduplicate`, `rewrite`). Everything dropped is listed with its reason.
"""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.prepared import shards
from mm1.data.prepared.shards import read_manifest
from mm1.data.tokenizer import Tokenizer
from mm1.dist import say
from mm1.files import write_json
from mm1.overrides import default_config
from mm1.prepare.convert import ConvertJob, convert_file, fingerprints_path
from mm1.prepare.filters import Filters
from mm1.prepare.output_folder import (
    SCRATCH,
    ConversionStats,
    OutputFolder,
)
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_files import Executor, file_identity, process_files
from mm1.prepare.remote_output import (
    finish_upload,
    is_unfinished,
    open_output,
)
from mm1.prepare.rewrite import (
    RewriteJob,
    pending_shards,
    rewrite_file,
    write_removals,
)
from mm1.prepare.skipped import describe_skipped
from mm1.prepare.sources import Source
from mm1.prepare.verdicts import check_verdicts
from mm1.storage.remote_path import RemotePath, as_path


def prepare(
    config: Preparation.Config | str,
    paths: Sequence[Path],
    out: Path,
    tokenizer: Path,
    *,
    workers: int = 1,
    on: Executor = "processes",
) -> dict[str, Any]:
    """Prepare raw files, or the files of folders, into `out`; return its manifest.

    `config` says how; a name stands for the defaults of that source. On the command
    line it is changed by `mm1.overrides.override(config, "source.folder=x")`, and
    `filters.a.b=value`, `validation=0.01` likewise (`mm1.prepare.preparation`).

    An `out` that was prepared from the same files in the same way is left alone; an
    unfinished one is resumed. The bytes of a finished folder depend neither on
    `workers`, the number of files read at a time, nor on where they are read.

    Raises:
        ConfigError: an unknown source; `out` holds something else or is being written;
            a file lacks a column; not one record can be used.
        FileNotFoundError: a path does not exist, or a folder has no file of this
            source.
        WorkerDied: a process was killed or hung; its file is named.
    """
    if isinstance(config, str):
        config = Preparation.Config(source=default_config(Source, config))
    preparation = config.build()
    vocabulary = Tokenizer.Config(path=str(tokenizer)).build()
    files = find_files(config.source.owner, paths)
    plan = _plan(config, files, vocabulary)
    if manifest := read_finished(out, plan):
        say(f"{out} is already prepared: {manifest['documents']:,} documents")
        return manifest
    if verdicts := config.filters.duplicates.verdicts:
        check_verdicts(as_path(verdicts), plan)
    sizes = [each["bytes"] for each in plan["inputs"]]
    with open_output(out, plan) as output:
        vocabulary.save(output.path)
        facts: dict[str, Any] = {
            "folder": output.path,
            "tokenizer": vocabulary.fingerprint,
            "preparation": config,
        }
        jobs = [
            ConvertJob(number=n, file=file, **facts)
            for n, file in enumerate(files)
        ]
        stats = process_files(
            output,
            "prepare",
            convert_file,
            jobs,
            sizes,
            workers=workers,
            on=on,
            inputs=plan["inputs"],
        )
        if preparation.filters.duplicates.enabled:
            if not output.stats("rewrite"):
                _find_removals(output, len(files), preparation)
            rewrites = [
                RewriteJob(
                    number=n,
                    file=file,
                    shards=pending_shards(output.path, n),
                    **facts,
                )
                for n, file in enumerate(files)
            ]
            stats += process_files(
                output,
                "rewrite",
                rewrite_file,
                rewrites,
                sizes,
                workers=workers,
                on=on,
            )
        source = config.source.owner
        others = [source.skipped_in(path) for path in paths if path.is_dir()]
        stats += [ConversionStats(skipped=skipped) for skipped in others]
        manifest = write_manifest(output, plan, stats)
    say(summary(out, manifest))
    return manifest


def find_files(source: type[Source], paths: Sequence[Path]) -> list[Path]:
    """The files to read, in order, each once; see `Source.find`."""
    return list(
        dict.fromkeys(file for path in paths for file in source.find(path))
    )


def _plan(
    config: Preparation.Config, files: Sequence[Path], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Everything that decides the result, as the manifest has it; JSON."""
    return {
        "format": shards.FORMAT,
        "kind": config.source.owner.__module__.rpartition(".")[2],
        "config": configs.to_json(config.source),
        "tokenizer": tokenizer.fingerprint,
        "validation": config.validation,
        "validation_by": config.validation_by,
        "filters": configs.to_json(config.filters),
        "inputs": [file_identity(file) for file in files],
    }


def _find_removals(
    output: OutputFolder, num_files: int, preparation: Preparation
) -> None:
    """Compare the documents of all files and write what each file loses."""
    import pyarrow as pa

    say(f"comparing the documents of {num_files:,} files")
    paths = [
        fingerprints_path(output.path, number) for number in range(num_files)
    ]
    tables = [
        pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        for path in paths
    ]
    removals = preparation.filters.duplicates.find_removals(
        tables,
        preparation.filters.check_num_images,
        images_required=preparation.source.IMAGES_REQUIRED,
    )
    write_removals(output.path, removals)


def read_finished(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of `out` if it was made by this very plan; None if it is empty.

    Raises:
        ConfigError: `out` is something else; the difference is named.
    """
    if isinstance(out, RemotePath):
        finish_upload(out)
        if is_unfinished(out, plan):
            return None
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise ConfigError(
            f"{out} is not empty and not prepared data; choose another folder"
        )
    # Left by a process that was killed while it cleaned up.
    if not isinstance(out, RemotePath):
        shutil.rmtree(out / SCRATCH, ignore_errors=True)
    manifest = read_manifest(out)
    # Older manifests lack these.
    unfiltered = {
        "validation_by": "text",
        "filters": configs.to_json(Filters.Config()),
    }
    for key, value in plan.items():
        old = manifest.get(key, unfiltered.get(key))
        if key in ("config", "filters"):
            # Options added since the folder was made had their defaults.
            with contextlib.suppress(ConfigError):
                old = configs.to_json(configs.from_json(old))
        if key == "inputs":
            # The raw files may have moved.
            old = [
                {**each, "file": Path(each["file"]).name} for each in old or []
            ]
            value = [
                {**each, "file": Path(each["file"]).name} for each in value
            ]
        if old != value:
            what = (
                "other or changed raw files"
                if key == "inputs"
                else f"{key} {old!r} (now {value!r})"
            )
            raise ConfigError(
                f"{out} was prepared with {what}: delete it, or choose another folder"
            )
    return manifest


def write_manifest(
    output: OutputFolder, plan: dict[str, Any], stats: Sequence[ConversionStats]
) -> dict[str, Any]:
    """Join the lists of drops and the columns, check that the counts add up and write
    the manifest.

    Raises:
        ConfigError: not one record can be used; the first reasons are named.
    """
    total = ConversionStats()
    for each in stats:
        total.add(each)
    output.join_drops()
    documents = total.total("documents")
    dropped = total.drops.total()
    if documents + dropped != total.records_in:
        raise RuntimeError(
            f"{total.records_in} records became {documents} documents and {dropped}"
            " drops"
        )
    if not documents:
        with (output.path / "drops.jsonl").open(encoding="utf-8") as lines:
            first = json.loads(next(lines, "{}"))
        shutil.rmtree(output.scratch / "stats")  # there is nothing to resume
        others = describe_skipped(total.skipped.to_json())
        raise ConfigError(
            f"none of {total.records_in} records can be used: {_reasons(total.drops)};"
            f" first: {first}" + (f"; not read: {others}" if others else "")
        )
    manifest = plan | total.manifest(output.join_columns(total))
    write_json(output.path / "manifest.json", manifest)
    return manifest


def _reasons(drops: dict[str, int]) -> str:
    counts = Counter(drops).most_common()
    return (
        ", ".join(f"{n:,} {reason}" for reason, n in counts) or "there are none"
    )


def summary(out: Path, manifest: dict[str, Any]) -> str:
    """The counts of a manifest in a few lines of text."""
    validation = manifest["splits"]["validation"]["documents"]
    lines = [
        f"{out}: {manifest['documents']:,} documents of {manifest['records_in']:,}"
        " records"
        + (f" ({validation:,} for validation)" if validation else "")
        + f", {manifest['images']:,} images, {manifest['tokens']:,} text tokens"
    ]
    for what, key in (("records", "drops"), ("images", "images_dropped")):
        if manifest[key]:
            lines.append(
                f"  dropped {what}: {_reasons(manifest[key])}; see"
                f" {out / 'drops.jsonl'}"
            )
    if manifest["skipped"]:
        lines.append(f"  not read: {describe_skipped(manifest['skipped'])}")
    if manifest["noted"]:
        lines.append(f"  noted: {_reasons(manifest['noted'])}")
    return "\n".join(lines)
