"""The model card of an export, written from the run folder: what the model was trained
on, how, and how it scored.

A card states only what the folder shows. If the run started from an import, its origin
and licence come first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.files import read_object
from mm1.runs.layout import SCORES, SUMMARY
from mm1.train.origins import origin_runs


@dataclass(frozen=True, slots=True)
class Usage:
    """What differs from one kind of model to another."""

    what: str
    """The model in a sentence."""
    code: str
    """Python that opens the folder, named `FOLDER`, and uses it."""
    limits: Sequence[str]
    task: str
    """`pipeline_tag` of the hub."""


def write_card(run: Path, config: Any, folder: Path, usage: Usage) -> None:
    """Writes `README.md`."""
    summary = _json(run / SUMMARY)
    scores = _json(run / SCORES)
    origin = _origin(summary, config)
    head = {"library_name": "transformers", "pipeline_tag": usage.task}
    if licence := {o["licence"] for o in origin.values() if o.get("licence")}:
        head["license"] = licence.pop() if len(licence) == 1 else "other"
    sections = [
        "---\n"
        + "".join(f"{key}: {value}\n" for key, value in head.items())
        + "---",
        f"# {run.name}\n\n{usage.what} {_size(summary)}",
        f"## Use\n\n```python\n{usage.code.strip()}\n```",
        f"## Origin\n\n{_origin_table(origin)}" if origin else "",
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
        read_object(path, "delete it; the card can be written without it")
        if path.is_file()
        else {}
    )


def _origin(summary: dict[str, Any], config: Any) -> dict[str, dict[str, Any]]:
    """Part -> where its weights come from: this import, or the runs that the config
    starts from."""
    if "origin" in summary:
        return {"all": summary["origin"]}
    runs = {
        part: _json(folder / SUMMARY).get("origin")
        for part, folder in origin_runs(config.init).items()
    }
    return {part: origin for part, origin in runs.items() if origin}


def _origin_table(origin: dict[str, dict[str, Any]]) -> str:
    rows = [
        (part, o["name"], o["revision"] or "", o["licence"] or "not stated")
        for part, o in origin.items()
    ]
    return _table(("part", "from", "revision", "licence"), rows)


def _size(summary: dict[str, Any]) -> str:
    parts = ", ".join(
        f"{count:,} in the {part}"
        for part, count in summary.get("params", {}).items()
    )
    return f"Parameters: {parts}." if parts else ""


def _training(summary: dict[str, Any], config: Any) -> str:
    data = summary.get("data") or {}
    if not data:
        return "Not trained here: the weights are as they were imported."
    columns = list(
        dict.fromkeys(key for facts in data.values() for key in facts)
    )
    table = _table(
        ("source", *columns),
        [
            (name, *(facts.get(c, "") for c in columns))
            for name, facts in data.items()
        ],
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
            result["metric"],
            _shots(shots, score),
            f"{score['score']:.3f} +- {score['stderr']:.3f}",
            result.get("chance", ""),
        )
        for name, result in scores.items()
        for shots, score in result["shots"].items()
    ]
    return (
        _table(("benchmark", "metric", "shots", "score", "chance"), rows)
        if rows
        else "None measured."
    )


def _shots(number: str, score: dict[str, Any]) -> str:
    """The number; for 0 shots, what the prompt holds instead."""
    prompt = score.get("zero_shot_prompt")
    return number if prompt is None else f"{number} ({prompt})"


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
