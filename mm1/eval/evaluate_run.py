"""A finished run's benchmarks, asked again: other benchmarks, other shots, or after the
run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1 import dist
from mm1.config import ConfigError, nearest
from mm1.eval.evaluate import evaluate
from mm1.infer.trained import Trained
from mm1.runs.folder import load_model, version


def evaluate_run(
    folder: Path,
    config: Any,
    *,
    names: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Scores of the config's benchmarks (or of those named), as `evaluate` gives them.

    Predictions made before with the same weights and benchmark are reused.

    Raises:
        ConfigError: a name is not among the config's benchmarks, or there is none at
            all.
    """
    chosen = list(names or config.benchmarks)
    for name in chosen:
        if name not in config.benchmarks:
            raise ConfigError(
                f"the run has no benchmark {name!r}{nearest(name, config.benchmarks)}"
            )
    if not chosen:
        raise ConfigError(
            "the run has no benchmarks; add one, such as benchmarks.coco=coco"
        )
    if shots is not None:
        for name in chosen:
            config.benchmarks[name].shots = tuple(shots)
    benchmarks = {name: config.benchmarks[name].build() for name in chosen}
    model, renderer, _ = load_model(folder, device := dist.start(), config=config)
    return evaluate(
        Trained(model, renderer, device),
        benchmarks,
        config.shots,
        out or folder,
        version=version(folder),
    )
