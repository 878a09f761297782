"""Writes a demo folder as `mm1 demo` leaves it, with invented numbers: what the report
is developed against."""

import json
import random
from pathlib import Path

from pictures import png

SHOTS = (0, 2, 4, 8)
COLOURS = ("red", "green", "blue", "orange", "purple", "white")
TASKS = {
    "colour": 1 / 6,
    "shape": 1 / 5,
    "count": 1 / 4,
    "digits": 0.1,
    "small digits": 0.1,
    "word": 1 / 8,
}
HARDWARE = "CPU, 2 threads"


def make_demo(folder: Path) -> Path:
    rng = random.Random(7)
    _encoder(folder / "encoder", rng)
    _decoder(folder / "decoder", rng)
    sources = {"captions": 0.45, "interleaved": 0.45, "text": 0.1}
    _packed(folder / "pretrain", sources, 300, rng)
    _evaluation(folder / "pretrain", rng, gain=0.0)
    _packed(
        folder / "finetune",
        {"instructions": 0.8, "captions": 0.1, "interleaved": 0.1},
        120,
        rng,
    )
    _evaluation(folder / "finetune", rng, gain=0.12)
    checks = [
        (
            "Loss falls: encoder",
            True,
            "held-out loss 4.85 at the start, 1.31 at the end",
        ),
        ("Loss falls: decoder", True, "4.51 to 0.62"),
        ("Loss falls: pre-training", True, "4.40 to 0.88"),
        ("Loss falls: fine-tuning", True, "1.20 to 0.55"),
        (
            "Few shots tell what is asked",
            True,
            "colour 98.0% with 4 shots, 0.0% with none; shape 61.2%, 0.0%",
        ),
        ("Digits of unseen writers are read", True, "74.0% ± 2.5%, chance 10%"),
        (
            "Higher resolution helps with small detail",
            False,
            "small digits 31.0% before, 29.5% after; wanted +5 points",
        ),
    ]
    keys = ("name", "passed", "detail")
    write(
        folder / "checks.json",
        [dict(zip(keys, check, strict=True)) for check in checks],
    )
    return folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _lines(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _summary(
    recipe: str, params: dict[str, int], steps: int, data: dict[str, dict]
) -> dict:
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    facts = {
        "world_size": 1,
        "versions": versions,
        "hardware": HARDWARE,
        "finished": True,
    }
    return {
        "recipe": recipe,
        "params": params,
        "steps": steps,
        "data": data,
    } | facts


def _speed(folder: Path, steps: int, tokens: float, images: float) -> None:
    rates = {
        "seconds": 4.1,
        "tokens_per_second": tokens,
        "images_per_second": images,
        "data_loading_fraction": 0.02,
    }
    _lines(
        folder / "speed.jsonl",
        [{"step": s} | rates for s in range(10, steps + 1, 10)],
    )


def _fall(
    rng: random.Random, step: int, steps: int, start: float, end: float
) -> float:
    return end + (start - end) * 0.5 ** (step / steps * 9) + rng.gauss(0, 0.03)


def _encoder(folder: Path, rng: random.Random) -> None:
    steps = 400
    lines = [
        {
            "step": s,
            "loss": _fall(rng, s, steps, 4.85, 1.3),
            "accuracy": 0.5,
            "images": 128,
            "epoch": s / 125,
        }
        for s in range(10, steps + 1, 10)
    ]
    _lines(
        folder / "metrics.jsonl", [*lines, {"step": steps, "validation": 1.41}]
    )
    _speed(folder, steps, 0.0, 1100.0)
    params = {"encoder": 460_000, "text": 250_000, "projection": 12_300}
    data = {"pairs": {"documents": 16_000, "tokens": 190_000, "images": 16_000}}
    write(
        folder / "summary.json",
        _summary("miniature.encoder", params, steps, data),
    )
    write(
        folder / "config.json",
        {
            "loader": {"batch": 128},
            "model": {"encoder": {"image_size": [32, 32], "patch_size": 4}},
        },
    )


def _decoder(folder: Path, rng: random.Random) -> None:
    steps = 300
    lines = []
    for s in range(10, steps + 1, 10):
        loss = _fall(rng, s, steps, 4.5, 0.6)
        lines.append(
            {"step": s, "loss": loss, "loss/text": loss, "tokens/text": 4000}
        )
    _lines(
        folder / "metrics.jsonl",
        [*lines, {"step": steps, "validation": 0.66, "validation/text": 0.66}],
    )
    _speed(folder, steps, 22_000.0, 0.0)
    data = {"text": {"documents": 40_000, "tokens": 1_200_000, "images": 0}}
    write(
        folder / "summary.json",
        _summary("miniature.decoder", {"decoder": 820_000}, steps, data),
    )
    write(folder / "config.json", {"loader": {"weights": {"text": 1.0}}})
    write(
        folder / "scores.json", {"facts": _benchmark(0.25, {0: 0.31, 4: 0.97})}
    )


def _packed(
    folder: Path, weights: dict[str, float], steps: int, rng: random.Random
) -> None:
    lines = []
    ends = {name: 0.5 + 0.3 * i for i, name in enumerate(weights)}
    for s in range(10, steps + 1, 10):
        losses = {
            name: _fall(rng, s, steps, 4.4, end) for name, end in ends.items()
        }
        line = {
            "step": s,
            "loss": sum(weights[n] * loss for n, loss in losses.items()),
            "tokens": 2048,
        }
        line |= {f"loss/{n}": loss for n, loss in losses.items()}
        lines.append(
            line
            | {
                f"tokens/{n}": round(2040 * w + rng.gauss(0, 40))
                for n, w in weights.items()
            }
            | {f"epoch/{n}": s / 200 for n in weights}
        )
        if s % 100 == 0 or s == steps:
            held = {f"validation/{n}": losses[n] + 0.05 for n in weights}
            lines.append({"step": s, "validation": line["loss"] + 0.05} | held)
    _lines(folder / "metrics.jsonl", lines)
    _speed(folder, steps, 5400.0, 590.0)
    data = {
        n: {
            "documents": 12_000,
            "tokens": 500_000,
            "images": 15_000 * (n != "text"),
        }
        for n in weights
    }
    params = {"encoder": 460_000, "connector": 310_000, "decoder": 820_000}
    write(
        folder / "summary.json",
        _summary(f"miniature.{folder.name}", params, steps, data),
    )
    tuned = folder.name == "finetune"
    model = {"encoder": {"image_size": 64 if tuned else 32, "patch_size": 4}}
    init = {"encoder": "runs/demo/encoder", "decoder": "runs/demo/decoder"}
    loader = {
        "weights": weights,
        "sequence_length": 256,
        "max_tiles": 4 if tuned else 1,
    }
    write(
        folder / "config.json", {"loader": loader, "model": model, "init": init}
    )
    write(folder / "packing.json", _packing(weights, rng))


def _packing(weights: dict[str, float], rng: random.Random) -> dict:
    rows = []
    for _ in range(24):
        row = []
        at = 0
        while at < 250:
            source = rng.choices(list(weights), list(weights.values()))[0]
            length = min(
                256 - at,
                {"captions": 18, "interleaved": 60, "text": 25}.get(source, 30)
                + rng.randrange(12),
            )
            images = {"captions": 1, "text": 0, "interleaved": 4}.get(source, 1)
            row.append(
                {
                    "source": source,
                    "start": at,
                    "stop": at + length,
                    "images": images,
                    "padding": False,
                }
            )
            at += length
        if at < 256:
            row.append(
                {
                    "source": "",
                    "start": at,
                    "stop": 256,
                    "images": 0,
                    "padding": True,
                }
            )
        rows.append(row)
    return {"sequence_length": 256, "max_images": 8, "rows": rows}


def _benchmark(chance: float | None, scores: dict[int, float]) -> dict:
    shots = {
        str(k): {
            "score": score,
            "stderr": (score * (1 - score) / 200) ** 0.5,
            "num_questions": 200,
        }
        for k, score in scores.items()
    }
    if "0" in shots:
        shots["0"]["zero_shot_prompt"] = "no demonstrations"
    return {"metric": "exact match", "chance": chance, "shots": shots}


def _evaluation(folder: Path, rng: random.Random, gain: float) -> None:
    # A real run has a folder of pictures for each benchmark; few files keep the tests
    # quick.
    (folder / "predictions" / "pictures").mkdir(parents=True)
    for colour in COLOURS:
        for i in range(3):
            (
                folder / "predictions" / "pictures" / f"{colour}-{i}.png"
            ).write_bytes(png(colour, rng))
    scores = {}
    for task, chance in TASKS.items():
        top = rng.uniform(0.3, 0.85)
        by_shots = {
            k: min(0.99, gain + (top if k else top * rng.choice((0.02, 0.9))))
            for k in SHOTS
        }
        scores[task] = _benchmark(chance, by_shots)
        for k in SHOTS:
            _predictions(folder, task, k, gain)
    write(folder / "scores.json", scores)


def _predictions(folder: Path, task: str, shots: int, gain: float) -> None:
    rng = random.Random(f"{task}{shots}")
    lines = []
    for number in range(14):
        truths = [rng.choice(COLOURS) for _ in range(shots + 1)]
        given = truths[-1] if rng.random() < 0.6 + gain else rng.choice(COLOURS)
        line = {
            "id": f"q{number}",
            "answers": [truths[-1]],
            "prediction": f" {given}",
            "score": given == truths[-1],
        }
        line["score"] = float(line["score"])
        line["prompt"] = (
            "".join(f"<image> {t}\n" for t in truths[:-1]) + "<image>"
        )
        if task == "word":
            line["prompt"] = (
                "".join(f"<image>what does it say? {t}\n" for t in truths[:-1])
                + "<image>what does it say?"
            )
        if number < 12:
            line["pictures"] = [
                f"predictions/pictures/{truth}-{rng.randrange(3)}.png"
                for truth in truths
            ]
        lines.append(line)
    _lines(folder / "predictions" / f"{task}-{shots}shot.jsonl", lines)
