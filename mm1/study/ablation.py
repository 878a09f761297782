"""A study: rows that differ in one thing, trained over several seeds, what is measured,
and lessons to be judged.

A lesson's test is stated in advance. It is one contrast of rows or several, such as
"the score of this row less that of the other", taken seed by seed: a seed's rows share
what they start from, so its luck cancels. With the mean over seeds and its 95% interval
by Student's t,

    holds             every contrast's interval lies above zero
    does not hold     some contrast's interval lies below zero (at 95% for all of them together)
    undecided         neither: too few seeds, too little difference, or runs that diverged

Each lesson is tested on its own: of twenty that say nothing true or false, one may be
expected to "hold" or "not hold".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mm1.files import write_json
from mm1.runs.results import RunFolder
from mm1.study.plan import Plan
from mm1.study.runner import State
from mm1.study.statistics import LEVEL, Estimate, combined, estimate

Contrast = Mapping[str, float]
"""Row -> its weight; the weights sum to zero."""
Word = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What is read from a finished run; None where the run has no such number. More is
    better."""

    read: Callable[[RunFolder], float | None]
    about: str
    percent: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    text: str
    measure: str
    contrasts: tuple[Contrast, ...]
    words: tuple[str, ...] = ()
    """What the contrasts are, where their terms are too many to be read."""


def better(text: str, measure: str, row: str, than: str) -> Lesson:
    """The lesson that one row is better than another."""
    return Lesson(text=text, measure=measure, contrasts=({row: 1.0, than: -1.0},))


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    title: str
    about: str
    """What is varied, what is kept, and what the reader must know before believing
    it."""
    rows: Callable[[Plan, int], Mapping[str, str]]
    """(plan, seed) -> the label of each row and the folder of its run, which `plan.add`
    gives."""
    measures: Mapping[str, Measure]
    lessons: tuple[Lesson, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Measure -> row -> the paper's number."""
    paper_source: str = ""
    """Where these come from: second-hand numbers say so."""
    prepare: Callable[[Path], None] | None = None
    """Makes the data in the study's folder, if they are not there yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    lesson: Lesson
    word: Word
    estimates: tuple[Estimate | None, ...]
    """Of each contrast, over the seeds for which all its rows have the measure; None
    where there is no such seed."""


@dataclass(frozen=True, slots=True)
class Results:
    """What came out of one study."""

    name: str
    study: Study
    rows: Mapping[str, Mapping[int, str]]
    """Row -> seed -> run folder."""
    states: Mapping[str, State]
    values: Mapping[str, Mapping[str, Mapping[int, float]]]
    """Measure -> row -> seed -> value."""
    verdicts: tuple[Verdict, ...]

    def spread(self, measure: str, row: str) -> Estimate | None:
        values = self.values[measure][row]
        return estimate(list(values.values())) if values else None

    def bad(self, row: str) -> dict[int, State]:
        """Seeds of a row whose run has not finished."""
        return {
            seed: self.states[run]
            for seed, run in self.rows[row].items()
            if self.states[run] != "finished"
        }


def collect(
    name: str,
    study: Study,
    rows: Mapping[int, Mapping[str, str]],
    states: Mapping[str, State],
) -> Results:
    """Reads every finished run of a study; `rows` is seed -> row -> run folder."""
    labels = list(dict.fromkeys(row for each in rows.values() for row in each))
    runs = {
        row: {seed: each[row] for seed, each in rows.items() if row in each}
        for row in labels
    }
    values = {
        measure: {row: _read(reader, folders, states) for row, folders in runs.items()}
        for measure, reader in study.measures.items()
    }
    verdicts = tuple(judge(lesson, values[lesson.measure]) for lesson in study.lessons)
    return Results(name, study, runs, states, values, verdicts)


def _read(
    measure: Measure, folders: Mapping[int, str], states: Mapping[str, State]
) -> dict[int, float]:
    found = {
        seed: measure.read(RunFolder(Path(f)))
        for seed, f in folders.items()
        if states[f] == "finished"
    }
    return {seed: value for seed, value in found.items() if value is not None}


def judge(lesson: Lesson, values: Mapping[str, Mapping[int, float]]) -> Verdict:
    """The verdict on one lesson from row -> seed -> value."""
    found = [combined(contrast, values) for contrast in lesson.contrasts]
    estimates = tuple(estimate(each) if each else None for each in found)
    stricter = 1 - (1 - LEVEL) / len(found)
    word: Word = "undecided"
    if all(each is not None and each.above_zero for each in estimates):
        word = "holds"
    elif any(each and estimate(each, stricter).below_zero for each in found):
        word = "does not hold"
    return Verdict(lesson, word, estimates)


def score(benchmarks: Sequence[str], shots: int) -> Callable[[RunFolder], float | None]:
    """Reads the mean score of these benchmarks at a number of shots."""

    def read(run: RunFolder) -> float | None:
        found = [run.shots(name).get(shots) for name in benchmarks]
        return (
            None
            if None in found
            else sum(each["score"] for each in found if each) / len(found)
        )

    return read


def write_results(results: Sequence[Results], path: Path) -> None:
    """All numbers and verdicts as JSON."""
    stored = {
        r.name: {
            "title": r.study.title,
            "rows": {row: dict(runs) for row, runs in r.rows.items()},
            "values": r.values,
            "verdicts": [
                {
                    "lesson": v.lesson.text,
                    "measure": v.lesson.measure,
                    "contrasts": v.lesson.contrasts,
                    "estimates": [
                        each
                        and {"mean": each.mean, "half": each.half, "seeds": each.num}
                        for each in v.estimates
                    ],
                    "verdict": v.word,
                }
                for v in r.verdicts
            ],
        }
        for r in results
    }
    write_json(path, stored)
