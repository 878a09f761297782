"""Controls of few-shot figures: what is it in the shots that raises the score?

NAME, restricted     answers are the likeliest of the choices: the format of answers
                     is known without shots, so what shots add is more than that
NAME, wrong labels   if these shots are as good, the pairing of images and labels
                     does not matter (Min et al. 2022, arXiv:2202.12837)
NAME, labels alone   if these are as good, their images do not matter
NAME, moved labels   the choices trade places in shots and truth: only a model that
                     learns from its shots follows (Wei et al. 2023,
                     arXiv:2303.03846, flip them)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from mm1.eval.benchmarks import Benchmark
from mm1.eval.evaluator import Evaluator

CONTROLS: dict[str, dict[str, Any]] = {
    "restricted": {"restricted": True},
    "wrong labels": {"shot_labels": "wrong"},
    "labels alone": {"shot_labels": "alone"},
    "moved labels": {"shot_labels": "moved"},
}
"""Control -> its options."""


def control_name(benchmark: str, control: str) -> str:
    """The name of a control in configs and scores."""
    return f"{benchmark}, {control}"


def controls_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Benchmark -> those of its controls that are among the names, for benchmarks with
    any."""
    found = {
        name: [c for c in CONTROLS if control_name(name, c) in names]
        for name in names
    }
    return {name: controls for name, controls in found.items() if controls}


def is_control(name: str, names: Sequence[str]) -> bool:
    """Is it the control of another benchmark among the names?"""
    return any(
        name == control_name(each, control)
        for each in names
        for control in CONTROLS
    )


def with_controls(
    benchmarks: Mapping[str, Evaluator.Config], shots: Sequence[int]
) -> dict[str, Evaluator.Config]:
    """The benchmarks, and after each with a closed set of answers its controls.

    Args:
        benchmarks: name -> config.
        shots: the numbers of shots of the controls, where a benchmark does not set its
            own; restricted answers are asked for without shots, too.
    """
    every: dict[str, Evaluator.Config] = {}
    for name, config in benchmarks.items():
        every[name] = config
        if is_control(name, tuple(benchmarks)) or not _has_controls(config):
            continue
        own = config.shots if config.shots is not None else shots
        some = tuple(k for k in own if k)
        for control, options in CONTROLS.items():
            counts = (0, *some) if control == "restricted" else some
            if counts and not (config.restricted and "restricted" in options):
                every[control_name(name, control)] = replace(
                    config, shots=counts, **options
                )
    return every


def _has_controls(config: Evaluator.Config) -> TypeGuard[Benchmark.Config]:
    return (
        isinstance(config, Benchmark.Config)
        and config.shot_labels == "right"
        and config.build().has_choices
    )
