"""The curves of a report's charts, as the JSON that `page.js` draws.

Long curves are thinned: of every stretch the lowest and the highest point are kept, so
that no spike is lost, and a page of runs of 100,000 logged steps stays small.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from mm1.report.charts import Point, tones
from mm1.runs.results import RunFolder, finite_numbers

MAX_KEPT = 2_000
"""Points of a curve that stay."""
SPEED = {
    "tokens_per_second": "tokens a second",
    "images_per_second": "images a second",
    "mfu": "MFU",
    "data_loading_fraction": "share of the time that waits for data",
    "max_memory_gib": "highest memory, GiB",
    "step_seconds_max": "seconds a step of the slowest rank",
}
"""Key of speed.jsonl -> what its chart is called."""
PERCENT = ("mfu", "data_loading_fraction")
COUNTS = ("tokens", "unpadded_tokens", "documents", "images")


def chart_data(runs: Mapping[str, RunFolder]) -> dict[str, Any]:
    """`curves` of each run by key, its `clock`, and which of them make up the charts of
    each section."""
    curves = [_curves(run) for run in runs.values()]
    names = list(runs)
    colours = tones(names)
    return {
        "names": names,
        "tones": [colours[name] for name in names],
        "curves": curves,
        "clocks": [_clock(run) for run in runs.values()],
        "losses": _loss_charts(names, curves),
        "speed": [
            {
                "title": title,
                "percent": key in PERCENT,
                "lines": [
                    _line(i, key, name, colours[name])
                    for i, name in enumerate(names)
                    if key in curves[i]
                ],
            }
            for key, title in SPEED.items()
            if any(key in own for own in curves)
        ],
        "others": sorted({k for own in curves for k in own if _is_other(k)}),
    }


def thinned(points: Sequence[Point], most: int = MAX_KEPT) -> list[Point]:
    """At most `most` of the points, the extremes of each stretch and both ends."""
    if len(points) <= most:
        return list(points)
    stretch = -(-2 * len(points) // (most - 2))
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), stretch):
        inside = range(begin, min(begin + stretch, len(points)))
        kept.add(min(inside, key=lambda i: points[i][1]))
        kept.add(max(inside, key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]


def _points(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Key -> (step, value) wherever both are finite."""
    found = defaultdict(list)
    for line in lines:
        numbers = finite_numbers(line)
        step = numbers.pop("step", None)
        if step is not None:
            for key, value in numbers.items():
                found[key].append((step, value))
    return found


def _curves(run: RunFolder) -> dict[str, list[list[float]]]:
    """Key -> steps and values; speeds that are zero throughout are left out."""
    points = _points(run.metrics) | _points(run.speed)
    return {
        key: _columns(thinned(each))
        for key, each in points.items()
        if key not in SPEED or any(y for _, y in each)
    }


def _columns(points: Sequence[Point]) -> list[list[float]]:
    return [[x for x, _ in points], [float(f"{y:.5g}") for _, y in points]]


def _clock(run: RunFolder) -> dict[str, list[list[float]]]:
    """What has been done at these steps: tokens without padding, images, hours."""
    done = _points(run.metrics) | _points(run.speed)
    amounts = {
        "tokens": done.get("unpadded_tokens", []),
        "images": done.get("images", []),
        "hours": [(x, y / 3600) for x, y in done.get("seconds", [])],
    }
    totals = {
        name: list(
            zip(
                [step for step, _ in points],
                accumulate(amount for _, amount in points),
                strict=True,
            )
        )
        for name, points in amounts.items()
        if points
    }
    return {
        name: _columns([(0.0, 0.0), *thinned(points)])
        for name, points in totals.items()
    }


def _loss_charts(
    names: Sequence[str], curves: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One run: a chart of all its sources. Several: a chart of each source, with a line
    of each run. Held-out losses are dashed."""
    keys = {key for own in curves for key in own}
    sources = sorted(k.partition("/")[2] for k in keys if k.startswith("loss/"))
    if len(names) == 1:
        tone = {"": "tone-0"} | tones(sources)
        kept = tone if len(sources) != 1 else {"": "tone-0"}
        lines = [
            each
            for source, colour in kept.items()
            for each in _losses(0, source, source or "all", colour, curves[0])
        ]
        return [{"title": "loss", "wide": True, "lines": lines}]
    tone = tones(names)
    return [
        {
            "title": f"loss, {source}" if source else "loss",
            "wide": not source,
            "lines": [
                each
                for i, name in enumerate(names)
                for each in _losses(i, source, name, tone[name], curves[i])
            ],
        }
        for source in ("", *sources)
    ]


def _losses(
    run: int, source: str, name: str, tone: str, own: Mapping[str, Any]
) -> list[dict[str, Any]]:
    end = f"/{source}" if source else ""
    lines = (
        _line(run, f"loss{end}", name, tone),
        _line(run, f"validation{end}", f"{name}, held out", tone)
        | {"dashed": True},
    )
    return [line for line in lines if line["key"] in own]


def _line(run: int, key: str, name: str, tone: str) -> dict[str, Any]:
    return {"run": run, "key": key, "name": name, "tone": tone}


def _is_other(key: str) -> bool:
    """Is it neither a loss nor a speed nor a count of data?"""
    kind = key.partition("/")[0]
    return kind not in (
        {"loss", "validation", "seconds", "skipped_documents"}
        | {*SPEED, *COUNTS}
    )
