"""What a study claims before it is run, as text to commit: rows, measures, tests, seeds
and the correction. `studies/stated.md` holds it for all that `make lessons` runs, and a
test compares it with the code: a changed test is a changed file, with its date in the
history."""

from collections.abc import Mapping
from pathlib import Path

from mm1.study.page import contrast_text
from mm1.study.plan import StudyPlan
from mm1.study.study import Lesson, Study

TEST = (
    "The test of every lesson: for each contrast the mean over seeds of the weighted"
    " sum of rows, paired by seed; with its 95% interval by Student's t the lesson"
    " holds if that of each contrast lies above zero, and does not hold if that of one"
    " lies below (at 95% for all of its contrasts together). The {num} lessons below"
    " are one family: a verdict counts if its p-value is at most 0.05 after Holm's"
    " correction."
)


def statement(studies: Mapping[str, Study]) -> str:
    """The statement of studies that are judged together, as Markdown."""
    num = sum(len(study.lessons) for study in studies.values())
    lines = [TEST.format(num=num), ""]
    for name, study in studies.items():
        rows = study.rows(StudyPlan(Path("OUT")), study.seeds[0])
        used = dict.fromkeys(lesson.measure for lesson in study.lessons)
        lines += [
            f"## `{name}`: {study.title}",
            "",
            f"Stated: {study.stated or 'not dated'}. Seeds:"
            f" {', '.join(map(str, study.seeds))}.",
            "",
            study.about,
            "",
            f"Rows: {'; '.join(rows)}.",
            "",
            *(
                f"- Measure *{measure}*: {study.measures[measure].about}."
                for measure in used
            ),
            "",
        ]
        for lesson in study.lessons:
            lines += [*_lesson(lesson), ""]
    return "\n".join(lines)


def _lesson(lesson: Lesson) -> list[str]:
    contrasts = lesson.words or map(contrast_text, lesson.contrasts)
    return [
        f"**{lesson.text}.** *{lesson.measure}*: {'; '.join(contrasts)}.",
        *(f"Before: {each}." for each in lesson.earlier),
    ]
