"""What the demo must show, checked on what its runs measured.

A difference counts if it exceeds two of its standard errors.
"""

from pathlib import Path
from typing import Any

from mm1.files import read_jsonl, read_object
from mm1.miniature import recipes as miniature
from mm1.runs import layout

AIM = 0.7
"""The share of unseen digits that should be read; the check only asks for well above
chance."""


def check_demo(folder: Path) -> list[dict[str, Any]]:
    """Returns `[{"name", "passed", "detail"}]` for the folder of a demo."""
    before, after = (
        _scores(folder / name) for name in ("pretrain", "finetune")
    )
    without = _scores(folder / "finetune-without-tiles")
    checks = [
        _loss_falls(folder, name)
        for name in ("encoder", "decoder", "pretrain", "finetune")
    ]
    checks += [_shots_help(before, task) for task in miniature.UNNAMED]
    checks.append(_digits(after))
    small = miniature.SMALL
    checks.append(
        _better(
            f"{small}: fine-tuning at a higher resolution helps",
            before[small],
            after[small],
            "before",
        )
    )
    checks.append(
        _better(
            f"{small}: it is the sub-images that help",
            without[small],
            after[small],
            "without them",
        )
    )
    return checks


def _scores(run: Path) -> dict[str, dict[str, dict[str, float]]]:
    stored = read_object(
        run / layout.SCORES, "delete it, to ask its questions again"
    )
    return {
        name: result["shots"] | {"chance": result["chance"]}
        for name, result in stored.items()
    }


def _loss_falls(folder: Path, stage: str) -> dict[str, Any]:
    lines = read_jsonl(folder / stage / layout.METRICS)
    losses = [line["loss"] for line in lines if "loss" in line]
    few = max(1, len(losses) // 10)
    first = sum(losses[:few]) / few
    last = sum(losses[-few:]) / few
    return {
        "name": f"{stage}: loss falls",
        "passed": last < 0.9 * first,
        "detail": f"{first:.3f} to {last:.3f}",
    }


def _shots_help(scores: dict[str, Any], task: str) -> dict[str, Any]:
    """At 4 shots, chosen in advance: MM1's tables have 0, 4 and 8. The score without
    shots is low because nothing says what is asked (`mm1.miniature.score_table`)."""
    shots = scores[task]
    return _better(
        f"{task}: 4 shots tell what is asked",
        shots,
        shots,
        "with none",
        two="4",
    )


def _better(
    name: str,
    a: dict[str, Any],
    b: dict[str, Any],
    label: str,
    *,
    two: str = "0",
) -> dict[str, Any]:
    """Checks that `b` at `two` shots exceeds `a` at none by more than two standard
    errors of the difference."""
    low = a["0"]
    high = b[two]
    error = (low["stderr"] ** 2 + high["stderr"] ** 2) ** 0.5
    passed = high["score"] - low["score"] > 2 * error
    return {
        "name": name,
        "passed": passed,
        "detail": f"{high['score']:.2f} against {low['score']:.2f} {label}",
    }


def _digits(scores: dict[str, Any]) -> dict[str, Any]:
    """Checks that unseen handwriting is read after fine-tuning, without shots."""
    digit = scores[miniature.DIGIT]
    result = digit["0"]
    chance = digit["chance"]
    passed = result["score"] - 2 * result["stderr"] > 3 * chance
    reached = "reached" if result["score"] >= AIM else "not reached"
    detail = (
        f"{result['score']:.2f} +- {result['stderr']:.2f}, chance {chance:.2f}; the aim"
        f" of {AIM:.2f} is {reached}"
    )
    return {
        "name": "unseen handwritten digits are read",
        "passed": passed,
        "detail": detail,
    }
