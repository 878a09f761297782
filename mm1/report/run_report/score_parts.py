"""The scores of a report: a chart of each benchmark over shots, and every figure in a
table."""

from collections.abc import Mapping, Sequence
from typing import Any

from mm1.eval.controls import (
    CONTROLS,
    control_name,
    controls_of,
    is_control,
)
from mm1.report.charts import tones
from mm1.report.page import (
    NOTHING,
    Child,
    Html,
    card_grid,
    join,
    missing,
    plural,
    section,
    table,
    tag,
)
from mm1.report.score_charts import ScoredRun, score_chart
from mm1.runs.results import RunFolder

NOTE = (
    "Shots are solved examples put before the question, with their images. Bars are one"
    " standard error; the dotted line is what guessing would score."
)
CONTROLS_NOTE = (
    " show what it is in the shots that raises a score: with wrong labels, with labels"
    " alone, with labels that trade places, and with answers restricted to the task's"
    " own words, which need no shots to know them."
)


def score_section(runs: Mapping[str, RunFolder]) -> Html:
    """Charts of the plain scores; with one run also of its controls."""
    names = list(
        dict.fromkeys(name for run in runs.values() for name in run.scores)
    )
    if not names:
        return section(
            "Scores", missing("No run has a scores.json."), anchor="scores"
        )
    plain = [name for name in names if not is_control(name, names)]
    cards = [score_chart(name, _lines(name, runs)) for name in plain]
    without = [
        missing(f"{name} has no scores.json.")
        for name, run in runs.items()
        if not run.scores
    ]
    return section(
        "Scores over shots",
        card_grid(*cards, tight=True),
        *without,
        tag("p", _about_controls(len(plain) < len(names)), class_="note below"),
        _every_score(names, runs),
        note=NOTE,
        anchor="scores",
    )


def _about_controls(present: bool) -> Html:
    command = tag("code", "mm1 eval RUN --controls")
    if present:
        return join("Controls (", command, ")", CONTROLS_NOTE)
    return join(
        "No benchmark here has controls; ",
        command,
        " adds them where there are shots and a closed set of answers.",
    )


def _lines(benchmark: str, runs: Mapping[str, RunFolder]) -> list[ScoredRun]:
    tone = tones(list(runs))
    if len(runs) > 1:
        return [ScoredRun(name, run, tone[name]) for name, run in runs.items()]
    ((_, run),) = runs.items()
    controls = controls_of(tuple(run.scores)).get(benchmark, [])
    return [
        ScoredRun("as asked" if controls else "score", run, "tone-1"),
        *(
            ScoredRun(
                control,
                run,
                f"tone-{i}",
                benchmark=control_name(benchmark, control),
            )
            for i, control in enumerate(CONTROLS, 2)
            if control in controls
        ),
    ]


def _every_score(names: Sequence[str], runs: Mapping[str, RunFolder]) -> Html:
    """A row for each benchmark and number of shots, a column for each run."""
    rows = []
    for name in names:
        counts = sorted({k for run in runs.values() for k in run.shots(name)})
        metric = next(
            (
                r.scores[name].get("metric")
                for r in runs.values()
                if name in r.scores
            ),
            None,
        )
        for k in counts:
            cells = [_cell(run.shots(name).get(k)) for run in runs.values()]
            rows.append((name, str(metric or "score"), k, *cells))
    head = ("Benchmark", "Metric", "Shots", *runs)
    return tag(
        "details",
        tag("summary", f"Every score: {plural(len(rows), 'figure')}"),
        table(head, rows, numbers=range(2, len(head))),
    )


def _cell(result: Mapping[str, Any] | None) -> Child:
    if result is None:
        return NOTHING
    error = result.get("stderr")
    spread = f" ± {error:.3f}" if isinstance(error, float) else ""
    questions = result.get("num_questions")
    said = [result.get(key) for key in ("zero_shot_prompt", "control")]
    aside = "; ".join(
        filter(None, [f"{questions} questions" if questions else None, *said])
    )
    figure = f"{result['score']:.3f}{spread}"
    return tag("span", figure, title=aside)
