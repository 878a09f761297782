"""Intervals against published tables, and their coverage against what they promise."""

import numpy as np
import pytest

from mm1.study.statistics import (
    Estimate,
    contrast_values,
    estimate,
    holm,
    p_value,
    t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "dof", "value"),
    # From tables of Student's t (for one degree of freedom it is tan).
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 4, 2.77645),
        (0.995, 2, 9.92484),
        (0.95, 10, 1.81246),
        (0.025, 3, -3.18245),
        (0.975, 1000, 1.96234),
    ],
)
def test_quantiles_are_those_of_tables(
    probability: float, dof: int, value: float
) -> None:
    """Tables give six digits; the worst difference measured is 1.8e-6 of the value."""
    assert t_quantile(probability, dof) == pytest.approx(value, rel=2e-6)


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    """2,000 draws of three values: the share is 0.95 with a standard error of 0.005."""
    draws = np.random.default_rng(0).normal(1.0, 2.0, size=(2000, 3))
    factor = t_quantile(0.975, 2)
    half = factor * draws.std(1, ddof=1) / 3**0.5
    made = estimate(draws[0].tolist())
    assert made.half == pytest.approx(half[0])
    assert (abs(draws.mean(1) - 1.0) <= half).mean() == pytest.approx(
        0.95, abs=0.015
    )


def test_one_value_has_no_interval_and_decides_nothing() -> None:
    one = estimate([0.3])
    assert one == Estimate(0.3, None, 1)
    assert not one.above_zero
    assert not one.below_zero


def test_a_difference_is_paired_over_the_seeds_that_both_have() -> None:
    """Seeds differ by far more than the rows: only the pairing shows that `a` is
    better."""
    values = {
        "a": {0: 0.1, 1: 0.5, 2: 0.9, 7: 0.0},
        "b": {0: 0.05, 1: 0.46, 2: 0.84},
    }
    differences = contrast_values({"a": 1.0, "b": -1.0}, values)
    assert differences == pytest.approx([0.05, 0.04, 0.06])
    assert estimate(differences).above_zero
    assert estimate([-v for v in differences]).below_zero


@pytest.mark.parametrize("num", [2, 3, 6, 40])
def test_a_p_value_is_the_level_at_which_the_interval_touches_zero(
    num: int,
) -> None:
    values = np.random.default_rng(num).normal(0.4, 1.0, size=num)
    p = p_value(values.tolist())
    assert p is not None
    made = estimate(values.tolist(), 1 - p)
    assert made.half == pytest.approx(abs(made.mean), rel=1e-4)


def test_p_values_of_tables() -> None:
    """t = 4.30265 with two degrees of freedom leaves 5% in both tails."""
    values = [1 - 3**0.5 / 4.30265, 1.0, 1 + 3**0.5 / 4.30265]
    assert p_value(values) == pytest.approx(0.05, rel=1e-4)
    assert p_value([-v for v in values]) == p_value(values)
    assert p_value([0.3]) is None
    assert p_value([0.0, 0.0]) == 1
    assert p_value([0.2, 0.2]) == 0


def test_holm_by_hand() -> None:
    """0.01, 0.02, 0.03 and 0.04 of four: 4 x 0.01, 3 x 0.02, then never less."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx(
        [0.06, 0.04, 0.06, 0.06]
    )
    assert holm([0.01, None]) == [0.02, 1.0]
    assert holm([]) == []


def test_holm_rejects_a_true_hypothesis_as_rarely_as_it_says() -> None:
    """Of 2,000 families with five true hypotheses of eight, at most 5% reject one."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(2000):
        true = rng.random(5)
        adjusted = holm([*true.tolist(), 1e-6, 1e-4, 1e-3])
        wrong += min(adjusted[:5]) <= 0.05
    assert wrong / 2000 == pytest.approx(0.05, abs=0.012)
