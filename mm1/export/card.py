"""The model card of an export, written from the run folder alone: what it was trained
on, how, and how it scored.

A card states what the folder proves. Where a run came from an import, its origin and
licence stand in front.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.files import read_object
from mm1.runs.layout import SCORES, SUMMARY


@dataclass(frozen=True, slots=True)
class Usage:
    """What differs from one kind of model to another."""

    what: str
    """The model in a sentence."""
    code: str
    """Python that opens the folder and uses it; `FOLDER` stands for its place."""
    limits: Sequence[str]
    task: str
    """`pipeline_tag` of the hub."""


def write_card(run: Path, config: Any, folder: Path, usage: Usage) -> None:
    """`README.md` beside the exported weights."""
    summary = _json(run / SUMMARY)
    scores = _json(run / SCORES)
    origin = _origin(summary, config)
    head = {"library_name": "transformers", "pipeline_tag": usage.task}
    if licence := {o["licence"] for o in origin.values() if o.get("licence")}:
        head["license"] = licence.pop() if len(licence) == 1 else "other"
    sections = [
        "---\n" + "".join(f"{key}: {value}\n" for key, value in head.items()) + "---",
        f"# {run.name}\n\n{usage.what} {_size(summary)}",
        f"## Use\n\n```python\n{usage.code.strip()}\n```",
        (
            f"## Origin\n\n{_table(('part', 'from', 'revision', 'licence'), _rows(origin))}"
            if origin
            else ""
        ),
        f"## Training\n\n{_training(summary, config)}",
        f"## Scores\n\n{_scores(scores)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in usage.limits),
        (
            "## Recipe\n\nEvery setting of the"
            f" run:\n\n```\n{configs.to_text(config).rstrip()}\n```"
        ),
    ]
    (folder / "README.md").write_text(
        "\n\n".join(filter(None, sections)) + "\n", encoding="utf-8"
    )


def _json(path: Path) -> dict[str, Any]:
    return (
        read_object(path, "delete it; the card goes without") if path.is_file() else {}
    )


def _origin(summary: dict[str, Any], config: Any) -> dict[str, dict[str, Any]]:
    """Part -> where its weights started from: this import, or the runs that the config
    names."""
    if "origin" in summary:
        return {"all": summary["origin"]}
    runs = {
        part: _json(Path(folder) / SUMMARY).get("origin")
        for part, folder in config.init.items()
    }
    return {part: origin for part, origin in runs.items() if origin}


def _rows(origin: dict[str, dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (part, o["name"], o["revision"] or "", o["licence"] or "not stated")
        for part, o in origin.items()
    ]


def _size(summary: dict[str, Any]) -> str:
    parts = ", ".join(
        f"{count:,} in the {part}" for part, count in summary.get("params", {}).items()
    )
    return f"Parameters: {parts}." if parts else ""


def _training(summary: dict[str, Any], config: Any) -> str:
    data = summary.get("data") or {}
    if not data:
        return "Not trained here: the weights are as they were imported."
    columns = list(dict.fromkeys(key for facts in data.values() for key in facts))
    table = _table(
        ("source", *columns),
        [(name, *(facts.get(c, "") for c in columns)) for name, facts in data.items()],
    )
    hardware = (
        f"{summary.get('world_size', 1)} x"
        f" {summary.get('hardware', 'unknown hardware')}"
    )
    return (
        f"{config.steps:,} steps on {hardware}; weights are shares of the tokens"
        f" seen.\n\n{table}"
    )


def _scores(scores: dict[str, Any]) -> str:
    rows = [
        (
            name,
            found["metric"],
            _shots(shots, score),
            f"{score['score']:.3f} +- {score['stderr']:.3f}",
            found.get("chance", ""),
        )
        for name, found in scores.items()
        for shots, score in found["shots"].items()
    ]
    return (
        _table(("benchmark", "metric", "shots", "score", "chance"), rows)
        if rows
        else "None measured."
    )


def _shots(number: str, score: dict[str, Any]) -> str:
    """0 shots have two meanings, which belong to their number."""
    return (
        f"{number} ({score['zero_shot_prompt']})"
        if "zero_shot_prompt" in score
        else number
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines
    )


def _cell(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else str(value)
    )
