"""The search for a law, with a stand-in for training whose law is known."""

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mm1.config import ConfigError, UserError
from mm1.miniature.lr_law import language_model_search, mm1_search
from mm1.nn.mm1 import MM1
from mm1.recipes.lr_law import describe_law, full_search
from mm1.study import runner
from mm1.study.executors import LocalExecutor
from mm1.study.lr_fit import best_rate, fit_lr_law, read_points
from mm1.study.lr_page import check_prediction, write_lr_page
from mm1.study.lr_search import (
    Grid,
    LrSearch,
    run_lr_search,
    train_grids,
)
from mm1.study.plan import StudyPlan
from mm1.train.origins import RANDOM
from mm1.train.trainer import Trainer

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))


def add_joint_run(dim: int, plan: StudyPlan, lr: float, seed: int) -> str:
    config = Trainer.Config(model=MM1.Config(), seed=seed)
    config.model.decoder.dim = dim
    config.optimizer.peak_lr = lr
    return plan.add("joint", config)


def search_around(
    guess: float, dims: tuple[int, ...] = (10, 20, 40, 80)
) -> LrSearch:
    *small, larger = [
        (float(dim**2), partial(add_joint_run, dim)) for dim in dims
    ]
    return LrSearch(
        name="rates",
        title="A <law>",
        about="",
        sizes=dict(small),
        larger=larger,
        guess=lambda size: 0.5 * size**-0.4 * (guess if size == 100.0 else 1.1),
        prepare=lambda _: None,
    )


def test_a_law_is_found_and_predicts_a_larger_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    plan = StudyPlan(tmp_path)
    result = run_lr_search(
        search_around(guess=5.0),
        plan,
        seeds=(0,),
        executor=LocalExecutor(4, FAKE),
    )
    # Losses are written with six digits.
    assert result.law.slope == pytest.approx(-0.4, abs=1e-4)
    assert result.larger.lr == pytest.approx(
        result.law.predict(6400.0).lr, rel=1e-3
    )
    # The first size's grid began too high and was extended once.
    assert len(plan.runs) == 4 * 5 + 1
    again = fit_lr_law(
        [
            point
            for point in read_points(tmp_path / "rates.csv")
            if point.params < 6400
        ]
    )
    assert again.slope == pytest.approx(result.law.slope, abs=1e-4)
    assert "(x 1.00), " in check_prediction(result.law, result.larger)
    page = write_lr_page(
        result, lambda size: 0.6 * size**-0.42, tmp_path
    ).read_text()
    assert "A &lt;law&gt;" in page
    assert page.count("<svg") == 5
    assert "slope: 95% interval" in describe_law(result.law)


def test_a_run_that_diverges_is_a_point_of_infinite_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    # The rate 3 makes the stand-in diverge; its best one is 0.5.
    grid = Grid(
        params=1.0, add=partial(add_joint_run, 1), guess=0.75, file="rates.csv"
    )
    (points,) = train_grids(
        [grid],
        StudyPlan(tmp_path),
        seeds=(0,),
        executor=LocalExecutor(4, FAKE),
    )
    assert [p.lr for p in points if p.cost == math.inf] == [3.0]
    assert best_rate(points).lr == pytest.approx(0.5, rel=1e-3)
    assert "1,3,diverged,0" in (tmp_path / "rates.csv").read_text()


def test_a_grid_that_stays_at_its_edge_and_a_run_that_fails_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("mm1.study.lr_search.MAX_EXTENSIONS", 0)
    with pytest.raises(
        ConfigError,
        match=r"size 100: the best rate \S+ is the lowest of its grid; add lower ones",
    ):
        run_lr_search(
            search_around(guess=6.0, dims=(10, 20, 40)),
            StudyPlan(tmp_path / "edge"),
            seeds=(0,),
            executor=LocalExecutor(4, FAKE),
        )
    # The rate 1 makes the stand-in fail.
    broken = search_around(guess=1.0 / 0.5 / 100**-0.4, dims=(10, 20, 40))
    with pytest.raises(
        UserError, match=r"failed, without a validation loss; see its log\.txt"
    ):
        run_lr_search(
            broken,
            StudyPlan(tmp_path / "broken"),
            seeds=(0,),
            executor=LocalExecutor(4, FAKE),
        )


@pytest.mark.parametrize("make_search", [language_model_search, mm1_search])
def test_the_grids_of_the_recipes_differ_in_width_and_rate_alone(
    make_search: Callable[[], LrSearch], tmp_path: Path
) -> None:
    plan = StudyPlan(tmp_path)
    made = make_search()
    runs = [
        add_run(plan, made.guess(size), 0)
        for size, add_run in (*made.sizes.items(), made.larger)
    ]
    for other in runs[1:]:
        assert {
            key.rpartition(" (run")[0] or key
            for key in plan.difference(runs[0], other)
        } <= {
            "model.decoder.dim",
            "model.decoder.num_heads",
            "model.decoder.hidden_dim",
            "optimizer.peak_lr",
        }


@pytest.mark.parametrize("make_search", [mm1_search, full_search])
def test_what_mm1s_start_from_is_the_same_for_every_size(
    make_search: Callable[[], LrSearch], tmp_path: Path
) -> None:
    """A language model of each size would bring a rate that falls with size along."""
    plan = StudyPlan(tmp_path)
    law = make_search()
    starts = {
        tuple(sorted(plan.runs[add_run(plan, 1e-3, 3)].init.items()))
        for add_run in law.sizes.values()
    }
    assert len(starts) == 1
    assert dict(*starts)["decoder"] == RANDOM


def test_the_full_search_is_at_the_sizes_of_the_paper(tmp_path: Path) -> None:
    law = full_search()
    assert [f"{size:.2g}" for size in law.sizes] == [
        "9.4e+06",
        "8.5e+07",
        "3e+08",
        "1.2e+09",
    ]
    assert law.larger[0] == pytest.approx(2.9e9, rel=0.02)
    assert len({law.guess(size) for size in law.sizes}) == 1
