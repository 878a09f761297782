"""Run folders for a report: any kind of run, at any stage, but nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.files import read_object
from mm1.runs import layout
from mm1.runs.description import refuse_exported
from mm1.runs.results import RunFolder, is_finite

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
        ConfigError: a file of one is damaged, one is a model for transformers, or one
            is given twice.
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
    refuse_exported(folder, run.config)
    for name, result in run.scores.items():
        if not _is_result(result):
            raise ConfigError(
                f"{folder / layout.SCORES}: {name!r} is no result of a benchmark:"
                f" {REMEDIES[layout.SCORES]}"
            )
    if run.packing and not _is_packing(run.packing):
        raise ConfigError(
            f"{folder / layout.PACKING} does not say how rows were packed:"
            f" {REMEDIES[layout.PACKING]}"
        )


def _what_is_there(folder: Path) -> str:
    """Why it is none; runs in it are named, for that is where a folder of a demo or of
    a study leads."""
    if not folder.is_dir():
        return "it is a file" if folder.exists() else "there is no such folder"
    below = sorted(
        path.name
        for path in folder.iterdir()
        if any((path / name).is_file() for name in SIGNS)
    )
    if not below:
        return f"it has none of {', '.join(SIGNS)}"
    some = " ".join(f"{folder}/{name}" for name in below[:4])
    more = " ..." if len(below) > 4 else ""
    return f"it holds runs; name them: `mm1 report {some}{more}`"


def _is_result(value: Any) -> bool:
    """Is it what `mm1 eval` writes of a benchmark?"""
    shots = value.get("shots") if isinstance(value, dict) else None
    return (
        isinstance(shots, dict)
        and all(key.isdecimal() for key in shots)
        and all(isinstance(each, dict) for each in shots.values())
        and is_finite(value.get("chance"), or_none=True)
        and all(
            is_finite(r.get("stderr"), or_none=True) for r in shots.values()
        )
    )


def _is_packing(value: dict[str, Any]) -> bool:
    """Is it what a run writes of its first rows?"""
    rows = value.get("rows")
    return (
        is_finite(value.get("sequence_length"))
        and value["sequence_length"] > 0
        and isinstance(rows, list)
        and all(isinstance(row, list) for row in rows)
        and all(_is_piece(piece) for row in rows for piece in row)
    )


def _is_piece(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("source"), str)
        and all(is_finite(value.get(k)) for k in ("start", "stop", "images"))
    )
