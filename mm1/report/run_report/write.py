"""The folder of a report: `index.html`, and `answers/` beside it."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.eval.evaluate import NUM_WITH_IMAGES
from mm1.files import remove, write_text
from mm1.report.charts import tones
from mm1.report.data_sections import (
    mixture_section,
    packed_sources,
    packing_section,
)
from mm1.report.page import Html, html_page, missing, section, tag
from mm1.report.run_report.answers import ANSWERS, write_answers
from mm1.report.run_report.curves import chart_data
from mm1.report.run_report.facts import config_section, overview_section
from mm1.report.run_report.open_runs import open_run_folders
from mm1.report.run_report.score_parts import score_section
from mm1.runs.results import RunFolder
from mm1.storage.remote_path import check_local

INDEX = "index.html"
GENERATOR = '<meta name="generator" content="mm1 report">'
"""Marks a folder that a later report may replace."""
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline';"
    " script-src 'unsafe-inline' 'self' file:; base-uri 'none'; form-action 'none'"
)
"""Whatever a model or a data set says, the page loads nothing from elsewhere."""
HERE = Path(__file__).parent


def write_run_report(folders: Sequence[Path], out: Path) -> Path:
    """Reports on these runs, and returns the page's path. A report that is already in
    the folder is replaced.

    Raises:
        FileNotFoundError: one is no run folder.
        ConfigError: a file of one is damaged, or `out` holds something else.
    """
    check_local(out)
    _check_replaceable(out)
    runs = open_run_folders(folders)
    out.mkdir(parents=True, exist_ok=True)
    remove(out / ANSWERS)
    answers = write_answers(runs, out)
    page = _page(runs, answers)
    # A lone surrogate may stand in a file of a run; UTF-8 has none.
    write_text(out / INDEX, page.encode("utf-8", "replace").decode())
    return out / INDEX


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file; a report is a folder")
    others = {path.name for path in out.iterdir()} - {INDEX, ANSWERS}
    index = out / INDEX
    foreign = index.is_file() and GENERATOR not in index.read_text(
        encoding="utf-8", errors="replace"
    )
    if others or foreign:
        raise ConfigError(
            f"{out} holds {min(others) if others else INDEX}, which is no part of a"
            " report: name another folder with --out"
        )


def _page(runs: Mapping[str, RunFolder], answers: list[dict[str, Any]]) -> str:
    title = ", ".join(runs)
    data = chart_data(runs)
    sections = _sections(runs, data, answers)
    links = tag(
        "nav",
        *(
            tag("a", anchor.capitalize(), href=f"#{anchor}")
            for anchor, content in sections.items()
            if content
        ),
    )
    head = Html(
        f'{GENERATOR}\n<meta http-equiv="Content-Security-Policy"'
        f' content="{POLICY}">\n<style>{_asset("uplot/uPlot.min.css")}'
        f"{_asset('page.css')}</style>"
    )
    scripts = Html(
        f'<script type="application/json" id="data">'
        f"{_embedded(data | {'answers': answers})}</script>\n"
        f"<script>{_asset('uplot/uPlot.iife.min.js')}</script>\n"
        f"<script>{_asset('page.js')}</script>"
    )
    header = tag("header", tag("h1", title), links)
    return html_page(title, header, *sections.values(), scripts, head=head)


def _sections(
    runs: Mapping[str, RunFolder],
    data: Mapping[str, Any],
    answers: Sequence[Any],
) -> dict[str, Html | None]:
    """By their anchors; None where there is nothing to show."""
    sources = [name for run in runs.values() for name in run.sources("tokens")]
    packed = next(iter(runs.values())) if len(runs) == 1 else None
    sources += packed_sources(packed) if packed else []
    tone = tones(list(dict.fromkeys(sources)))
    return {
        "runs": overview_section(runs),
        "losses": _plots("Losses", "losses", bool(data["losses"])),
        "speed": _plots("Speed", "speed", bool(data["speed"])),
        "figures": _plots("Other figures", "figures", bool(data["others"])),
        "mixture": mixture_section(runs, tone) if sources else None,
        "packing": packing_section(runs, tone)
        if packed and packed.packing.get("rows")
        else None,
        "scores": score_section(runs),
        "questions": _questions(bool(answers)),
        "config": config_section(runs),
    }


NOTES = {
    "losses": (
        "As logged, not smoothed. Dashed: held-out documents, never trained on."
        " Drag over a chart to zoom in, double-click to zoom out; click a name in its"
        " legend to hide a line."
    ),
    "speed": (
        "As logged. MFU is the model's floating-point operations, recomputed ones not"
        " counted, over those of a large matrix product on the same device."
    ),
    "figures": "Any other figure of metrics.jsonl and speed.jsonl.",
}


def _plots(title: str, anchor: str, present: bool) -> Html | None:
    """Where `page.js` draws the charts of a section."""
    if not present and anchor != "losses":
        return None
    what = (
        tag("div", class_="plots", data_plots=anchor)
        if present
        else missing("No run has logged a loss: there is no metrics.jsonl.")
    )
    return section(
        title, what, note=NOTES[anchor] if present else None, anchor=anchor
    )


def _questions(present: bool) -> Html:
    note = (
        "Every question with the prompt that the model was given, character by"
        " character. A score of at least one half counts as right. Pictures are kept"
        f" for the first {NUM_WITH_IMAGES} questions of a benchmark; elsewhere a mark"
        " shows where they stand."
    )
    if not present:
        return section(
            "Questions and answers",
            missing("No run has predictions; mm1 eval writes them."),
            anchor="questions",
        )
    return section(
        "Questions and answers",
        tag("div", id="answers"),
        note=note,
        anchor="questions",
    )


@cache
def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """JSON that ends no script element, whatever is in it."""
    return json.dumps(value).replace("<", "\\u003c")
