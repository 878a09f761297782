"""Verdicts on made-up numbers, and one small study from start to end."""

import json
from pathlib import Path
from typing import Any

import pytest
import worlds

from mm1.runs.results import RunFolder
from mm1.study.executors import LocalExecutor
from mm1.study.page import contrast_text
from mm1.study.plan import StudyPlan
from mm1.study.run_studies import run_studies
from mm1.study.runner import RunState
from mm1.study.study import (
    Lesson,
    Measure,
    Study,
    better,
    collect,
    judge_lesson,
    mean_score,
)
from mm1.train.optimizers.adamw import AdamW

VALUES = {
    "good": {0: 0.5, 1: 0.7, 2: 0.9},
    "poor": {0: 0.4, 1: 0.59, 2: 0.81},
    "like poor": {0: 0.5, 1: 0.5, 2: 0.82},
    "one seed": {0: 0.1},
    "none": {},
}


@pytest.mark.parametrize(
    ("row", "than", "verdict"),
    [
        ("good", "poor", "holds"),
        ("poor", "good", "does not hold"),
        ("like poor", "poor", "undecided"),
        ("good", "one seed", "no test"),
        ("good", "none", "no test"),
    ],
)
def test_the_verdict_follows_the_interval(
    row: str, than: str, verdict: str
) -> None:
    assert judge_lesson(better("", "m", row, than), VALUES).verdict == verdict


def test_a_lesson_of_several_contrasts_holds_if_all_do() -> None:
    first = {"good": 1.0, "poor": -1.0}
    second = {"good": 1.0, "like poor": -1.0}
    reverse = {row: -weight for row, weight in first.items()}
    for contrasts, verdict in (
        ((first, second), "undecided"),
        ((first, first), "holds"),
        ((reverse, second), "does not hold"),
    ):
        lesson = Lesson(text="", measure="m", contrasts=contrasts)
        assert judge_lesson(lesson, VALUES).verdict == verdict


def test_a_contrast_without_seeds_leaves_no_test_unless_another_fails() -> None:
    single = {"good": 1.0, "one seed": -1.0}
    up = {"good": 1.0, "poor": -1.0}
    down = {row: -weight for row, weight in up.items()}
    for contrasts, verdict in (
        ((up, single), "no test"),
        ((down, single), "does not hold"),
    ):
        lesson = Lesson(text="", measure="m", contrasts=contrasts)
        judged = judge_lesson(lesson, VALUES)
        assert judged.verdict == verdict
        assert judged.p_value is None


def test_a_lesson_has_no_test_if_one_of_its_contrasts_has_none() -> None:
    for than, verdict in (("poor", "holds"), ("one seed", "no test")):
        contrasts = tuple({"good": 1.0, row: -1.0} for row in ("poor", than))
        lesson = Lesson(text="", measure="score", contrasts=contrasts)
        assert judge_lesson(lesson, VALUES).verdict == verdict


def test_one_contrast_of_several_below_zero_is_judged_more_strictly() -> None:
    """Its interval at 95% lies below zero, but not that at 97.5%, which two contrasts
    need for 95% together."""
    values = {
        "base": {0: 0.0, 1: 0.0, 2: 0.0},
        "above": {0: 1.0, 1: 1.1, 2: 0.9},
        # t = 5.2: p is 0.035 for two degrees of freedom
        "below": {0: -0.1, 1: -0.15, 2: -0.2},
    }
    down = {"below": 1.0, "base": -1.0}
    up = {"above": 1.0, "base": -1.0}
    one, two = (
        judge_lesson(Lesson(text="", measure="", contrasts=c), values)
        for c in ((down,), (down, up))
    )
    assert (one.verdict, two.verdict) == ("does not hold", "undecided")
    assert one.p_value is not None
    assert two.p_value == pytest.approx(2 * one.p_value)


def test_runs_that_have_not_finished_and_scores_that_are_not_there_are_left_out() -> (
    None
):
    study = Study(
        title="",
        about="",
        rows=lambda plan, seed: {},
        measures={"score": Measure(read=lambda run: 0.5, about="")},
    )
    rows = {0: {"row": "one"}, 1: {"row": "two"}}
    states: dict[str, RunState] = {"one": "finished", "two": "failed"}
    results = collect("study", study, rows, states)
    assert results.values == {"score": {"row": {0: 0.5}}}

    class Scores(RunFolder):
        def shots(self, name: str) -> Any:
            return {
                "a": {4: {"score": 0.5}, 8: {"score": 1.0}},
                "b": {4: {"score": 0.1}},
            }[name]

    run = Scores(Path())
    assert mean_score(("a", "b"), 4)(run) == pytest.approx(0.3)
    assert mean_score(("a", "b"), 8)(run) is None


def test_a_contrast_is_written_with_its_weights() -> None:
    assert (
        contrast_text({"b": -1.0, "a": 0.5, "c": 0.5})
        == "0.5 (a) + 0.5 (c) - (b)"
    )


def _minus_loss(run: RunFolder) -> float | None:
    losses = run.curve("validation")
    return -losses[-1][1] if losses else None


def _study(world: Path) -> Study:
    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        base = worlds.pretrain(world, steps=6, seed=seed)
        wild = worlds.pretrain(world, steps=40)
        wild.optimizer = AdamW.Config(peak_lr=1e30, weight_decay=0.0)
        return {
            "calm": plan.add("joint", base),
            "wild": plan.add("joint", wild),
        }

    return Study(
        title="Calm <or> wild",
        about="An example.",
        rows=rows,
        measures={
            "loss": Measure(
                read=_minus_loss,
                about="minus the validation loss",
                percent=False,
            )
        },
        lessons=(
            better("calm is better", "loss", "calm", "wild"),
            Lesson(
                text="calm is good",
                measure="loss",
                contrasts=({"calm": 1.0}, {"calm": 2.0}),
            ),
        ),
        paper={"loss": {"wild": -9.5}},
        paper_source="made up.",
    )


@pytest.mark.slow
def test_a_study_from_its_function_to_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = _study(worlds.make_world(tmp_path / "world"))
    out = tmp_path / "out"
    assert (
        run_studies(
            "Test",
            {"calm": study},
            out,
            seeds=(0, 1),
            executor=LocalExecutor(2),
        )
        == 0
    )
    results = json.loads((out / "results.json").read_text())["calm"]
    values = results["values"]["loss"]
    assert values["calm"]["0"] != values["calm"]["1"]
    assert values["wild"] == {}
    # "wild" does not depend on the seed.
    assert len(list((out / "runs").glob("*/"))) == 3
    html, markdown = (
        (out / f"report.{kind}").read_text() for kind in ("html", "md")
    )
    for text in (
        "wild, seed 1: diverged",
        "optimizer.peak_lr: 0.01 ",
        "[-9.5]",
        "torch",
    ):
        assert text in markdown
        assert text in html
    lessons = [
        line.split(" | ")[1:4]
        for line in markdown.splitlines()
        if line.startswith("| ") and "(calm)" in line
    ]
    assert lessons[1:] == [
        ["calm is good", "loss", "(calm)"],
        ["", "", "2 (calm)"],
    ]  # a row for each contrast
    assert "Calm &lt;or&gt; wild" in html
    assert "http" not in html
    assert "no test        calm is better" in capsys.readouterr().out
