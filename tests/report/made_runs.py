"""Run folders with invented numbers, for reports."""

import json
import random
from pathlib import Path
from typing import Any

from pictures import png

CONFIG = {
    "class": "mm1.train.trainer:Trainer",
    "steps": 30,
    "loader": {"class": "mm1.loader.packed:PackedLoader", "batch_size": 4},
    "optimizer": {"class": "mine.optim:Lion", "peak_lr": 0.002},
}


def write(path: Path, *records: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def make_run(folder: Path, *, config: object = CONFIG, gain: int = 0) -> Path:
    """A trained run with one benchmark at 0 and 2 shots and a control."""
    write(folder / "config.json", config)
    steps = range(10, 31, 10)
    write(
        folder / "metrics.jsonl",
        *(
            {"step": s, "loss": 40 / s, "loss/pages": 30 / s, "lr": 1e-3}
            | {"tokens": 64, "unpadded_tokens": 60}
            for s in steps
        ),
        {"step": 30, "validation": 1.5, "validation/pages": 1.25},
    )
    write(
        folder / "speed.jsonl",
        *(
            {"step": s, "seconds": 1800.0, "mfu": 0.31, "images_per_second": 0}
            for s in steps
        ),
    )
    write(folder / "summary.json", {"finished": True, "params": {"lm": 9}})
    shots = {k: {"score": 0.5, "stderr": 0.1, "draws": [0.5]} for k in "02"}
    results = {"metric": "exact match", "chance": 0.25, "shots": shots}
    control = results | {"shots": {"2": {"score": 0.4}}}
    write(
        folder / "scores.json",
        {"herbs": results, "herbs, wrong labels": control},
    )
    for name in ("herbs-0shot", "herbs-2shot", "herbs, wrong labels-2shot"):
        write(
            folder / "predictions" / f"{name}.jsonl",
            *answers(gain),
            {"id": "half a line"},
        )
    picture = folder / "predictions" / "a.png"
    picture.write_bytes(png("red", random.Random(3), 24))
    return folder


def answers(gain: int) -> list[dict[str, Any]]:
    """The first of two is right, both with a gain."""
    return [
        {
            "id": f"q{i}",
            "prompt": "<image>which herb?\n mint<|end|><image>which herb?\n",
            "answers": ["</script>sage"],
            "prediction": "sage" if i <= gain else "<b>dill",
            "score": float(i <= gain),
            "pictures": ["predictions/a.png", "../../secret.png"],
        }
        for i in range(2)
    ]
