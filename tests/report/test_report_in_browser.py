"""Reports and views opened from the disk in a browser, without a network: charts with
hover values and logarithmic axes, questions with their filter, images when they are
scrolled to; light and dark, narrow and wide."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import answers, make_run
from pictures import png

from mm1.report.run_report.write import write_run_report
from mm1.report.view import ViewDocument, ViewImage, ViewRow, write_view

playwright = pytest.importorskip(
    "playwright.sync_api", reason="pip install playwright"
)
pytestmark = pytest.mark.long


@pytest.fixture(params=["light 1300", "dark 390"])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """One that fails on errors, on requests to anywhere else, and on content that is
    wider than the screen."""
    scheme, width = request.param.split()
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": int(width), "height": 800},
        offline=True,
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("file:", "data:"))
            else faults.append(asked.url)
        ),
    )
    yield page
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    assert faults == []
    context.close()


def open_report(page: Any, runs: list[Path], out: Path) -> Path:
    written = write_run_report(runs, out)
    page.goto(written.resolve().as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    return written.parent


def test_charts_show_values_and_have_logarithmic_axes(
    page: Any, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path / name) for name in ("mint", "thyme")]
    open_report(page, runs, tmp_path / "report")
    losses = page.locator("[data-plots=losses]")
    chart = losses.locator("figure").first
    area = chart.locator(".u-over")
    # at the right end: step 30, where 40 / 30 was logged, and 1.5 held out
    area.hover(position={"x": area.bounding_box()["width"] - 2, "y": 60})
    said = [row.inner_text() for row in chart.locator(".u-series").all()]
    of_a_run = ("{}1.333", "{}, held out1.5")
    assert said == [
        "step30",
        *(text.format(run.name) for run in runs for text in of_a_run),
    ]
    scales = "charts[0].plot.scales"
    assert page.evaluate(f"[{scales}.x.distr, {scales}.y.distr]") == [1, 1]
    losses.get_by_label("log x").check()
    losses.get_by_label("log y").check()
    assert page.evaluate(f"[{scales}.x.distr, {scales}.y.distr]") == [3, 3]
    losses.get_by_role("combobox").select_option("hours of training")
    assert page.evaluate("charts[0].plot.data[0]") == [0.5, 1, 1.5]
    # the other sections have axes of their own
    last = "charts[charts.length - 1].plot"
    assert page.evaluate(f"{last}.data[0]") == [10, 20, 30]


def test_questions_with_exact_prompts_are_filtered(
    page: Any, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path / "mint"), make_run(tmp_path / "sage", gain=1)]
    report = open_report(page, runs, tmp_path / "report")
    place = page.locator("#answers")
    place.scroll_into_view_if_needed()
    cards = place.locator("article")
    playwright.expect(cards).to_have_count(2)
    prompt = cards.first.locator(".exact")
    assert prompt.locator("img").count() == 1
    # the other picture is not there; a line break is shown
    shown = answers(0)[0]["prompt"].removeprefix("<image>")
    assert prompt.text_content() == shown.replace("\n", "⏎\n")
    assert "</script>sage" in cards.first.inner_text()
    assert place.locator("b", has_text="dill").count() == 0
    found = place.locator(".found")
    for choice, expected in (
        ("mint: right", "1 of 2 questions; 2 lines"),
        ("sage: right", "2 of 2 questions; 2 lines"),
        ("right in some runs only", "1 of 2 questions; 2 lines"),
    ):
        place.locator("[name=filter]").select_option(choice)
        playwright.expect(found).to_contain_text(expected)
    place.locator("[name=search]").fill("no such herb")
    playwright.expect(found).to_contain_text("0 of 2")
    (report / "answers" / "2.js").unlink()
    place.locator("[name=set]").select_option("herbs, 2 shots")
    playwright.expect(found).to_contain_text("answers/2.js is missing")


def test_images_of_a_view_are_loaded_when_they_are_scrolled_to(
    page: Any, tmp_path: Path
) -> None:
    rng = random.Random(8)
    documents = [
        ViewDocument(
            *("pages", f"a#{i}", (ViewImage((png("blue", rng, 100),)),)),
            start=0,
            stop=9,
            length=9,
            num_targets=0,
        )
        for i in range(300)
    ]
    out = tmp_path / "rows.html"
    write_view([ViewRow(tuple(documents), 2700, 300)], out, title="rows")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(out.as_uri())
    page.wait_for_load_state("networkidle")
    at_first = len(asked)
    assert at_first < 200
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function(
        "document.images[document.images.length - 1].naturalWidth > 0"
    )
    assert len(asked) > at_first
