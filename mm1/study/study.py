"""A study: rows that differ in one respect, trained with several seeds; measures; and
lessons with a verdict each.

The test of a lesson is stated in advance. It consists of one or more contrasts of rows,
such as "the score of this row minus the score of that one", computed seed by seed: the
rows of a seed start from the same runs, so the effect of the seed cancels. With the
mean over seeds and its 95% interval by Student's t, a lesson

    holds             if the interval of every contrast lies above zero
    does not hold     if that of some contrast lies below zero, at 95% for all of them
                      together
    has no test       if some contrast has fewer than two seeds: a single one was
                      run, or runs diverged
    is undecided      otherwise: too few seeds, or too small a difference

Of twenty lessons without any effect about one so comes out as "holds" or "does not
hold" by chance. `mm1.study.family` corrects verdicts for all lessons that are judged
together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mm1.files import write_json
from mm1.runs.results import RunFolder
from mm1.study.plan import StudyPlan
from mm1.study.runner import RunState
from mm1.study.statistics import (
    LEVEL,
    Estimate,
    contrast_values,
    estimate,
    p_value,
)

DEFAULT_SEEDS = (0, 1, 2)

Contrast = Mapping[str, float]
"""Row -> its weight; the weights sum to zero."""
Verdict = Literal["holds", "does not hold", "undecided", "no test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number read from a finished run, None if it has none. Higher is better."""

    read: Callable[[RunFolder], float | None]
    about: str
    percent: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    text: str
    measure: str
    contrasts: tuple[Contrast, ...]
    words: tuple[str, ...] = ()
    """The contrasts in words, where they have too many terms to be readable."""
    earlier: tuple[str, ...] = ()
    """Designs that this one replaced after they had been run: dates and results."""


def better(text: str, measure: str, row: str, than: str) -> Lesson:
    """A lesson that one row is better than another."""
    return Lesson(
        text=text, measure=measure, contrasts=({row: 1.0, than: -1.0},)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    title: str
    about: str
    """What varies, what does not, and what to know before believing the result."""
    rows: Callable[[StudyPlan, int], Mapping[str, str]]
    """(plan, seed) -> each row's label and the folder of its run, from `plan.add`."""
    measures: Mapping[str, Measure]
    lessons: tuple[Lesson, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Measure -> row -> the paper's number."""
    paper_source: str = ""
    """Where these come from; it says so if they are second-hand."""
    prepare: Callable[[Path], None] | None = None
    """Prepares the data in the study's folder, unless they exist."""
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    """Those that its lessons are stated for."""
    stated: str = ""
    """The date of the statement, before the first of these seeds was run; empty: it
    states none."""


@dataclass(frozen=True, slots=True)
class JudgedLesson:
    lesson: Lesson
    verdict: Verdict
    estimates: tuple[Estimate | None, ...]
    """For each contrast, over the seeds for which all its rows have the measure; None
    if there is no such seed."""
    p_value: float | None = None
    """Of the verdict: that all its contrasts are above zero or, of those below zero,
    that one is. None if there are too few seeds."""


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one study."""

    name: str
    study: Study
    rows: Mapping[str, Mapping[int, str]]
    """Row -> seed -> run folder."""
    states: Mapping[str, RunState]
    values: Mapping[str, Mapping[str, Mapping[int, float]]]
    """Measure -> row -> seed -> value."""
    lessons: tuple[JudgedLesson, ...]

    def spread(self, measure: str, row: str) -> Estimate | None:
        """The mean over seeds with its interval; None if no run has the measure."""
        values = self.values[measure][row]
        return estimate(list(values.values())) if values else None

    def unfinished(self, row: str) -> dict[int, RunState]:
        """The seeds of a row whose run has not finished."""
        return {
            seed: self.states[run]
            for seed, run in self.rows[row].items()
            if self.states[run] != "finished"
        }


def collect(
    name: str,
    study: Study,
    rows: Mapping[int, Mapping[str, str]],
    states: Mapping[str, RunState],
) -> Results:
    """Reads every finished run of a study; `rows` maps seed -> row -> run folder."""
    labels = list(dict.fromkeys(row for each in rows.values() for row in each))
    runs = {
        row: {seed: each[row] for seed, each in rows.items() if row in each}
        for row in labels
    }
    values = {
        measure: {
            row: _read(reader, folders, states) for row, folders in runs.items()
        }
        for measure, reader in study.measures.items()
    }
    lessons = tuple(
        judge_lesson(lesson, values[lesson.measure]) for lesson in study.lessons
    )
    return Results(name, study, runs, states, values, lessons)


def _read(
    measure: Measure, folders: Mapping[int, str], states: Mapping[str, RunState]
) -> dict[int, float]:
    values = {
        seed: measure.read(RunFolder(Path(folder)))
        for seed, folder in folders.items()
        if states[folder] == "finished"
    }
    return {seed: value for seed, value in values.items() if value is not None}


def judge_lesson(
    lesson: Lesson, values: Mapping[str, Mapping[int, float]]
) -> JudgedLesson:
    """Applies the test of one lesson to `values`, row -> seed -> value."""
    contrasts = [
        contrast_values(contrast, values) for contrast in lesson.contrasts
    ]
    estimates = tuple(estimate(each) if each else None for each in contrasts)
    # Bonferroni: any one contrast below zero is enough to reject the lesson.
    level = 1 - (1 - LEVEL) / len(contrasts)
    verdict: Verdict = (
        "undecided" if min(map(len, contrasts)) > 1 else "no test"
    )
    if all(each is not None and each.above_zero for each in estimates):
        verdict = "holds"
    elif any(each and estimate(each, level).below_zero for each in contrasts):
        verdict = "does not hold"
    return JudgedLesson(lesson, verdict, estimates, _p_value(contrasts))


def _p_value(contrasts: Sequence[Sequence[float]]) -> float | None:
    """The largest of several contrasts that all must be above zero; if some are below,
    the smallest of theirs, times the number of contrasts."""
    p_values = [p_value(each) for each in contrasts]
    if None in p_values:
        return None
    known = [p for p in p_values if p is not None]
    below = [
        p for p, each in zip(known, contrasts, strict=True) if sum(each) < 0
    ]
    return min(1.0, len(contrasts) * min(below)) if below else max(known)


def mean_score(
    benchmarks: Sequence[str], shots: int
) -> Callable[[RunFolder], float | None]:
    """Reads the mean score of these benchmarks at a number of shots."""

    def read(run: RunFolder) -> float | None:
        results = [run.shots(name).get(shots) for name in benchmarks]
        if None in results:
            return None
        return sum(each["score"] for each in results if each) / len(results)

    return read


def write_results(results: Sequence[Results], path: Path) -> None:
    """Writes all numbers and verdicts as JSON."""
    stored = {
        r.name: {
            "title": r.study.title,
            "rows": {row: dict(runs) for row, runs in r.rows.items()},
            "values": r.values,
            "verdicts": [
                {
                    "lesson": judged.lesson.text,
                    "measure": judged.lesson.measure,
                    "contrasts": judged.lesson.contrasts,
                    "estimates": [
                        each
                        and {
                            "mean": each.mean,
                            "half": each.half,
                            "seeds": each.num,
                        }
                        for each in judged.estimates
                    ],
                    "p_value": judged.p_value,
                    "verdict": judged.verdict,
                }
                for judged in r.lessons
            ],
        }
        for r in results
    }
    write_json(path, stored)
