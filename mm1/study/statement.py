"""What a study claims before it is run, as text to commit: rows, measures, tests, seeds
and the correction. `studies/stated.md` holds it for all that `make lessons` runs, and a
test compares it with the code: a changed test is a changed file, with its date in the
history."""

from collections.abc import Mapping
from pathlib import Path

from mm1.report.page import count
from mm1.study.lr_search import LrSearch
from mm1.study.lr_starts import StartSearch
from mm1.study.page import contrast_text
from mm1.study.plan import StudyPlan
from mm1.study.study import Lesson, Study

TEST = (
    "The test of every lesson: for each contrast the mean over seeds of the weighted"
    " sum of rows, paired by seed; with its 95% interval by Student's t the lesson"
    " holds if that of each contrast lies above zero, and does not hold if that of one"
    " lies below (at 95% for all of its contrasts together)."
)
FAMILY = (
    " The {num} lessons below are one family: a verdict counts if its p-value is at"
    " most 0.05 after Holm's correction."
)
ALONE = (
    " The lesson below is alone, so nothing is corrected: a verdict counts if its"
    " p-value is at most 0.05."
)


def statement(studies: Mapping[str, Study]) -> str:
    """The statement of studies that are judged together, as Markdown."""
    num = sum(len(study.lessons) for study in studies.values())
    family = ALONE if num == 1 else FAMILY.format(num=num)
    lines = [TEST + family, ""]
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


LAW_TEST = (
    "For each size the minimum of a parabola in the logarithm of the rate, through the"
    " best rate of the grid and its neighbours; a weighted line through {num} sizes"
    " foretells the rate of {larger} parameters, which is searched as well. Claimed is"
    " the slope with its 95% interval, and whether the rate found for the larger size"
    " lies in the interval of a single size."
)
STARTS_TEST = (
    "For each size and seed the logarithm of the ratio of the best rates of the two"
    " starts; its mean over seeds with a 95% interval by Student's t. A start moves the"
    " best rate of a size if its p-value, corrected over the {num} sizes by Holm's"
    " method, is at most 0.05."
)


def search_statement(search: LrSearch | StartSearch) -> str:
    """The statement of a search for learning rates, as Markdown."""
    sizes = list(search.sizes)
    if isinstance(search, StartSearch):
        test = STARTS_TEST.format(num=len(sizes))
        grids = f"Starts: {'; '.join(search.starts)}. Centre of all first grids"
        guesses = [search.guess]
    else:
        larger = search.larger[0]
        test = LAW_TEST.format(num=len(sizes), larger=count(larger))
        grids = "Centres of the first grids"
        guesses = [search.guess(size) for size in (*sizes, larger)]
    rates = ", ".join(f"{lr:.3g}" for lr in dict.fromkeys(guesses))
    lines = [
        f"## `{search.name}`: {search.title}",
        f"Stated: {search.stated or 'not dated'}. Seeds:"
        f" {', '.join(map(str, search.seeds))}.",
        search.about,
        f"Sizes: {', '.join(map(count, sizes))} parameters. {grids}: {rates}, two rates"
        " on either side by a factor of 2; a grid whose best rate lies at an edge is"
        " extended by one, up to three times.",
        test,
    ]
    return "\n\n".join(lines) + "\n"


def _lesson(lesson: Lesson) -> list[str]:
    contrasts = lesson.words or map(contrast_text, lesson.contrasts)
    return [
        f"**{lesson.text}.** *{lesson.measure}*: {'; '.join(contrasts)}.",
        *(f"Before: {each}." for each in lesson.earlier),
    ]
