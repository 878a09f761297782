"""The page of a study: verdicts, charts, a table with the paper's numbers beside ours,
and the cost.

Written twice: as the self-contained `report.html`, and as `report.md` for a README or a
log.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mm1.report.axes import Axis, axis
from mm1.report.charts import Dot, dot_chart
from mm1.report.page import (
    NOTHING,
    Html,
    badge,
    card_grid,
    duration,
    html_page,
    join,
    key_figures,
    missing,
    section,
    table,
    tag,
)
from mm1.runs.results import RunFolder
from mm1.study.family import (
    FAMILY_COLUMNS,
    FAMILY_NOTE,
    corrected_lessons,
    family_rows,
    when_stated,
)
from mm1.study.plan import StudyPlan, wall_seconds
from mm1.study.statistics import Estimate
from mm1.study.study import Contrast, Results

KINDS = {
    "holds": "good",
    "does not hold": "bad",
    "undecided": "plain",
    "no test": "plain",
}
MAX_CHANGES = 6
"""Changes of a row's config that its cell spells out."""
SHARES = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), "", percent=True)
LEAD = (
    "Each lesson is judged by a test that was stated before the runs: paired over"
    " seeds, the 95% interval of its contrast lies above zero (holds), below zero (does"
    " not hold), or neither (undecided at this scale); of a single seed there is no"
    " test. What counts is the verdict after Holm's correction over all lessons of this"
    " page, in its first table."
)
LESSON_COLUMNS = (
    "By itself",
    "Lesson",
    "Measure",
    "Contrast",
    "Mean, 95% interval",
)
COST_COLUMNS = ("Stage", "Runs", "Mean time", "Time in all")


def write_study_pages(
    title: str, results: Sequence[Results], plan: StudyPlan
) -> None:
    """Writes report.html and report.md into the plan's folder."""
    body = (
        _head(title, results, plan),
        _family(results),
        *(_study(each, plan) for each in results),
        _cost_section(plan),
        _foot(plan),
    )
    (plan.folder / "report.html").write_text(
        html_page(title, *body), encoding="utf-8"
    )
    (plan.folder / "report.md").write_text(
        _markdown(title, results, plan), encoding="utf-8"
    )


def _head(title: str, results: Sequence[Results], plan: StudyPlan) -> Html:
    verdicts = [each.verdict for each in corrected_lessons(results)]
    states = {
        run: state for each in results for run, state in each.states.items()
    }
    done = sum(state == "finished" for state in states.values())
    pairs = [
        (verdicts.count(verdict), verdict)
        for verdict in KINDS
        if verdict != "no test" or verdict in verdicts
    ]
    pairs += [
        (f"{done} of {len(states)}", "runs finished"),
        (duration(sum(map(wall_seconds, plan.runs))), "of processes"),
    ]
    links = tag(
        "nav",
        *(tag("a", each.study.title, href=f"#{each.name}") for each in results),
    )
    return tag(
        "header",
        tag("h1", title),
        tag("p", LEAD, class_="lead"),
        key_figures(pairs),
        links,
    )


def _family(results: Sequence[Results]) -> Html:
    rows = [
        (*row[:4], badge(row[4], KINDS[row[4]]), row[5])
        for row in family_rows(results)
    ]
    note = " ".join((FAMILY_NOTE, *when_stated(results)))
    what = (
        table(FAMILY_COLUMNS, rows, numbers=(1, 2, 3))
        if rows
        else missing("No lessons.")
    )
    return section("All lessons", what, note=note, anchor="lessons")


def _study(results: Results, plan: StudyPlan) -> Html:
    study = results.study
    numbers = range(2, 2 + len(results.study.measures))
    rows = [list(map(_lines, row)) for row in _rows(results, plan)]
    lessons = [
        (badge(verdict, KINDS[verdict]) if verdict else "", *rest)
        for verdict, *rest in _lessons(results)
    ]
    parts = (
        table(LESSON_COLUMNS, lessons, numbers=(4,)) if lessons else None,
        tag(
            "div",
            card_grid(
                *(_chart(results, measure) for measure in study.measures)
            ),
            class_="below",
        ),
        tag(
            "div",
            table(_columns(results), rows, numbers=numbers),
            class_="below",
        ),
        *(
            tag("div", missing(text), class_="below")
            for text in _unfinished(results)
        ),
    )
    source = (
        tag(
            "p",
            f"In brackets the paper's: {study.paper_source}",
            class_="note below",
        )
        if study.paper
        else None
    )
    note = study.about.replace("*", "")  # Markdown's emphasis
    return section(study.title, *parts, source, note=note, anchor=results.name)


def _lines(text: str) -> Html:
    return join(*(tag("div", line) for line in text.split("\n")))


def _chart(results: Results, measure: str) -> Html:
    dots = []
    for row in results.rows:
        spread = results.spread(measure, row)
        states = sorted(set(results.unfinished(row).values()))
        values = tuple(results.values[measure][row].values())
        mean, half = (spread.mean, spread.half) if spread else (None, None)
        dots.append(
            Dot(row, mean, half, values, ", ".join(states) or "not measured")
        )
    known = [value for dot in dots for value in dot.values] or [0.0, 1.0]
    about = results.study.measures[measure]
    return dot_chart(
        measure,
        dots,
        SHARES if about.percent else axis(known, ""),
        aside=f" {about.about}",
    )


def _lessons(results: Results) -> list[tuple[str, ...]]:
    """A row for each contrast; the first one names the lesson and its verdict."""
    rows = []
    for judged in results.lessons:
        lesson = judged.lesson
        head = (judged.verdict, lesson.text, lesson.measure)
        words = lesson.words or map(contrast_text, lesson.contrasts)
        for contrast, each in zip(words, judged.estimates, strict=True):
            rows.append(
                (
                    *head,
                    contrast,
                    _number(each, lesson.measure, results, sign="+"),
                )
            )
            head = ("", "", "")
    return rows


def contrast_text(contrast: Contrast) -> str:
    """Returns e.g. `(a) - (b)`, or `0.5 (a) + 0.5 (b) - (c)` with weights."""
    terms = [
        ("- " if weight < 0 else "+ ")
        + ("" if abs(weight) == 1 else f"{abs(weight):.2g} ")
        + f"({row})"
        for row, weight in sorted(contrast.items(), key=lambda item: -item[1])
    ]
    return " ".join(terms).removeprefix("+ ")


def _number(
    value: Estimate | None, measure: str, results: Results, sign: str = ""
) -> str:
    if value is None:
        return NOTHING
    unit, kind = (
        (100, ".1f") if results.study.measures[measure].percent else (1, ".4g")
    )
    spread = (
        " (one seed)"
        if value.half is None
        else f" \N{PLUS-MINUS SIGN} {value.half * unit:{kind}}"
    )
    return f"{value.mean * unit:{sign}{kind}}{spread}"


def _columns(results: Results) -> tuple[str, ...]:
    return (
        "Row",
        "What differs from the first",
        *results.study.measures,
        "Seeds",
    )


def _rows(results: Results, plan: StudyPlan) -> list[tuple[str, ...]]:
    first = next(iter(results.rows.values()))
    rows = []
    for row, runs in results.rows.items():
        seed = next(iter(runs))
        changes = (
            "" if runs is first else _changes(plan, first[seed], runs[seed])
        )
        cells = []
        for measure in results.study.measures:
            number = _number(results.spread(measure, row), measure, results)
            quoted = results.study.paper.get(measure, {}).get(row)
            cells.append(number if quoted is None else f"{number} [{quoted:g}]")
        seeds = f"{len(runs) - len(results.unfinished(row))} of {len(runs)}"
        rows.append((row, changes, *cells, seeds))
    return rows


def _changes(plan: StudyPlan, first: str, run: str) -> str:
    """Differences in training; of benchmarks only where there are no others."""
    differences = plan.difference(first, run)
    training = {
        key: values
        for key, values in differences.items()
        if not key.startswith("benchmarks.")
    }
    changes = [
        f"{key}: {_short(a)} \N{RIGHTWARDS ARROW} {_short(b)}"
        for key, (a, b) in (training or differences).items()
    ]
    hidden = len(changes) - MAX_CHANGES
    return "\n".join(
        changes[:MAX_CHANGES] + ([f"and {hidden} more"] if hidden > 0 else [])
    )


def _short(value: object) -> str:
    """A class without its module; a number with three digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return (
        value.rpartition(":")[2]
        if isinstance(value, str) and value.startswith("mm1.")
        else f"{value}"
    )


def _unfinished(results: Results) -> list[str]:
    return [
        f"{row}, seed {seed}: {state}"
        + (
            f"; see {results.rows[row][seed]}/log.txt"
            if state == "failed"
            else ""
        )
        for row in results.rows
        for seed, state in results.unfinished(row).items()
    ]


def _costs(plan: StudyPlan) -> list[tuple[str, ...]]:
    stages: dict[str, list[float]] = {}
    for run in plan.runs:
        stages.setdefault(plan.stages[run], []).append(wall_seconds(run))
    return [
        (
            stage,
            str(len(each)),
            duration(sum(each) / len(each)),
            duration(sum(each)),
        )
        for stage, each in stages.items()
    ]


def _cost_section(plan: StudyPlan) -> Html:
    note = (
        "Wall time of each run's processes from start to end, for those that ended"
        " while the study was running."
    )
    return section(
        "Cost", table(COST_COLUMNS, _costs(plan), numbers=(1, 2, 3)), note=note
    )


def _machine(plan: StudyPlan) -> str:
    """Hardware and versions; several if the runs were trained on different machines."""
    machines = set()
    for run in plan.runs:
        summary = RunFolder(Path(run)).summary
        versions = [
            f"{name} {version}"
            for name, version in (summary.get("versions") or {}).items()
        ]
        if summary:
            machines.add(
                " \N{MIDDLE DOT} ".join(
                    [str(summary.get("hardware", NOTHING)), *versions]
                )
            )
    return "; ".join(sorted(machines))


def _foot(plan: StudyPlan) -> Html:
    return tag("footer", _machine(plan))


def _markdown(title: str, results: Sequence[Results], plan: StudyPlan) -> str:
    lines = [f"# {title}", "", LEAD, ""]
    if rows := family_rows(results):
        notes = FAMILY_NOTE, *when_stated(results)
        lines += [*_table(FAMILY_COLUMNS, rows), "", *notes, ""]
    for each in results:
        lines += [f"## {each.study.title}", "", each.study.about, ""]
        lines += (
            [*_table(LESSON_COLUMNS, _lessons(each)), ""]
            if each.lessons
            else []
        )
        lines += [*_table(_columns(each), _rows(each, plan)), ""]
        lines += [
            f"{name}: {measure.about}  "
            for name, measure in each.study.measures.items()
        ]
        lines += (
            [f"In brackets the paper's: {each.study.paper_source}"]
            if each.study.paper
            else []
        )
        lines += ["", *(f"- {text}" for text in _unfinished(each)), ""]
    return "\n".join(
        [
            *lines,
            "## Cost",
            "",
            *_table(COST_COLUMNS, _costs(plan)),
            "",
            _machine(plan),
            "",
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return (
            "| "
            + " | ".join(
                cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells
            )
            + " |"
        )

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]
