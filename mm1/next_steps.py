"""What to do next, as commands that a shell takes: for data that have not been prepared
and for a run that has come to its end."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.catalog import all_recipes
from mm1.config import ConfigError
from mm1.data.prepared.shards import NotPrepared
from mm1.data.tokenizer import TOKENIZER
from mm1.loader.packed import PackedLoader
from mm1.nn.decoder import LanguageModel
from mm1.nn.mm1 import MM1
from mm1.overrides import component_names
from mm1.prepare.sources import Source
from mm1.runs import layout
from mm1.storage.remote_path import as_path
from mm1.train.origins import MissingOrigin, origin_runs

LINE = "\n    "


def unprepared(error: NotPrepared, name: str, config: Any) -> ConfigError:
    """The error for a recipe or run of that name whose data are not there: what was
    found missing, and the commands that make all of it, in order."""
    folders = list(dict.fromkeys(config.loader.folders()))
    missing = [each for each in folders if not _is_prepared(each)]
    recipe = all_recipes().get(name)
    if recipe is not None and recipe.__module__.startswith("mm1.miniature"):
        world = as_path(missing[0] if missing else folders[0]).parent
        demo = _quoted(world.parent)
        return ConfigError(
            f"{error}; the miniature world is made by `mm1 demo --out {demo}`"
        )
    if not missing:  # a file inside one is what lacks
        return ConfigError(str(error))
    commands = _prepare_commands(config, folders, missing)
    others = f"; nor at {', '.join(missing[1:])}" if len(missing) > 1 else ""
    return ConfigError(
        f"{error}{others}. Other folders are named by loader.sources"
        f" (`mm1 show {_quoted(name)}`); to make these, with your raw files in place of"
        f" words in capitals:{LINE}{LINE.join(commands)}"
    )


def untrained(error: MissingOrigin) -> ConfigError:
    """The error for a run that a part starts from, with the recipe whose name its
    folder has. A multimodal one has parts that neither an import nor chance gives."""
    known = all_recipes()
    folder = error.folder
    names = (folder.name, f"pretrain_{folder.name}")
    recipe = next((name for name in names if name in known), None)
    if recipe is None:
        return error
    if not isinstance(known[recipe]().model, MM1.Config):
        return MissingOrigin(error.part, folder, recipe)
    return ConfigError(
        f"init.{error.part}={folder}: there is no such run. Train it first (`mm1 train"
        f" {recipe} --out {_quoted(folder)}`) or name another run"
    )


def _prepare_commands(
    config: Any, folders: Sequence[str], missing: Sequence[str]
) -> list[str]:
    tokenizer, commands = _tokenizer(config, folders, missing)
    for folder in missing:
        source = _source_of(config, folder)
        commands.append(
            f"mm1 prepare {source} RAW_{source.upper().removeprefix('RAW_')}"
            f" --out {_quoted(folder)} --tokenizer {_quoted(tokenizer)}"
            " --validation 0.02"
        )
    return commands


def _tokenizer(
    config: Any, folders: Sequence[str], missing: Sequence[str]
) -> tuple[str | Path, list[str]]:
    """The tokenizer of what is there already, and else of the run's decoder or a new
    one, with the command that makes it: all parts of a run share one."""
    if config.tokenizer.path:
        given = as_path(config.tokenizer.path)
        candidates = [given]
    else:
        given = as_path(missing[0]).parent / TOKENIZER
        origins = origin_runs(config.init)
        candidates = [
            *(as_path(each) for each in folders if each not in missing),
            *(run for part, run in origins.items() if part != "encoder"),
            given,
        ]
    for each in candidates:
        if (each / TOKENIZER).is_file() or each.is_file():
            return each, []
    learn = f"mm1 tokenizer RAW_TEXT --out {_quoted(given)}"
    return given, [learn]


def _source_of(config: Any, folder: str) -> str:
    """How a folder's raw files are probably read: a source of packed rows is called by
    what it is, pairs and images come from captions."""
    if not isinstance(config.loader, PackedLoader.Config):
        return "captions"
    names = [
        name for name, each in config.loader.sources.items() if each == folder
    ]
    known = component_names(Source)
    return names[0] if names[0] in known else "SOURCE"


def _is_prepared(folder: str) -> bool:
    return (as_path(folder) / "manifest.json").is_file()


def finished_run(run: Path, config: Any) -> str:
    """Where everything of a finished run is, and what can be done with it."""
    files = {
        layout.METRICS: "losses",
        "model*.safetensors": "weights",
        layout.SCORES: "benchmarks",
        layout.PREDICTIONS: "every question and answer",
    }
    found = [
        f"{name} ({what})"
        for name, what in files.items()
        if any(run.glob(name))
    ]
    folder = _quoted(run)
    commands = {f"mm1 report {folder} --out {folder}-report": "its page"}
    if isinstance(config.model, (MM1.Config, LanguageModel.Config)):
        commands[f"mm1 chat {folder} --terminal"] = "talk to it"
    if config.benchmarks:
        commands[f"mm1 eval {folder} --shots 0 4"] = "its benchmarks again"
    commands[f"mm1 export {folder} --out {folder}-exported"] = (
        "for transformers"
    )
    width = max(map(len, commands))
    return "\n".join(
        (
            f"finished: {run} has {', '.join(found)}; next:",
            *(f"  {each:{width}}  {why}" for each, why in commands.items()),
        )
    )


def _quoted(path: str | Path) -> str:
    return shlex.quote(str(path))
