"""All lessons that are judged together: their verdicts corrected by Holm's method, and
the table that a README shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from mm1.study.statistics import LEVEL, Estimate, holm
from mm1.study.study import JudgedLesson, Results, Verdict

FAMILY_COLUMNS = (
    "Lesson",
    "Estimate, 95% interval",
    "Seeds",
    "p, corrected",
    "Verdict, corrected",
    "First designs",
)
FAMILY_NOTE = (
    "One family of tests. Of several contrasts the lowest is shown: all must be"
    " above zero."
)


@dataclass(frozen=True, slots=True)
class CorrectedLesson:
    judged: JudgedLesson
    adjusted: float
    """Its p-value after Holm's correction over the family."""
    percent: bool
    """Is its measure a share?"""

    @property
    def verdict(self) -> Verdict:
        """That of its own test, if it stands the correction."""
        own = self.judged.verdict
        if self.adjusted > 1 - LEVEL and own != "no test":
            return "undecided"
        return own


def corrected_lessons(results: Sequence[Results]) -> list[CorrectedLesson]:
    """The lessons of all studies, in order: one family of tests."""
    judged = [
        (each, one.study.measures[each.lesson.measure].percent)
        for one in results
        for each in one.lessons
    ]
    adjusted = holm([each.p_value for each, _ in judged])
    return [
        CorrectedLesson(each, p, percent)
        for (each, percent), p in zip(judged, adjusted, strict=True)
    ]


def family_rows(results: Sequence[Results]) -> list[tuple[str, ...]]:
    """A row under `FAMILY_COLUMNS` for each lesson. Of several contrasts, all of which
    must be above zero, the estimate is that of the lowest."""
    rows = []
    for lesson in corrected_lessons(results):
        judged = lesson.judged
        known = [each for each in judged.estimates if each is not None]
        lowest = min(known, key=lambda each: each.mean, default=None)
        rows.append(
            (
                judged.lesson.text,
                _interval(lowest, lesson.percent),
                str(lowest.num) if lowest else "0",
                "" if judged.p_value is None else f"{lesson.adjusted:.3g}",
                lesson.verdict,
                "; ".join(judged.lesson.earlier) or "the same",
            )
        )
    return rows


def _interval(each: Estimate | None, percent: bool) -> str:
    if each is None:
        return "not measured"
    scale = 100 if percent else 1
    digits = 1 if percent else 3
    half = (
        ""
        if each.half is None
        else f" \N{PLUS-MINUS SIGN} {scale * each.half:.{digits}f}"
    )
    return f"{scale * each.mean:+.{digits}f}{half}"


def when_stated(results: Sequence[Results]) -> list[str]:
    """What is said of several studies alike is said once."""
    titles: dict[str, list[str]] = {}
    for each in results:
        titles.setdefault(_when(each), []).append(each.study.title)
    if len(titles) == 1 and len(results) > 1:
        return [f"All of it: {next(iter(titles))}."]
    return [f"{'; '.join(own)}: {said}." for said, own in titles.items()]


def _when(results: Results) -> str:
    """When it was stated, and whether these are the seeds that it was stated for."""
    study = results.study
    seeds = {seed for runs in results.rows.values() for seed in runs}
    words = ", ".join(map(str, sorted(seeds)))
    if not study.stated:
        return f"not stated in advance; seeds {words}"
    if seeds != set(study.seeds):
        return f"other seeds than stated ({words}), so no test of what was"
    return f"stated on {study.stated}, with these seeds ({words})"
