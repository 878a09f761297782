"""The contract of a learning-rate schedule, over every class in the file, and the shape
of each."""

from typing import Any

import pytest

from mm1.config import ConfigError
from mm1.train import schedulers
from mm1.train.schedulers import (
    Scheduler,
    WarmupConstant,
    WarmupCosine,
    WarmupStableDecay,
)

SCHEDULERS = [
    c
    for c in vars(schedulers).values()
    if isinstance(c, type) and issubclass(c, Scheduler) and c is not Scheduler
]
WARMUP = 4
STEPS = 104


def rates(config: Scheduler.Config, steps: int = STEPS) -> list[float]:
    scheduler = config.build(peak_lr=2.0, steps=steps)
    return [scheduler.learning_rate(step) for step in range(steps)]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_it_warms_up_to_the_peak_and_never_rises_again(kind: Any) -> None:
    lr = rates(kind.Config(warmup_steps=WARMUP))
    assert lr[:WARMUP] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert lr[WARMUP] == max(lr) == 2.0
    assert all(
        a >= b > 0 for a, b in zip(lr[WARMUP:], lr[WARMUP + 1 :], strict=False)
    )


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_without_a_warm_up_it_starts_at_the_peak(kind: Any) -> None:
    assert rates(kind.Config(warmup_steps=0))[0] == 2.0


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_it_is_a_function_of_the_step_alone(kind: Any) -> None:
    """Whatever was asked before: nothing needs saving for a resume."""
    config = kind.Config(warmup_steps=WARMUP)
    in_order = rates(config)
    scheduler = config.build(peak_lr=2.0, steps=STEPS)
    backwards = [
        scheduler.learning_rate(step) for step in reversed(range(STEPS))
    ]
    assert backwards[::-1] == in_order
    assert scheduler.learning_rate(10 * STEPS) == scheduler.learning_rate(STEPS)


@pytest.mark.parametrize("kind", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, WARMUP])
def test_a_run_may_end_within_the_warm_up(kind: Any, steps: int) -> None:
    lr = rates(kind.Config(warmup_steps=WARMUP), steps)
    assert lr == pytest.approx([0.5, 1.0, 1.5, 2.0][:steps])


def at(config: Scheduler.Config, *steps: int) -> list[float]:
    scheduler = config.build(peak_lr=1.0, steps=STEPS)
    return [scheduler.learning_rate(step) for step in steps]


def test_cosine_falls_to_a_tenth_or_to_zero() -> None:
    tenth = WarmupCosine.Config(warmup_steps=WARMUP)
    assert at(tenth, 4, 54, 104) == pytest.approx([1.0, 0.55, 0.1])
    zero = WarmupCosine.Config(warmup_steps=WARMUP, min_lr_ratio=0.0)
    assert at(zero, 4, 54, 104) == pytest.approx([1.0, 0.5, 0.0])


def test_stable_decay_is_constant_and_then_linear() -> None:
    config = WarmupStableDecay.Config(
        warmup_steps=WARMUP, decay_ratio=0.2, min_lr_ratio=0.1
    )
    assert at(config, 4, 50, 84) == pytest.approx([1.0, 1.0, 1.0])
    assert at(config, 89, 94, 104) == pytest.approx([0.775, 0.55, 0.1])


def test_constant_stays_at_the_peak() -> None:
    assert at(WarmupConstant.Config(warmup_steps=WARMUP), 4, 50, 104) == [
        1.0,
        1.0,
        1.0,
    ]


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_a_decay_that_is_no_share_of_the_steps_is_refused(ratio: float) -> None:
    config = WarmupStableDecay.Config(decay_ratio=ratio)
    with pytest.raises(
        ConfigError, match=rf"decay_ratio={ratio} must be above 0"
    ):
        config.build(peak_lr=1.0, steps=10)
