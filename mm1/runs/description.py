"""What a run folder says about its run: config.json and summary.json."""

import json
import platform
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mm1 import config as configs
from mm1 import dist
from mm1.checksums import check_file, checked_path
from mm1.config import ConfigError, Configurable
from mm1.data.tokenizer import SPECIAL_TOKENS, TOKENIZER, SpecialTokens
from mm1.files import read_object, write_json
from mm1.runs.layout import CONFIG, SUMMARY
from mm1.runs.results import read_json_if_any

MAX_NAMED = 5
"""Runs that a message lists."""


def read_config(run: Path) -> Any:
    """The config of a run folder, or in a config.json.

    Raises:
        FileNotFoundError: the folder is no run folder.
        ConfigError: its config.json is damaged, or is of a model for transformers.
    """
    path = run if run.suffix == ".json" else run / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            _no_run(run) if path != run else f"no file {run}"
        )
    remedy = "mend it, or take it from a copy of the run"
    check_file(path, "take it from a copy of the run")
    stored = read_object(path, remedy)
    refuse_exported(run, stored)
    if "class" not in stored:
        raise ConfigError(
            f"{path} holds no config, it has no 'class': {remedy}"
        )
    try:
        return configs.from_json(stored)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def refuse_exported(folder: Path, stored: Any) -> None:
    """
    Args:
        folder: a folder, or the config.json in it.
        stored: what its config.json holds.

    Raises:
        ConfigError: it holds a published or exported model, no run.
    """
    if _is_exported(stored):
        place = folder.parent if folder.suffix == ".json" else folder
        raise ConfigError(
            f"{place} is no run folder but a model for transformers; `mm1 import"
            f" {shlex.quote(str(place))} --out DIR` makes a run of it"
        )


def _is_exported(stored: Any) -> bool:
    return (
        isinstance(stored, dict)
        and "class" not in stored
        and "model_type" in stored
    )


def _no_run(folder: Path) -> str:
    """What a folder is that has no config, and which runs are beside it or in it."""
    why = "there is no such folder"
    if folder.exists():
        why = f"it has no {CONFIG}" if folder.is_dir() else "it is a file"
    near = sorted(
        str(path.parent)
        for place in (folder, folder.parent)
        for path in place.glob(f"*/{CONFIG}")
        if not _is_exported(read_json_if_any(path))
    )
    there = f"; runs there: {', '.join(near[:MAX_NAMED])}" if near else ""
    return f"{folder} is no run folder: {why}{there}"


def write_config(run: Path, config: Configurable.Config) -> None:
    with checked_path(run / CONFIG) as path:
        text = json.dumps(configs.to_json(config), indent=1) + "\n"
        path.write_text(text, encoding="utf-8")


def write_tokenizer(
    run: Path, text: str, special_tokens: SpecialTokens
) -> None:
    """Writes the content of a `tokenizer.json`, and the names of its special tokens
    where they are not our own."""
    with checked_path(run / TOKENIZER) as path:
        path.write_text(text, encoding="utf-8")
    if special_tokens != SpecialTokens():
        with checked_path(run / SPECIAL_TOKENS) as path:
            path.write_text(special_tokens.to_json(), encoding="utf-8")


def write_summary(
    run: Path,
    config: Any,
    *,
    params: Mapping[str, int],
    data: Mapping[str, Any],
    device: torch.device,
    finished: bool,
) -> None:
    """summary.json: `params` by part, `data` by source."""
    summary = {
        "model": configs.path_of(config.model),
        "params": params,
        "steps": config.steps,
        "data": data,
        **_describe_hardware(device),
        "finished": finished,
    }
    write_json(run / SUMMARY, summary)


def _describe_hardware(device: torch.device) -> dict[str, Any]:
    """The part of summary.json about where a run was trained."""
    return {
        "world_size": dist.world_size(),
        "hardware": (
            torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads"
        ),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


def finished(run: Path) -> bool:
    """Has the run come to its end, benchmarks and all?"""
    path = run / SUMMARY
    if not path.is_file():
        return False
    summary = read_object(path, "delete it, and resume the run with --resume")
    return summary.get("finished", False)
