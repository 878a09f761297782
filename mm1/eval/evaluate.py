"""Exams (`mm1.eval.evaluator`) at several numbers of shots -> predictions and scores in
a run folder.

predictions/digits-4shot.jsonl        one question a line, with its prompt, its prediction and its score
predictions/digits-4shot-draw2.jsonl  the same questions after other shots, where there are several draws
predictions/digits-4shot/17-0.png     the pictures of the first few prompts
scores.json                           {"digits": {"metric": ..., "chance": ..., "shots": {"4": {"score": ...}}}}
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from rich.console import Console
from rich.progress import Progress

from mm1 import dist
from mm1.data.image_processing import decode_image, resize
from mm1.eval.evaluator import Evaluator, Line
from mm1.files import read_object, write_text
from mm1.infer.trained import Trained

NUM_PICTURED = 12
"""Questions of each benchmark whose pictures are written, for people to look at."""
LONGEST_SIDE = 384
"""Written pictures are made no larger, in pixels."""


def evaluate(
    trained: Trained,
    benchmarks: Mapping[str, Evaluator],
    shots: Sequence[int],
    folder: Path,
    *,
    version: str,
) -> dict[str, Any]:
    """Asks every benchmark at every number of shots (its own, or `shots`); returns what
    `scores.json` then holds.

    The ranks share the questions and must call this together. `version` is a
    fingerprint of the weights: scores made with others are dropped; what was finished
    with the same weights, settings and records is not asked again, draw by draw.
    `score` is the mean over questions and draws, `stderr` the standard deviation of the
    questions' scores (their means over draws) over the square root of their number,
    `spread` the standard deviation of the draws' scores.

    Raises:
        ConfigError: the model cannot be asked a benchmark, or it has too few records
            for its demonstrations.
    """
    for benchmark in benchmarks.values():
        benchmark.check(trained.model)
    scores = _known_scores(folder / "scores.json", version)
    plan = {name: benchmark.plan(shots) for name, benchmark in benchmarks.items()}
    total = sum(
        len(b.chosen) * sum(map(b.num_draws, plan[name]))
        for name, b in benchmarks.items()
    )
    quiet = dist.rank() != 0 or not sys.stderr.isatty()
    with Progress(
        console=Console(stderr=True), transient=True, disable=quiet
    ) as progress:
        bars = _Bars(progress, total)
        for name, benchmark in benchmarks.items():
            known = scores.get(name, {}).get("shots", {})
            scores[name] = {
                "metric": benchmark.metric,
                "chance": benchmark.chance,
                "shots": known,
            }
            for num_shots, settings in _settings(
                benchmark, trained, plan[name]
            ).items():
                old = known.get(str(num_shots), {})
                num_known = (
                    len(old.get("draws", ())) if old.get("settings") == settings else 0
                )
                path = folder / "predictions" / f"{name}-{num_shots}shot.jsonl"
                for lines in _draws(
                    benchmark, trained, num_shots, num_known, path, bars
                ):
                    result = _result(benchmark, lines, num_shots) | {
                        "version": version,
                        "settings": settings,
                    }
                    if result != known.get(str(num_shots)):
                        known[str(num_shots)] = result
                        _write(
                            folder / "scores.json", json.dumps(scores, indent=1) + "\n"
                        )
                        dist.say(
                            f"{name}, {num_shots} shots:"
                            f" {shown(benchmark.metric, result)}"
                        )
    return scores


def table(scores: Mapping[str, Any]) -> str:
    """What `scores.json` holds, for people: a line for each benchmark and number of
    shots."""
    return "\n".join(
        f"{name:24} {num_shots:>2} shots  {shown(result['metric'], score)}"
        for name, result in scores.items()
        for num_shots, score in result["shots"].items()
    )


def shown(metric: str, score: Mapping[str, Any]) -> str:
    spread = (
        f", spread {score['spread']:.3f} over {len(score['draws'])} draws"
        if "spread" in score
        else ""
    )
    meaning = f" ({score['zero_shot']})" if "zero_shot" in score else ""
    return f"{metric} {score['score']:.3f} +- {score['stderr']:.3f}{spread}{meaning}"


def _draws(
    benchmark: Evaluator,
    trained: Trained,
    num_shots: int,
    num_known: int,
    first: Path,
    bars: "_Bars",
) -> Iterator[list[list[Line]]]:
    """The lines of all draws so far, each time that another one was asked, and at the
    end.

    `num_known` draws have scores; their lines are read where their files are still
    there. `first` is the first one's.
    """
    draws: list[list[Line]] = []
    for draw in range(count := benchmark.num_draws(num_shots)):
        path = first.with_stem(f"{first.stem}-draw{draw + 1}") if draw else first
        if known := dist.all_true(draw < num_known and path.is_file()):
            draws.append(
                [
                    json.loads(line)
                    for line in path.read_text(encoding="utf-8").splitlines()
                ]
            )
            bars.answered(len(benchmark.chosen))
        else:
            benchmark.prepare(num_shots, bars.looked)
            draws.append(
                benchmark.ask(
                    trained,
                    num_shots,
                    lambda n: bars.answered(n * dist.world_size()),
                    draw,
                )
            )
            _write_predictions(benchmark, num_shots, draw, draws[-1], path)
        if not known or draw == count - 1:
            yield draws


class _Bars:
    """Questions that are answered, and pictures that are looked at to find shots."""

    def __init__(self, progress: Progress, num_questions: int) -> None:
        self.progress = progress
        self.questions = progress.add_task("questions", total=num_questions)
        self.pictures = progress.add_task("pictures of shots", visible=False)

    def answered(self, number: int) -> None:
        self.progress.advance(self.questions, number)

    def looked(self, seen: int, total: int) -> None:
        self.progress.update(
            self.pictures, completed=seen, total=total, visible=seen < total
        )


def _known_scores(path: Path, version: str) -> dict[str, Any]:
    """The scores in the folder that were made with these weights."""
    scores = (
        read_object(path, "delete it, to have its questions asked again")
        if path.is_file()
        else {}
    )
    for result in scores.values():
        result["shots"] = {
            k: v for k, v in result["shots"].items() if v.get("version") == version
        }
    return {name: result for name, result in scores.items() if result["shots"]}


def _settings(
    benchmark: Evaluator, trained: Trained, shots: Sequence[int]
) -> dict[int, str]:
    """Number of shots -> a fingerprint of what answers depend on besides the
    weights."""
    alike = (trained.renderer.image_processor, _fingerprint(benchmark.test))
    train = _fingerprint(benchmark.train) if any(map(benchmark.learns, shots)) else ""
    return {
        k: _fingerprint(
            [benchmark.settings(k), alike, train if benchmark.learns(k) else ""]
        )
        for k in shots
    }


def _fingerprint(items: Sequence[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for item in items:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def _result(
    benchmark: Evaluator, draws: Sequence[list[Line]], num_shots: int
) -> dict[str, Any]:
    scores = np.array([[line["score"] for line in lines] for lines in draws])
    stderr = scores.mean(0).std() / scores.shape[1] ** 0.5
    means = scores.mean(1)
    result = {
        "score": float(scores.mean()),
        "stderr": float(stderr),
        "num_questions": scores.shape[1],
    }
    figures = [benchmark.figures(lines) for lines in draws]
    result |= {
        name: float(np.mean([each[name] for each in figures])) for name in figures[0]
    }
    result["draws"] = means.tolist()
    if len(draws) > 1:
        result["spread"] = float(means.std(ddof=1))
    meaning = benchmark.zero_shot(num_shots)
    return result | ({"zero_shot": meaning} if meaning else {})


def _write_predictions(
    benchmark: Evaluator, num_shots: int, draw: int, lines: list[Line], path: Path
) -> None:
    """Writes the lines; of the first draw also the pictures of the first prompts, in
    order, which their lines list."""
    if dist.rank() != 0:
        return
    if draw == 0:
        _write_pictures(benchmark, num_shots, lines, path)
    _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write_pictures(
    benchmark: Evaluator, num_shots: int, lines: list[Line], path: Path
) -> None:
    place = path.with_suffix("")
    place.mkdir(parents=True, exist_ok=True)
    for number, line in zip(benchmark.chosen[:NUM_PICTURED], lines, strict=False):
        line["pictures"] = []
        for i, image in enumerate(benchmark.pictures(number, num_shots)):
            file = place / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', line['id'])}-{i}.png"
            shrink = min(1.0, LONGEST_SIDE / max(image.width, image.height))
            size = (
                max(1, round(image.height * shrink)),
                max(1, round(image.width * shrink)),
            )
            Pillow.fromarray(
                resize(decode_image(image.data), size).permute(1, 2, 0).numpy()
            ).save(file)
            line["pictures"].append(file.relative_to(path.parent.parent).as_posix())


def _write(path: Path, content: str) -> None:
    """Rank 0 writes aside and renames, so that a killed evaluation leaves no half
    file."""
    if dist.rank() != 0:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, content)
