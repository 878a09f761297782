"""The demo's scores as charts: each task at every number of shots, before and after
fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mm1.eval.controls import control_name, is_control
from mm1.miniature.score_table import MEANING, score_table, zero_shot_prompts
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
        for meaning in zero_shot_prompts(each.run for each in asked)
    )
    if any(control_name(name, "restricted") in every for name in names):
        note += (
            " Dashed: answers restricted to the task's own words, which need no shots"
            " to know which words are asked for; other controls are in the table"
            " below."
        )
    gone = [
        missing(
            f"{each.run.name}/scores.json is missing: no scores {each.name}."
        )
        for each in asked
        if not each.run.scores
    ]
    charts = [score_chart(name, _with_control(name, asked)) for name in names]
    alone = _text_only(runs["decoder"])
    controls = _controls(
        {each.name.partition(" ")[0]: each.run for each in asked}
    )
    cards = card_grid(*charts, tight=True) if charts else None
    parts = (cards, *gone, controls, alone)
    return section(
        "Scores by number of shots", *parts, note=note, anchor="scores"
    )


def _with_control(
    benchmark: str, asked: Sequence[ScoredRun]
) -> list[ScoredRun]:
    """Each line, and dashed the same with restricted answers, where that was asked."""
    name = control_name(benchmark, "restricted")
    return [
        *asked,
        *(
            replace(each, name=f"{each.name}, restricted", benchmark=name)
            for each in asked
            if name in each.run.scores
        ),
    ]


def _controls(runs: Mapping[str, RunFolder]) -> Html | None:
    head, rows = score_table(runs, controlled=True)
    if not rows:
        return None
    title = tag("h3", "What the shots add")
    note = tag("p", MEANING, class_="note")
    numbers = range(1, len(head))
    return tag(
        "div", title, note, table(head, rows, numbers=numbers), class_="below"
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
        f"; 0 shots{meaning}" for meaning in zero_shot_prompts([decoder])
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
