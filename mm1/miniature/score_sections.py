"""The demo's scores as charts: each task at every number of shots, before and after
fine-tuning."""

from collections.abc import Iterable, Mapping
from typing import Any

from mm1.eval.controls import is_control
from mm1.miniature.control_table import HEAD, MEANING, control_rows
from mm1.report.charts import (
    NARROW,
    Axis,
    Frame,
    Series,
    axis,
    line_chart,
)
from mm1.report.page import (
    NOTHING,
    Html,
    card,
    card_grid,
    missing,
    section,
    table,
    tag,
)
from mm1.runs.results import RunFolder


def scores_section(runs: Mapping[str, RunFolder]) -> Html:
    asked = [
        ("before fine-tuning", runs["pretrain"], "tone-2"),
        ("after fine-tuning", runs["finetune"], "tone-1"),
    ]
    every = tuple(name for _, run, _ in asked for name in run.scores)
    names = [
        name for name in dict.fromkeys(every) if not is_control(name, every)
    ]
    note = (
        "Shots are solved examples put before the question, with their images. Bars"
        " are one standard error; the dotted line is what guessing would score."
    )
    note += "".join(
        f" 0 shots{meaning}."
        for meaning in _zero_shot(run for _, run, _ in asked)
    )
    gone = [
        missing(f"{r.name}/scores.json is missing: no scores {when}.")
        for when, r, _ in asked
        if not r.scores
    ]
    charts = [_score(name, asked) for name in names]
    alone = _text_only(runs["decoder"])
    controls = _controls({when: run for when, run, _ in asked})
    cards = card_grid(*charts, tight=True) if charts else None
    parts = (cards, *gone, controls, alone)
    return section(
        "Scores by number of shots", *parts, note=note, anchor="scores"
    )


def _zero_shot(runs: Iterable[RunFolder]) -> list[str]:
    """What 0 shots mean in these runs; different meanings in the order of the
    benchmarks."""
    return list(
        dict.fromkeys(
            filter(
                None,
                (
                    run.zero_shot_prompt(name)
                    for run in runs
                    for name in run.scores
                ),
            )
        )
    )


def _score(name: str, asked: list[tuple[str, RunFolder, str]]) -> Html:
    series = []
    facts = {}
    for when, run, colour in asked:
        shots = run.shots(name)
        facts = run.scores.get(name) or facts
        if shots:
            points = [(float(k), float(s["score"])) for k, s in shots.items()]
            errors = [float(s.get("stderr") or 0.0) for s in shots.values()]
            series.append(
                Series(
                    when,
                    points,
                    colour,
                    when,
                    errors=errors,
                    strong=True,
                    dots=True,
                )
            )
    if not series:
        return card(
            tag("p", "No number of shots has been scored.", class_="note"),
            title=name,
        )
    chance = facts.get("chance")
    metric = str(facts.get("metric", "score"))
    places = sorted({x for each in series for x, _ in each.points})
    shots_axis = Axis(min(places) - 0.4, max(places) + 0.4, places, "shots")
    if "cider" in metric.lower():  # the one metric that is no share
        scores = axis(
            [0.0, *(y for each in series for _, y in each.points)], metric
        )
    else:
        scores = Axis(
            0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), metric, percent=True
        )
    guide = None if chance is None else ("chance", float(chance))
    return line_chart(
        name,
        series,
        Frame(shots_axis, scores, NARROW),
        aside=f" · {metric}",
        guide=guide,
    )


def _controls(runs: Mapping[str, RunFolder]) -> Html | None:
    if not (rows := control_rows(runs)):
        return None
    title = tag("h3", "What the shots add")
    numbers = range(2, len(HEAD))
    note = tag("p", MEANING, class_="note")
    return tag(
        "div", title, note, table(HEAD, rows, numbers=numbers), class_="below"
    )


def _text_only(decoder: RunFolder) -> Html:
    if not decoder.scores:
        return missing("decoder/scores.json is missing: no text-only score.")
    rows = [
        (
            name,
            facts.get("metric", ""),
            k,
            _percent(s),
            s.get("num_questions", NOTHING),
        )
        for name, facts in decoder.scores.items()
        for k, s in decoder.shots(name).items()
    ]
    head = ("Task", "Metric", "Shots", "Score", "Questions")
    meaning = "".join(
        f"; 0 shots{meaning}" for meaning in _zero_shot([decoder])
    )
    title = tag(
        "h3",
        f"Text alone, asked of the language model before it sees images{meaning}",
    )
    return tag(
        "div", title, table(head, rows, numbers=(2, 3, 4)), class_="below"
    )


def _percent(score: Mapping[str, Any]) -> str:
    return f"{score['score']:.1%} ± {score.get('stderr') or 0.0:.1%}"
