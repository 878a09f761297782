"""A chart of a benchmark's scores over shots."""

from collections.abc import Sequence
from dataclasses import dataclass

from mm1.report.axes import Axis, axis
from mm1.report.charts import NARROW, Frame, Series, line_chart
from mm1.report.page import Html, card, tag
from mm1.runs.results import RunFolder


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """A line of a chart: a run's scores, in the chart's benchmark or in another one,
    such as a control of it, which is drawn dashed."""

    name: str
    run: RunFolder
    tone: str
    benchmark: str = ""


def score_chart(benchmark: str, lines: Sequence[ScoredRun]) -> Html:
    """Scores with error bars at each number of shots; the level of chance, where it is
    known."""
    series = []
    facts = {}
    for line in lines:
        shots = line.run.shots(line.benchmark or benchmark)
        facts = line.run.scores.get(benchmark) or facts
        if shots:
            series.append(
                Series(
                    line.name,
                    [(float(k), float(s["score"])) for k, s in shots.items()],
                    line.tone,
                    line.name,
                    errors=[
                        float(s.get("stderr") or 0) for s in shots.values()
                    ],
                    strong=not line.benchmark,
                    dashed=bool(line.benchmark),
                    dots=True,
                )
            )
    if not series:
        return card(
            tag("p", "No number of shots has been scored.", class_="note"),
            title=benchmark,
        )
    metric = str(facts.get("metric", "score"))
    places = sorted({x for each in series for x, _ in each.points})
    shots_axis = Axis(min(places) - 0.4, max(places) + 0.4, places, "shots")
    if "cider" in metric.lower():  # the one metric that is no share
        heights = [y for each in series for _, y in each.points]
        scores = axis([0.0, *heights], metric)
    else:
        scores = Axis(
            0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), metric, percent=True
        )
    chance = facts.get("chance")
    return line_chart(
        benchmark,
        series,
        Frame(shots_axis, scores, NARROW),
        aside=f" · {metric}",
        guide=None if chance is None else ("chance", float(chance)),
    )
