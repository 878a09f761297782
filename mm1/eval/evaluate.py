"""Exams (`mm1.eval.exam`) at several numbers of shots -> predictions and scores in a run folder.

predictions/digits-4shot.jsonl        one question a line, with its prompt, its prediction and its score
predictions/digits-4shot/17-0.png     the pictures of the first few prompts
scores.json                           {"digits": {"metric": ..., "chance": ..., "shots": {"4": {"score": ...}}}}
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from rich.console import Console
from rich.progress import Progress

from mm1 import config as configs
from mm1 import dist
from mm1.data.images import decode
from mm1.data.views import resize
from mm1.eval.exam import Exam, Line
from mm1.infer.trained import Trained

NUM_PICTURED = 12
"""Questions of each benchmark whose pictures are written, for people to look at."""
LONGEST_SIDE = 384
"""Written pictures are made no larger, in pixels."""


def evaluate(
    trained: Trained,
    benchmarks: Mapping[str, Exam],
    shots: Sequence[int],
    folder: Path,
    *,
    version: str,
) -> dict[str, Any]:
    """Asks every benchmark at every number of shots (its own, or `shots`); returns what `scores.json` then holds.

    The ranks share the questions and must call this together. `version` is a fingerprint of the weights: scores made
    with others are dropped; what was finished with the same weights, settings and records is not asked again. `stderr`
    is the standard deviation of the questions' scores over the square root of their number.

    Raises:
        ConfigError: the model cannot be asked a benchmark, or it has too few records for its demonstrations.
    """
    for benchmark in benchmarks.values():
        benchmark.check(trained.model)
    scores = _known_scores(folder / "scores.json", version)
    plan = {name: benchmark.plan(shots) for name, benchmark in benchmarks.items()}
    total = sum(len(benchmark.chosen) * len(plan[name]) for name, benchmark in benchmarks.items())
    quiet = dist.rank() != 0 or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        bar = progress.add_task("questions", total=total)
        for name, benchmark in benchmarks.items():
            known = scores.get(name, {}).get("shots", {})
            scores[name] = {"metric": benchmark.metric, "chance": benchmark.chance, "shots": known}
            for num_shots, settings in _settings(benchmark, trained, plan[name]).items():
                path = folder / "predictions" / f"{name}-{num_shots}shot.jsonl"
                old = known.get(str(num_shots), {}).get("settings") == settings and path.is_file()
                if dist.everywhere(old):
                    progress.advance(bar, len(benchmark.chosen))
                    continue
                lines = benchmark.ask(trained, num_shots, lambda n: progress.advance(bar, n * dist.world_size()))
                result = _result(benchmark, lines)
                known[str(num_shots)] = result | {"version": version, "settings": settings}
                _write_predictions(benchmark, num_shots, lines, path)
                _write(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
                shown = f"{benchmark.metric} {result['score']:.3f} +- {result['stderr']:.3f}"
                dist.say(f"{name}, {num_shots} shots: {shown}")
    return scores


def _known_scores(path: Path, version: str) -> dict[str, Any]:
    """The scores in the folder that were made with these weights."""
    scores = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for result in scores.values():
        result["shots"] = {k: v for k, v in result["shots"].items() if v.get("version") == version}
    return {name: result for name, result in scores.items() if result["shots"]}


def _settings(benchmark: Exam, trained: Trained, shots: Sequence[int]) -> dict[int, str]:
    """Number of shots -> a fingerprint of what answers depend on besides the weights."""
    alike = (
        configs.text(replace(benchmark.config, shots=None)),
        trained.renderer.views,
        _fingerprint(benchmark.test),
    )
    train = _fingerprint(benchmark.train) if any(shots) else ""
    return {num_shots: _fingerprint([alike, train if num_shots else ""]) for num_shots in shots}


def _fingerprint(items: Sequence[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _result(benchmark: Exam, lines: list[Line]) -> dict[str, Any]:
    scores = [line["score"] for line in lines]
    stderr = float(np.std(scores) / len(lines) ** 0.5)
    return {"score": float(np.mean(scores)), "stderr": stderr, "num_questions": len(lines)} | benchmark.figures(lines)


def _write_predictions(benchmark: Exam, num_shots: int, lines: list[Line], path: Path) -> None:
    """Writes the lines, and the pictures of the first prompts, which their lines then list in order of appearance."""
    if dist.rank() != 0:
        return
    place = path.with_suffix("")
    place.mkdir(parents=True, exist_ok=True)
    for number, line in zip(benchmark.chosen[:NUM_PICTURED], lines, strict=False):
        line["pictures"] = []
        for i, image in enumerate(benchmark.pictures(number, num_shots)):
            file = place / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', line['id'])}-{i}.png"
            shrink = min(1.0, LONGEST_SIDE / max(image.width, image.height))
            size = max(1, round(image.height * shrink)), max(1, round(image.width * shrink))
            Pillow.fromarray(resize(decode(image.data), size).permute(1, 2, 0).numpy()).save(file)
            line["pictures"].append(file.relative_to(path.parent.parent).as_posix())
    _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write(path: Path, content: str) -> None:
    """Rank 0 writes aside and renames, so that a killed evaluation leaves no half file."""
    if dist.rank() != 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".unfinished")
    aside.write_text(content, encoding="utf-8")
    aside.rename(path)
