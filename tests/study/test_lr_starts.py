"""Whether a start moves the best rate, on made-up grids and with the stand-in for
training."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mm1.miniature.lr_law import START_RATES, lr_study, start_search
from mm1.study import runner
from mm1.study.executors import LocalExecutor
from mm1.study.lr_fit import Point, read_points
from mm1.study.lr_starts import (
    StartSearch,
    describe_effects,
    run_start_search,
    start_effects,
    write_start_page,
)
from mm1.study.plan import StudyPlan
from tests.study.test_lr_search import FAKE, add_joint_run


def grid(best: dict[int, float]) -> list[Point]:
    """Exact parabolas; seed -> its best rate."""
    return [
        Point(100.0, rate, math.log(rate / own) ** 2, seed)
        for seed, own in best.items()
        for rate in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]


def test_a_start_moves_the_rate_if_it_does_so_for_every_seed() -> None:
    first = grid({1: 1.0, 2: 0.9, 3: 1.1})
    moved = grid({1: 2.0, 2: 1.81, 3: 2.19})
    apart = grid({1: 2.0, 2: 0.5, 3: 1.2})
    one, two = start_effects({1e5: (first, moved), 1e6: (first, apart)})
    assert one.log_ratio is not None
    assert math.exp(one.log_ratio.mean) == pytest.approx(2.0, rel=0.01)
    assert one.optima[0] is not None
    assert one.optima[0].lr == pytest.approx(0.9967, abs=1e-3)
    assert (one.verdict, two.verdict) == ("moved", "undecided")


def test_what_moves_one_of_two_sizes_by_chance_is_undecided() -> None:
    # p = 0.035 for either size: below 0.05 alone, 0.07 after the correction over both
    first = grid(dict.fromkeys((1, 2, 3), 1.0))
    moved = grid({seed: 2.0 ** ((seed + 1) / 3) for seed in (1, 2, 3)})
    (alone,) = start_effects({1e5: (first, moved)})
    assert alone.adjusted == pytest.approx(0.035, abs=1e-3)
    assert alone.verdict == "moved"
    both = start_effects({1e5: (first, moved), 1e6: (first, moved)})
    assert [each.adjusted for each in both] == [2 * alone.adjusted] * 2
    assert {each.verdict for each in both} == {"undecided"}


def test_one_seed_is_no_test_and_an_edge_leaves_its_seed_out() -> None:
    alone = grid({4: 1.0})
    high = grid({4: 50.0, 5: 1.0})
    several = grid({4: 1.0, 5: 0.5})
    (one,) = start_effects({1e5: (alone, grid({4: 2.0}))})
    assert one.verdict == "no test"
    assert one.log_ratio is not None
    assert math.exp(one.log_ratio.mean) == pytest.approx(2.0)
    (edge,) = start_effects({1e5: (several, high)})
    assert edge.log_ratio is not None
    assert (edge.log_ratio.num, edge.verdict) == (1, "no test")
    (none,) = start_effects({1e5: (alone, grid({4: 50.0}))})
    assert (none.log_ratio, none.optima[1], none.verdict) == (
        None,
        None,
        "no test",
    )


def test_sizes_are_crossed_with_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in's best rate falls with dim: the second start trains twice as wide
    ones."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    search = StartSearch(
        name="starts",
        title="Starts",
        about="Made up.",
        starts=("thin", "twice as wide"),
        sizes={
            float(dim): {
                "thin": partial(add_joint_run, dim),
                "twice as wide": partial(add_joint_run, 2 * dim),
            }
            for dim in (10, 40)
        },
        guess=0.05,
        prepare=lambda _: None,
    )
    result = run_start_search(
        search,
        StudyPlan(tmp_path),
        seeds=(0, 1),
        executor=LocalExecutor(4, FAKE),
    )
    for effect in result.effects:
        assert effect.log_ratio is not None
        assert effect.log_ratio.mean == pytest.approx(
            -0.8 * math.log(2), abs=1e-3
        )
        assert effect.verdict == "moved"
    points = read_points(tmp_path / "starts-twice-as-wide.csv")
    assert {point.params for point in points} == {10.0, 40.0}
    p = f"{result.effects[0].adjusted:.2g}"
    assert f"x 0.57 (0.57 to 0.57, 2 seeds)   {p}   moved" in describe_effects(
        result
    )
    page = write_start_page(result, tmp_path).read_text()
    assert page.count("<svg") == 4
    assert "began at 0.05" in page
    assert "Seeds: 0, 1." in page
    assert f">{p}<" in page


def test_both_sizes_start_at_the_same_two_rates(tmp_path: Path) -> None:
    plan = StudyPlan(tmp_path)
    search = start_search()
    for starts in search.sizes.values():
        for add in starts.values():
            for step in range(5):
                for seed in search.seeds:
                    add(plan, search.guess * 2**step, seed)
    assert Counter(plan.stages.values()) == {
        "pretrain": 60,
        "decoder": 12,
        "encoder": 3,
    }
    rates: Counter[tuple[int, float]] = Counter()
    for folder, stage in plan.stages.items():
        if stage == "pretrain":
            run: Any = plan.runs[folder]
            start: Any = plan.runs[run.init["decoder"]]
            assert start.model.decoder == run.model.decoder
            rates[run.model.decoder.dim, start.optimizer.peak_lr] += 1
    assert set(rates.values()) == {15}
    assert {rate for _, rate in rates} == set(START_RATES)
    law = lr_study("lr-law-mm1")
    assert not isinstance(law, StartSearch)
    assert len({law.guess(size) for size in law.sizes}) == 1
