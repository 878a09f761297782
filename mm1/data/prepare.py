"""Raw data -> shards, once: read, verify, tokenise, count. What is left out is listed, and why.

`prepare` writes into `<out>.unfinished` and renames it when it is whole: a folder with a manifest is always finished.
Each raw file becomes shards of its own (`mm1.data.ingest`); nothing of one depends on another.
"""

import importlib
import json
import pkgutil
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError, nearest
from mm1.data import shards, sources
from mm1.data.ingest import SPLITS, Tally, prepare_file
from mm1.data.progress import Display
from mm1.data.shards import read_manifest
from mm1.data.sources import Source
from mm1.data.tokenizer import SPECIAL_TOKENS, TOKENIZER, Tokenizer
from mm1.dist import say

OWN_FILES = {"manifest.json", "drops.jsonl", TOKENIZER, SPECIAL_TOKENS, "drops", *SPLITS}


def prepare(
    source: str | Source.Config, paths: Sequence[Path], out: Path, tokenizer: Path, *, held_out: float = 0.0
) -> dict[str, Any]:
    """Prepares raw files, or the files of folders, into the folder `out`; returns its manifest.

    `source` is a config, the name of a file in `mm1/data/sources`, or `package.module:Class`. `held_out` is the share
    of documents put into a split of their own; documents of the same text always go to the same split. An `out` that
    was prepared from the same files in the same way is left as it is.

    Raises:
        ConfigError: an unknown source; `out` holds something else; a file lacks a column; no record can be used.
        FileNotFoundError: a path does not exist, or a folder holds no file of this source.
    """
    config = config_of(source) if isinstance(source, str) else source
    if not 0 <= held_out < 1:
        raise ConfigError(f"held_out is a share of documents from 0 to below 1, not {held_out}")
    vocabulary = Tokenizer.Config(path=str(tokenizer)).build()
    files = find_files(config.owner, paths)
    plan = {
        "format": shards.FORMAT,
        "kind": config.owner.__module__.rpartition(".")[2],
        "config": configs.to_json(config),
        "tokenizer": vocabulary.fingerprint,
        "held_out": held_out,
        "inputs": [_identity(file) for file in files],
    }
    if finished := _finished(out, plan):
        say(f"{out} is prepared already: {finished['documents']:,} documents")
        return finished
    total = Tally()
    with _aside(out) as folder, Display(len(files)) as display:
        for number, file in enumerate(files):
            total.add(prepare_file(config, file, folder, number, vocabulary, held_out, display))
        vocabulary.save(folder)
        manifest = _finish(folder, plan, total)
    say(summary(out, manifest))
    return manifest


def kinds() -> list[str]:
    """The sources that come with mm1, by name."""
    return [module.name for module in pkgutil.iter_modules(sources.__path__) if not module.ispkg]


def config_of(kind: str) -> Source.Config:
    """The default config of a source, by its file's name or by `package.module:Class`."""
    if ":" in kind:
        found = configs.find(kind)
        if not issubclass(found, Source):
            raise ConfigError(f"{kind!r} is no source of documents")
        return found.Config()
    if kind not in kinds():
        raise ConfigError(f"no source {kind!r}{nearest(kind, kinds())}")
    module = importlib.import_module(f"{sources.__name__}.{kind}")
    classes = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]
    for found in classes:
        if issubclass(found, Source):
            return found.Config()
    raise ConfigError(f"{module.__name__} defines no source")


def find_files(source: type[Source], paths: Sequence[Path]) -> list[Path]:
    """What is read, in order, each once; see `Source.find`."""
    return list(dict.fromkeys(found for path in paths for found in source.find(path)))


def _identity(file: Path) -> dict[str, Any]:
    """How raw data is known again, without reading it: a file, a folder that is read as one, or a name on the hub."""
    stats = [found.stat() for found in (file.rglob("*") if file.is_dir() else [file]) if found.is_file()]
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return {"file": str(file), "bytes": sum(stat.st_size for stat in stats), "modified": newest}


def _finished(out: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of `out` where it was made by this very plan; None where there is nothing yet.

    Raises:
        ConfigError: `out` is something else; what differs is named.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / "manifest.json").is_file():
        raise ConfigError(f"{out} is not empty and no prepared data; name another folder")
    manifest = read_manifest(out)
    for key, value in plan.items():
        old = manifest.get(key)
        if key == "inputs":  # a folder may be reached by another path, or have moved
            old, value = ([{**i, "file": Path(i["file"]).name} for i in inputs] for inputs in (old or [], value))
        if old != value:
            what = "other or changed raw files" if key == "inputs" else f"{key} {old!r} (now {value!r})"
            raise ConfigError(f"{out} was prepared with {what}: delete it, or name another folder")
    return manifest


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out`, which takes the name of `out` when all went well and vanishes otherwise."""
    aside = out.with_name(out.name + ".unfinished")
    if aside.exists():
        if foreign := {path.name for path in aside.iterdir()} - OWN_FILES:
            raise ConfigError(f"{aside} is in the way and holds other files ({', '.join(sorted(foreign))}): move it")
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    aside.rename(out)


def _finish(folder: Path, plan: dict[str, Any], total: Tally) -> dict[str, Any]:
    """Joins the lists of drops, checks the books and writes the manifest.

    Raises:
        ConfigError: there is not one usable record; the first reasons are named.
    """
    with (folder / "drops.jsonl").open("wb") as whole:
        for part in sorted((folder / "drops").iterdir()):
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, whole)
    shutil.rmtree(folder / "drops")
    documents, dropped = total.total("documents"), total.drops.total()
    if documents + dropped != total.records_in:
        raise RuntimeError(f"{total.records_in} records became {documents} documents and {dropped} drops")
    if not documents:
        with (folder / "drops.jsonl").open(encoding="utf-8") as lines:
            first = json.loads(next(lines, "{}"))
        raise ConfigError(f"none of {total.records_in} records can be used: {_reasons(total.drops)}; first: {first}")
    manifest = plan | total.to_json()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _reasons(drops: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(drops).most_common()) or "there are none"


def summary(out: Path, manifest: dict[str, Any]) -> str:
    """What came of a preparation, in a few lines for a person."""
    held_out = manifest["splits"]["held_out"]["documents"]
    lines = [
        f"{out}: {manifest['documents']:,} documents of {manifest['records_in']:,} records"
        + (f" ({held_out:,} held out)" if held_out else "")
        + f", {manifest['images']:,} images, {manifest['tokens']:,} text tokens"
    ]
    for what, key in (("records", "drops"), ("images", "images_dropped")):
        if manifest[key]:
            lines.append(f"  dropped {what}: {_reasons(manifest[key])}; see {out / 'drops.jsonl'}")
    if manifest["noted"]:
        lines.append(f"  noted: {_reasons(manifest['noted'])}")
    return "\n".join(lines)
