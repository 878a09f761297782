"""The demo's scores as charts: each task at every number of shots, before and after
fine-tuning."""

from collections.abc import Iterable, Mapping
from typing import Any

from mm1.eval.controls import is_control
from mm1.miniature.control_table import HEAD, MEANING, control_rows
from mm1.report.page import (
    NOTHING,
    Html,
    card_grid,
    missing,
    section,
    table,
    tag,
)
from mm1.report.score_charts import ScoredRun, score_chart
from mm1.runs.results import RunFolder


def scores_section(runs: Mapping[str, RunFolder]) -> Html:
    asked = [
        ScoredRun("before fine-tuning", runs["pretrain"], "tone-2"),
        ScoredRun("after fine-tuning", runs["finetune"], "tone-1"),
    ]
    every = tuple(name for each in asked for name in each.run.scores)
    names = [
        name for name in dict.fromkeys(every) if not is_control(name, every)
    ]
    note = (
        "Shots are solved examples put before the question, with their images. Bars"
        " are one standard error; the dotted line is what guessing would score."
    )
    note += "".join(
        f" 0 shots{meaning}."
        for meaning in _zero_shot(each.run for each in asked)
    )
    gone = [
        missing(
            f"{each.run.name}/scores.json is missing: no scores {each.name}."
        )
        for each in asked
        if not each.run.scores
    ]
    charts = [score_chart(name, asked) for name in names]
    alone = _text_only(runs["decoder"])
    controls = _controls({each.name: each.run for each in asked})
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
