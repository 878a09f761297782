"""Verdicts of several lessons together, on made-up numbers."""

from dataclasses import replace

import pytest

from mm1.study.family import corrected_lessons, family_rows, when_stated
from mm1.study.statement import statement
from mm1.study.study import (
    Lesson,
    Measure,
    Results,
    Study,
    better,
    judge_lesson,
)

SCORE = Measure(read=lambda run: None, about="of made-up numbers")
VALUES = {
    "base": dict.fromkeys(range(4), 0.5),
    "far above": {0: 0.90, 1: 0.91, 2: 0.90, 3: 0.89},
    "just above": {0: 0.60, 1: 0.70, 2: 0.57, 3: 0.58},
    "level": {0: 0.6, 1: 0.4, 2: 0.5, 3: 0.51},
    "below": {0: 0.10, 1: 0.11, 2: 0.10, 3: 0.09},
}


def results(*rows: str) -> Results:
    lessons = tuple(
        better(f"{row} is better", "score", row, "base") for row in rows
    )
    study = Study(
        title="Made up",
        about="Nothing varies.",
        rows=lambda plan, seed: dict.fromkeys(VALUES, "run"),
        measures={"score": SCORE},
        lessons=lessons,
        seeds=(7, 8),
        stated="2026-01-02",
    )
    judged = tuple(judge_lesson(lesson, VALUES) for lesson in lessons)
    return Results("made_up", study, {}, {}, {}, judged)


def test_what_holds_by_itself_may_not_hold_among_many() -> None:
    alone = corrected_lessons([results("just above")])
    assert [each.verdict for each in alone] == ["holds"]
    several = corrected_lessons(
        [results("far above", "just above"), results("level", "below")]
    )
    assert [each.verdict for each in several] == [
        "holds",
        "undecided",
        "undecided",
        "does not hold",
    ]
    assert [each.judged.verdict for each in several][1] == "holds"


def test_a_single_seed_is_no_test_and_counts_as_one_of_the_family() -> None:
    values = VALUES | {"once": {3: 0.9}}
    judged = tuple(
        judge_lesson(better("", "score", row, "base"), values)
        for row in ("once", "just above")
    )
    both = corrected_lessons([replace(results(), lessons=judged)])
    assert [each.verdict for each in both] == ["no test", "undecided"]
    assert both[0].judged.estimates[0].mean == pytest.approx(0.4)


def test_a_lesson_of_several_contrasts_counts_by_its_weakest() -> None:
    strong = {"far above": 1.0, "base": -1.0}
    weak = {"just above": 1.0, "base": -1.0}
    against = {"below": 1.0, "base": -1.0}
    single, both, mixed = (
        judge_lesson(Lesson(text="", measure="", contrasts=c), VALUES)
        for c in ((weak,), (strong, weak), (strong, against))
    )
    assert both.p_value == single.p_value
    assert both.verdict == "holds"
    assert mixed.verdict == "does not hold"
    assert mixed.p_value is not None
    assert mixed.p_value < 0.001


def test_the_table_shows_the_lowest_of_several_contrasts() -> None:
    made = results("level")
    contrasts = tuple(
        {row: 1.0, "base": -1.0} for row in ("far above", "level", "just above")
    )
    both = judge_lesson(
        Lesson(text="two", measure="score", contrasts=contrasts), VALUES
    )
    (row,) = family_rows([replace(made, lessons=(both,))])
    assert row[1].startswith("+0.3 ")


def test_the_table_shows_estimates_and_designs_that_were_given_up() -> None:
    made = results("far above")
    tried = replace(
        made.study.lessons[0], earlier=("in May: -3.0, does not hold",)
    )
    made = replace(made, lessons=(judge_lesson(tried, VALUES),))
    (row,) = family_rows([made])
    assert row[:3] == (
        "far above is better",
        "+40.0 \N{PLUS-MINUS SIGN} 1.3",
        "4",
    )
    assert row[4:] == ("holds", "in May: -3.0, does not hold")


def test_a_statement_says_rows_measures_tests_and_seeds() -> None:
    text = statement({"made_up": results("level", "below").study})
    for words in (
        "The 2 lessons below are one family",
        "Stated: 2026-01-02. Seeds: 7, 8.",
        "Rows: base; far above; just above; level; below.",
        "- Measure *score*: of made-up numbers.",
        "**level is better.** *score*: (level) - (base).",
    ):
        assert words in text
    made = results("level").study
    alone = statement({"one": replace(made, lessons=made.lessons[:1])})
    assert "The lesson below is alone" in alone
    assert "family" not in alone


def test_other_seeds_than_stated_are_no_test_of_what_was() -> None:
    made = results("level")
    stated = replace(made, rows={"base": {7: "run", 8: "run"}})
    as_stated = "stated on 2026-01-02, with these seeds (7, 8)"
    assert when_stated([stated]) == [f"Made up: {as_stated}."]
    other = replace(made, rows={"base": {7: "run"}})
    undated = replace(stated, study=replace(made.study, stated=""))
    assert when_stated([other, stated, undated, stated]) == [
        "Made up: other seeds than stated (7), so no test of what was.",
        f"Made up; Made up: {as_stated}.",
        "Made up: not stated in advance; seeds 7, 8.",
    ]
    assert when_stated([stated, stated]) == [f"All of it: {as_stated}."]
