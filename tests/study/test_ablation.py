"""Verdicts on made-up numbers, and one small study from its function to its page."""

import json
from pathlib import Path

import pytest
import worlds

from mm1.runs.results import RunFolder
from mm1.study.ablation import Lesson, Measure, Study, better, judge
from mm1.study.page import contrast_text
from mm1.study.places import Here
from mm1.study.plan import Plan
from mm1.study.run import run_studies

VALUES = {
    "good": {0: 0.5, 1: 0.7, 2: 0.9},
    "poor": {0: 0.4, 1: 0.59, 2: 0.81},
    "like poor": {0: 0.5, 1: 0.5, 2: 0.82},
    "one seed": {0: 0.1},
    "none": {},
}


@pytest.mark.parametrize(
    ("row", "than", "word"),
    [
        ("good", "poor", "holds"),
        ("poor", "good", "does not hold"),
        ("like poor", "poor", "undecided"),
        ("good", "one seed", "undecided"),
        ("good", "none", "undecided"),
    ],
)
def test_the_verdict_is_that_of_the_interval(row: str, than: str, word: str) -> None:
    assert judge(better("", "m", row, than), VALUES).word == word


def test_a_lesson_of_several_contrasts_holds_if_all_do() -> None:
    first = {"good": 1.0, "poor": -1.0}
    second = {"good": 1.0, "like poor": -1.0}
    lesson = Lesson(text="", measure="m", contrasts=(first, second))
    assert judge(lesson, VALUES).word == "undecided"
    assert (
        judge(Lesson(text="", measure="m", contrasts=(first, first)), VALUES).word
        == "holds"
    )
    back = {row: -weight for row, weight in first.items()}
    assert (
        judge(Lesson(text="", measure="m", contrasts=(back, second)), VALUES).word
        == "does not hold"
    )
    assert contrast_text({"b": -1.0, "a": 0.5, "c": 0.5}) == "0.5 (a) + 0.5 (c) - (b)"


def _minus_loss(run: RunFolder) -> float | None:
    held = run.curve("validation")
    return -held[-1][1] if held else None


def _study(world: Path) -> Study:
    def rows(plan: Plan, seed: int) -> dict[str, str]:
        base = worlds.pretrain(world, steps=6, seed=seed)
        wild = worlds.pretrain(world, steps=40)
        wild.optimizer.peak_lr = 1e30
        return {"calm": plan.add("joint", base), "wild": plan.add("joint", wild)}

    return Study(
        title="Calm <or> wild",
        about="An example.",
        rows=rows,
        measures={
            "loss": Measure(
                read=_minus_loss, about="minus the held-out loss", percent=False
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
    assert run_studies("Test", {"calm": study}, out, seeds=(0, 1), place=Here(2)) == 0
    results = json.loads((out / "results.json").read_text())["calm"]
    values = results["values"]["loss"]
    assert values["calm"]["0"] != values["calm"]["1"]
    assert values["wild"] == {}
    assert (
        len(list((out / "runs").glob("*/"))) == 3
    )  # "wild" does not depend on the seed
    html, markdown = ((out / f"report.{kind}").read_text() for kind in ("html", "md"))
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
    assert "undecided      calm is better" in capsys.readouterr().out
