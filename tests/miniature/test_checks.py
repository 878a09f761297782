"""The demo's checks read what was measured, and fail if it is not good enough."""

import json
from pathlib import Path
from typing import Any

import pytest

from mm1.miniature import recipes as miniature
from mm1.miniature.checks import check_demo


def result(chance: float | None, **shots: float) -> dict[str, Any]:
    return {
        "metric": "exact match",
        "chance": chance,
        "shots": {
            name[1:]: {"score": score, "stderr": 0.03}
            for name, score in shots.items()
        },
    }


def make(folder: Path) -> Path:
    """A demo in which everything was learnt."""
    for name in (
        "encoder",
        "decoder",
        "pretrain",
        "finetune",
        "finetune-without-tiles",
    ):
        (folder / name).mkdir(parents=True)
        lines = [{"step": i, "loss": 3.0 - 0.1 * i} for i in range(20)] + [
            {"step": 20, "validation": 1.0}
        ]
        (folder / name / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    unnamed = {
        task: result(0.2, _0=0.1, _2=0.7, _4=0.8) for task in miniature.UNNAMED
    }
    write(
        folder,
        "pretrain",
        unnamed
        | {
            miniature.DIGIT: result(0.1, _0=0.1),
            miniature.SMALL: result(0.1, _0=0.1),
        },
    )
    write(
        folder,
        "finetune",
        unnamed
        | {
            miniature.DIGIT: result(0.1, _0=0.8),
            miniature.SMALL: result(0.1, _0=0.7),
        },
    )
    write(
        folder, "finetune-without-tiles", {miniature.SMALL: result(0.1, _0=0.2)}
    )
    return folder


def write(folder: Path, stage: str, scores: dict[str, Any]) -> None:
    (folder / stage / "scores.json").write_text(json.dumps(scores))


def failed(folder: Path) -> list[str]:
    return [c["name"] for c in check_demo(folder) if not c["passed"]]


def test_a_demo_that_learnt_everything_passes(tmp_path: Path) -> None:
    assert failed(make(tmp_path)) == []


def test_a_loss_that_does_not_fall_fails(tmp_path: Path) -> None:
    make(tmp_path)
    lines = "".join(
        json.dumps({"step": i, "loss": 3.0}) + "\n" for i in range(20)
    )
    (tmp_path / "decoder" / "metrics.jsonl").write_text(lines)
    assert failed(tmp_path) == ["decoder: loss falls"]


@pytest.mark.parametrize(
    ("stage", "task", "score", "name"),
    [
        (
            "finetune",
            miniature.DIGIT,
            0.3,
            "unseen handwritten digits are read",
        ),
        ("finetune", miniature.SMALL, 0.12, "sub-images"),
        ("pretrain", miniature.UNNAMED[0], 0.75, "tell what is asked"),
    ],
)
def test_a_score_that_is_too_low_fails(
    stage: str, task: str, score: float, name: str, tmp_path: Path
) -> None:
    make(tmp_path)
    path = tmp_path / stage / "scores.json"
    scores = json.loads(path.read_text())
    scores[task]["shots"]["0"]["score"] = score
    path.write_text(json.dumps(scores))
    assert any(name in check for check in failed(tmp_path))
