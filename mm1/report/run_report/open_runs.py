"""Run folders for a report: any kind of run, at any stage, but nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.files import read_object
from mm1.runs import layout
from mm1.runs.results import RunFolder

SIGNS = (layout.CONFIG, layout.METRICS, layout.SCORES)
"""A folder with one of these can be reported on: `mm1 eval --out` writes scores alone.
"""
REMEDIES = {
    layout.CONFIG: "take it from a copy of the run",
    layout.SUMMARY: "delete it; the report does without",
    layout.PACKING: "delete it; the report does without",
    layout.SCORES: "delete it, and `mm1 eval` asks the questions again",
}


def open_run_folders(folders: Sequence[Path]) -> dict[str, RunFolder]:
    """The runs by distinct names (`layout.distinct_names`).

    Raises:
        FileNotFoundError: one is no run folder.
        ConfigError: a file of one is damaged, or one is given twice.
    """
    names = layout.distinct_names(folders)
    runs = {
        name: RunFolder(folder)
        for name, folder in zip(names, folders, strict=True)
    }
    for run in runs.values():
        _check(run)
    return runs


def _check(run: RunFolder) -> None:
    folder = run.path
    if not any((folder / name).is_file() for name in SIGNS):
        raise FileNotFoundError(
            f"{folder} is no run folder: {_what_is_there(folder)}"
        )
    for name, remedy in REMEDIES.items():
        if (folder / name).is_file():
            read_object(folder / name, remedy)
    for name, result in run.scores.items():
        _check_result(folder / layout.SCORES, name, result)


def _what_is_there(folder: Path) -> str:
    """Why it is none; runs in it are named, for that is where a folder of a demo or of
    a study leads."""
    if not folder.is_dir():
        return "there is no such folder"
    below = sorted(
        path.name
        for path in folder.iterdir()
        if any((path / name).is_file() for name in SIGNS)
    )
    if not below:
        return f"it has none of {', '.join(SIGNS)}"
    some = " ".join(f"{folder}/{name}" for name in below[:4])
    more = " ..." if len(below) > 4 else ""
    return f"it holds runs; name them: mm1 report {some}{more}"


def _check_result(path: Path, benchmark: str, result: Any) -> None:
    """Raises ConfigError for what `mm1 eval` does not write."""
    shots = result.get("shots") if isinstance(result, dict) else None
    if not isinstance(shots, dict) or not all(
        key.isdecimal() and isinstance(value, dict)
        for key, value in shots.items()
    ):
        raise ConfigError(
            f"{path}: {benchmark!r} is no result of a benchmark:"
            f" {REMEDIES[layout.SCORES]}"
        )


def finite_numbers(value: Any) -> dict[str, float]:
    """The finite numbers of a JSON object, by key; empty for anything else."""
    if not isinstance(value, dict):
        return {}
    return {
        key: float(number)
        for key, number in value.items()
        if isinstance(number, (int, float)) and math.isfinite(number)
    }
