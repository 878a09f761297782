"""A law from runs, with a stand-in for training whose law is known."""

import sys
from functools import partial
from pathlib import Path

import pytest

from mm1.config import ConfigError, UserError
from mm1.miniature.lr_law import language_model_grid, mm1_grid
from mm1.recipes.lr_law import describe
from mm1.study import runner
from mm1.study.law import fit, read_points
from mm1.study.law_page import verdict, write_law_page
from mm1.study.places import Here
from mm1.study.plan import Plan
from mm1.study.scaling import Grid, search
from mm1.train.trainer import Trainer

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))


def make(dim: int, plan: Plan, lr: float, seed: int) -> str:
    config = Trainer.Config(seed=seed)
    config.model.decoder.dim = dim
    config.optimizer.peak_lr = lr  # type: ignore[attr-defined]
    return plan.add("joint", config)


def grid(guess: float, dims: tuple[int, ...] = (10, 20, 40, 80)) -> Grid:
    *small, larger = [(float(dim**2), partial(make, dim)) for dim in dims]
    return Grid(
        name="rates",
        title="A <law>",
        about="",
        sizes=dict(small),
        larger=larger,
        guess=lambda size: 0.5 * size**-0.4 * (guess if size == 100.0 else 1.1),
        prepare=lambda _: None,
    )


def test_a_law_is_found_and_foretells_a_larger_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    plan = Plan(tmp_path)
    found = search(grid(guess=5.0), plan, seeds=(0,), place=Here(4, FAKE))
    assert found.law.slope == pytest.approx(
        -0.4, abs=1e-4
    )  # losses are written in six digits
    assert found.larger.lr == pytest.approx(found.law.predict(6400.0).lr, rel=1e-3)
    assert (
        len(plan.runs) == 4 * 5 + 1
    )  # the first size's grid began too high and was extended once
    again = fit(
        [point for point in read_points(tmp_path / "rates.csv") if point.params < 6400]
    )
    assert again.slope == pytest.approx(found.law.slope, abs=1e-4)
    assert "(x 1.00), " in verdict(found.law, found.larger)
    page = write_law_page(found, lambda size: 0.6 * size**-0.42, tmp_path).read_text()
    assert "A &lt;law&gt;" in page
    assert page.count("<svg") == 5
    assert "slope: 95% interval" in describe(found.law)


def test_a_grid_that_stays_at_its_edge_and_a_run_that_fails_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("mm1.study.scaling.MOST_FURTHER", 0)
    with pytest.raises(
        ConfigError,
        match=r"size 100: the best rate \S+ is the lowest of its grid; add lower ones",
    ):
        search(
            grid(guess=6.0, dims=(10, 20, 40)),
            Plan(tmp_path / "edge"),
            seeds=(0,),
            place=Here(4, FAKE),
        )
    broken = grid(
        guess=1.0 / 0.5 / 100**-0.4, dims=(10, 20, 40)
    )  # the rate 1 makes the stand-in fail
    with pytest.raises(
        UserError, match=r"failed, without a held-out loss; its log\.txt says why"
    ):
        search(broken, Plan(tmp_path / "broken"), seeds=(0,), place=Here(4, FAKE))


@pytest.mark.parametrize("make_grid", [language_model_grid, mm1_grid])
def test_the_grids_of_the_recipes_differ_in_width_and_rate_alone(
    make_grid: object, tmp_path: Path
) -> None:
    plan = Plan(tmp_path)
    made = make_grid()  # type: ignore[operator]
    runs = [
        make_run(plan, made.guess(size), 0)
        for size, make_run in (*made.sizes.items(), made.larger)
    ]
    for other in runs[1:]:
        assert {
            key.rpartition(" (run")[0] or key for key in plan.difference(runs[0], other)
        } <= {
            "model.decoder.dim",
            "model.decoder.num_heads",
            "model.decoder.hidden_dim",
            "optimizer.peak_lr",
        }


def test_mm1s_start_from_the_language_models_of_the_first_law(tmp_path: Path) -> None:
    plan = Plan(tmp_path)
    laws = (language_model_grid(), mm1_grid())
    first, second = (
        [make_run(plan, law.guess(size), 3) for size, make_run in law.sizes.items()]
        for law in laws
    )
    assert [plan.runs[run].init["decoder"] for run in second] == first
