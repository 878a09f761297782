"""Evaluation of a trained model or a run folder, with resumption.

scores.json   {"digits": {"metric": ..., "chance": ...,
                          "shots": {"4": {"score": ..., "stderr": ...}}}}
predictions/
    digits-4shot.jsonl         a question a line, with prompt, prediction and score
    digits-4shot-draw2.jsonl   the same after other shots, if there are several draws
    digits-4shot/17-0.png      images of the first few prompts, listed in their lines
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from mm1 import dist
from mm1.config import ConfigError, nearest
from mm1.data.image_processing import decode_image, resize
from mm1.eval.controls import with_controls
from mm1.eval.evaluator import Evaluator, Line
from mm1.files import (
    file_name,
    read_jsonl,
    read_object,
    write_json,
    write_jsonl,
)
from mm1.folder_lock import FolderLock
from mm1.infer.quantization import Quantization, quantize_weights
from mm1.infer.trained_model import TrainedModel
from mm1.nn.decoder import LanguageModel
from mm1.nn.model import Model
from mm1.progress import ProgressBar
from mm1.runs.layout import SCORES, predictions_path
from mm1.runs.weights import RunWeights, load_model

NUM_WITH_IMAGES = 12
"""Questions of each benchmark whose images are written, for reports."""
LONGEST_SIDE = 384
"""Written images are scaled down to this, in pixels."""
LONGEST_ID = 80
"""Characters of a question's id in the names of its images' files."""


def evaluate_run(
    folder: Path,
    config: Any,
    *,
    names: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    controls: bool = False,
    out: Path | None = None,
    quantization: Quantization | None = None,
) -> dict[str, Any]:
    """Evaluates a finished run on the benchmarks of `config`, or on those in `names`.

    Args:
        folder: the run folder.
        config: its config, possibly edited: more benchmarks, other options.
        names: which of the config's benchmarks; None: all.
        shots: numbers of shots that replace the benchmarks' own.
        controls: whether to add the controls of few-shot figures
            (`mm1.eval.controls`).
        out: where predictions and scores go; None: the run folder.
        quantization: of the weights; needs an `out`, since such scores are not the
            run's.

    Returns:
        The content of scores.json, as `evaluate` does.

    Raises:
        ConfigError: the config has no benchmark of that name, or none at all, or none
            that `controls` are defined for; or `quantization` has no `out`.
        FolderInUse: another process writes there.
    """
    if quantization is not None and out in (None, folder):
        raise ConfigError(
            f"the scores of {quantization} weights are not those of the run: name"
            " another folder for them (out)"
        )
    chosen = list(names or config.benchmarks)
    for name in chosen:
        if name not in config.benchmarks:
            raise ConfigError(
                f"the run has no benchmark {name!r}{nearest(name, config.benchmarks)}"
            )
    if not chosen:
        raise ConfigError(
            f"the run has no benchmarks; {_proposal(config.model)}"
        )
    own = {} if shots is None else {"shots": tuple(shots)}
    selected = {
        name: replace(config.benchmarks[name], **own) for name in chosen
    }
    if controls:
        selected = with_controls(selected, config.shots)
        if len(selected) == len(chosen):
            raise ConfigError(
                f"there are no controls for {', '.join(chosen)}: they need shots, and"
                " questions with a closed set of answers"
            )
    benchmarks = {
        file_name(name, "benchmark"): each.build()
        for name, each in selected.items()
    }
    device = dist.start()
    with FolderLock(out or folder):
        weights = RunWeights(folder)
        model, renderer, _ = load_model(
            folder, device, config=config, weights=weights
        )
        version = weights.fingerprint
        if quantization is not None:
            quantize_weights(model, quantization)
            version += f" {quantization}"
        return evaluate(
            TrainedModel(model, renderer, device),
            benchmarks,
            config.shots,
            out or folder,
            version=version,
        )


def _proposal(model: Model.Config) -> str:
    """The benchmarks that suit a model."""
    if isinstance(model, LanguageModel.Config):
        return "add one, such as benchmarks.coco=coco"
    return (
        f"a {model.owner.__name__} gives features, no answers: `mm1 list benchmarks`"
        " shows which take those"
    )


def build_benchmarks(
    benchmarks: Mapping[str, Evaluator.Config],
    model: Model,
    shots: Sequence[int],
) -> dict[str, Evaluator]:
    """Benchmarks that suit a model, with their records in memory: a missing file shows
    before the training, not after it."""
    built = {
        file_name(name, "benchmark"): config.build()
        for name, config in benchmarks.items()
    }
    for benchmark in built.values():
        benchmark.check(model)
        benchmark.load_records(shots)
    return built


def evaluate(
    trained: TrainedModel,
    benchmarks: Mapping[str, Evaluator],
    shots: Sequence[int],
    folder: Path,
    *,
    version: str,
) -> dict[str, Any]:
    """Evaluates on every benchmark at every number of shots; all ranks call together.

    Args:
        benchmarks: name -> benchmark.
        shots: numbers of shots for benchmarks that do not set their own.
        folder: where predictions and scores.json go.
        version: a fingerprint of the weights. Scores made with other weights are
            dropped; a draw made with the same weights, settings and records is reused.

    Returns:
        The content of scores.json: `score` is the mean over questions and draws,
        `stderr` its standard error over questions (each averaged over draws), `spread`
        the standard deviation of the draws' scores.

    Raises:
        ConfigError: a benchmark does not suit the model, or has too few train records.
    """
    for benchmark in benchmarks.values():
        benchmark.check(trained.model)
    scores = _known_scores(folder / SCORES, version)
    counts = {name: b.shot_counts(shots) for name, b in benchmarks.items()}
    total = sum(
        len(benchmark.chosen) * sum(map(benchmark.num_draws, counts[name]))
        for name, benchmark in benchmarks.items()
    )
    with ProgressBar("questions", total) as bar:
        for name, benchmark in benchmarks.items():
            known = scores.get(name, {}).get("shots", {})
            scores[name] = {
                "metric": benchmark.metric,
                "chance": benchmark.chance,
                "shots": known,
            }
            settings = _settings(benchmark, trained, counts[name])
            for num_shots, fingerprint in settings.items():
                key = str(num_shots)
                old = known.get(key, {})
                reusable = old.get("settings") == fingerprint
                num_known = len(old.get("draws", ())) if reusable else 0
                for draws in _draws(
                    name, benchmark, trained, num_shots, num_known, folder, bar
                ):
                    result = _result(benchmark, draws, num_shots)
                    result |= {"version": version, "settings": fingerprint}
                    if result != known.get(key):
                        known[key] = result
                        if dist.rank() == 0:
                            write_json(folder / SCORES, scores)
                        dist.say(
                            f"{name}, {num_shots} shots:"
                            f" {format_score(benchmark.metric, result)}"
                        )
    return scores


def format_scores(scores: Mapping[str, Any]) -> str:
    """The content of scores.json as text: a line for each benchmark and number of
    shots."""
    return "\n".join(
        f"{name:24} {num_shots:>2} shots  {format_score(result['metric'], score)}"
        for name, result in scores.items()
        for num_shots, score in result["shots"].items()
    )


def format_score(metric: str, score: Mapping[str, Any]) -> str:
    spread = (
        f", spread {score['spread']:.3f} over {len(score['draws'])} draws"
        if "spread" in score
        else ""
    )
    said = [
        score[key] for key in ("zero_shot_prompt", "control") if key in score
    ]
    meaning = f" ({'; '.join(said)})" if said else ""
    return f"{metric} {score['score']:.3f} +- {score['stderr']:.3f}{spread}{meaning}"


def _draws(
    name: str,
    benchmark: Evaluator,
    trained: TrainedModel,
    num_shots: int,
    num_known: int,
    folder: Path,
    bar: ProgressBar,
) -> Iterator[list[list[Line]]]:
    """Yields the lines of all draws so far, after each new draw and at the end.

    The first `num_known` draws have scores; they are read from their files where those
    still exist.
    """
    draws: list[list[Line]] = []
    num_draws = benchmark.num_draws(num_shots)
    for draw in range(num_draws):
        path = predictions_path(folder, name, num_shots, draw)
        known = dist.all_true(draw < num_known and path.is_file())
        if known:
            draws.append(read_jsonl(path))
            bar.advance(len(benchmark.chosen))
        else:
            benchmark.prepare(
                num_shots,
                lambda done, total: bar.update(
                    bar.completed, f"images for retrieval {done:,}/{total:,}"
                ),
            )
            lines = benchmark.evaluate(
                trained,
                num_shots,
                lambda n: bar.advance(n * dist.data_size()),
                draw,
            )
            _write_predictions(path, lines, benchmark, num_shots, draw)
            draws.append(lines)
        if not known or draw == num_draws - 1:
            yield draws


def _write_predictions(
    path: Path,
    lines: list[Line],
    evaluator: Evaluator,
    num_shots: int,
    draw: int,
) -> None:
    """Writes the lines on rank 0, and for the first draw the images of the first
    prompts, which are added to their lines as `pictures`."""
    if dist.rank() != 0:
        return
    if draw == 0:
        for number, line in zip(
            evaluator.chosen[:NUM_WITH_IMAGES], lines, strict=False
        ):
            line["pictures"] = _write_images(
                evaluator, number, num_shots, line, path
            )
    write_jsonl(path, lines)


def _write_images(
    evaluator: Evaluator, number: int, num_shots: int, line: Line, path: Path
) -> list[str]:
    """Their files, relative to the run folder."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, image in enumerate(evaluator.images(number, num_shots)):
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", line["id"])[:LONGEST_ID]
        file = folder / f"{name}-{i}.png"
        scale = min(1.0, LONGEST_SIDE / max(image.width, image.height))
        height = max(1, round(image.height * scale))
        width = max(1, round(image.width * scale))
        pixels = resize(decode_image(image.data), (height, width)).permute(
            1, 2, 0
        )
        content = io.BytesIO()
        Pillow.fromarray(pixels.numpy()).save(content, format="PNG")
        file.write_bytes(content.getvalue())
        files.append(file.relative_to(path.parent.parent).as_posix())
    return files


def _known_scores(path: Path, version: str) -> dict[str, Any]:
    """The scores in the file that were made with these weights."""
    if not path.is_file():
        return {}
    scores = read_object(
        path, "delete it, and the benchmarks will be run again"
    )
    for result in scores.values():
        result["shots"] = {
            k: v
            for k, v in result["shots"].items()
            if v.get("version") == version
        }
    return {name: result for name, result in scores.items() if result["shots"]}


def _settings(
    benchmark: Evaluator, trained: TrainedModel, shots: Sequence[int]
) -> dict[int, str]:
    """Number of shots -> a fingerprint of all that results depend on but the
    weights."""
    test = (trained.renderer.image_processor, _fingerprint(benchmark.test))
    uses_train = any(map(benchmark.uses_train, shots))
    train = _fingerprint(benchmark.train) if uses_train else ""
    return {
        k: _fingerprint(
            [
                benchmark.settings(k),
                test,
                train if benchmark.uses_train(k) else "",
            ]
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
    extra = [benchmark.extra_metrics(lines) for lines in draws]
    result |= {
        name: float(np.mean([metrics[name] for metrics in extra]))
        for name in extra[0]
    }
    result["draws"] = means.tolist()
    if len(draws) > 1:
        result["spread"] = float(means.std(ddof=1))
    if meaning := benchmark.describe_zero_shot(num_shots):
        result["zero_shot_prompt"] = meaning
    if control := benchmark.describe_control(num_shots):
        result["control"] = control
    return result
