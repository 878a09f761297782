"""The page in a browser: pictures among words in, the predictor's answer out; shots,
what the model sees, and why; light and dark, narrow and wide."""

import base64
import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import tiny

import mm1
from mm1.data.document import Document, Text
from mm1.loaded_run import LoadedRun
from mm1.miniature.benchmarks import Miniature

pytest.importorskip("fastapi", reason="pip install 'mm1[chat]'")
pytest.importorskip("uvicorn", reason="pip install 'mm1[chat]'")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="pip install playwright"
)
# not five seconds: two busy cores take longer to show a picture
playwright.expect.set_options(timeout=30_000)
pytestmark = pytest.mark.long

from serving import serving  # noqa: E402

from mm1.chat.app import make_app  # noqa: E402

BENCHMARKS = {"colour": Miniature.Config(named=True, num_questions=5)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("page") / "tuned"
    return mm1.load(tiny.write_run(folder, benchmarks=BENCHMARKS))


@pytest.fixture(scope="module")
def address(run: LoadedRun) -> Iterator[str]:
    base = LoadedRun(run.trained, run.config, layout="plain")
    with serving(make_app({"tuned": run, "base": base})) as found:
        yield found


@pytest.fixture(params=["light wide", "dark narrow"])
def page(
    request: pytest.FixtureRequest, browser: Any, address: str
) -> Iterator[Any]:
    scheme, width = request.param.split()
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": {"wide": 1300, "narrow": 390}[width], "height": 800},
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    faults: list[str] = []
    # not those of requests that are refused, which are shown
    refused = "Failed to load resource"
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda line: (
            faults.append(line.text)
            if line.type == "error" and refused not in line.text
            else None
        ),
    )
    page.goto(address)
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    assert faults == []
    context.close()


def add_picture(page: Any, number: int) -> None:
    shown = page.locator("#composer img").count()
    file = {
        "name": f"{number}.png",
        "mimeType": "image/png",
        "buffer": tiny.picture(number).data,
    }
    page.locator("#files").set_input_files([file])
    playwright.expect(page.locator("#composer img")).to_have_count(shown + 1)


def ask(page: Any, *parts: str | int) -> None:
    """Types texts, and adds pictures by their numbers."""
    for part in parts:
        page.locator("#composer").press("Control+End")
        if isinstance(part, int):
            add_picture(page, part)
        else:
            page.keyboard.type(part)
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:empty")
    playwright.expect(page.locator("#send")).to_be_enabled()


def answers(page: Any) -> list[str]:
    return page.locator(".answer").all_inner_texts()


def test_a_picture_in_and_the_predictors_answer_out(
    page: Any, run: LoadedRun
) -> None:
    ask(page, "is ", 1, " like ", 2, " red")
    document = Document(
        (
            Text("is ", loss=False),
            tiny.picture(1),
            Text(" like ", loss=False),
            tiny.picture(2),
            Text(" red\n", loss=False),
        )
    )
    (wanted,) = run.predictor.generate([document], max_tokens=64)
    (plain,) = run.predictor.generate(
        [Document((*document.parts[:-1], Text(" red")))],
        max_tokens=64,
        stop=("\n",),
    )
    shown = page.locator(".answer").evaluate_all(
        "all => all.map(each => each.textContent)"
    )
    assert shown == [wanted.strip(), plain.strip() or "(nothing)"]
    # the same again, and with another question in its place
    page.get_by_role("button", name="Regenerate").click()
    playwright.expect(page.locator("#send")).to_be_enabled()
    assert page.locator(".answer").first.text_content() == wanted.strip()
    page.get_by_role("button", name="Edit").click()
    assert page.locator("#composer img").count() == 2
    ask(page, " dog")
    assert page.locator(".said").count() == 1
    assert page.locator(".said").inner_text().endswith("red dog")


def test_a_copied_request_gives_the_same_answer(
    page: Any, address: str
) -> None:
    page.locator("#other").select_option("")
    ask(page, 3, " what is it? don't say")
    said = page.locator(".answer").first.text_content()
    page.get_by_role("button", name="Copy as curl").click()
    playwright.expect(page.locator("#notice")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    made = subprocess.run(
        ["sh", "-c", command.replace("curl ", "curl -s ", 1)],
        capture_output=True,
        text=True,
        check=True,
    )
    message = json.loads(made.stdout)["choices"][0]["message"]
    assert message["content"].strip() == said
    page.get_by_role("button", name="Copy as Python").click()
    playwright.expect(page.locator("#notice")).to_have_text("Copied")
    code = page.evaluate("navigator.clipboard.readText()")
    compile(code, "copied", "exec")
    assert shlex.quote(address)[1:-1] in code or address in code


def test_shots_are_filled_moved_and_switched_off(
    page: Any, run: LoadedRun
) -> None:
    page.locator("#number").fill("4")
    page.locator("#fillnow").click()
    cards = page.locator("#cards .card")
    playwright.expect(cards).to_have_count(4)
    playwright.expect(page.locator("#composer img")).to_have_count(1)
    page.locator("#max_tokens").evaluate("each => { each.value = 5 }")
    page.locator("#compare").click()
    rows = page.locator("#table tbody tr")
    playwright.expect(rows).to_have_count(2)
    playwright.expect(page.locator("#table")).not_to_contain_text("\u2026")
    benchmark = BENCHMARKS["colour"].build()
    place = benchmark.chosen[0]
    question = benchmark.question(benchmark.test[place])
    shots = benchmark.shots(question, place, 4)
    for column, number in ((1, 0), (2, 2), (3, 4)):
        parts: list[Any] = []
        for shot in shots[:number]:
            *asked, answer = shot.parts
            assert isinstance(answer, Text)
            parts += [*asked, Text(f" {answer.content.strip()}\n")]
        document = Document((*parts, *question.prompt.parts))
        (wanted,) = run.predictor.generate(
            [document], max_tokens=5, stop=("\n",)
        )
        cell = rows.first.locator("td").nth(column)
        assert cell.text_content() == (wanted.strip() or "(nothing)")
    assert rows.first.locator("td").nth(4).text_content() == "\u2014"
    texts = page.locator("#cards input[type=text]")
    before = [texts.nth(i).input_value() for i in range(4)]
    texts.nth(0).fill("first")
    page.locator("#cards .grip").first.press("ArrowDown")
    assert texts.nth(1).input_value() == "first"
    cards.nth(1).drag_to(cards.nth(0))
    assert texts.nth(0).input_value() == "first"
    page.get_by_role("checkbox").nth(0).uncheck()
    after = [before[1], *before[2:]]
    page.get_by_role("tab", name="What the model sees").click()
    tokens = page.locator("#sees")
    for word in after:
        playwright.expect(tokens).to_contain_text(word[:1])
    playwright.expect(page.locator("#sees .views")).to_have_count(4)


def test_what_the_model_sees_are_its_tokens_and_views(
    page: Any, run: LoadedRun
) -> None:
    page.get_by_role("tab", name="What the model sees").click()
    page.locator("#composer").click()
    add_picture(page, 5)
    page.locator("#composer").press("Control+End")
    page.keyboard.type("red <end>")
    document = Document((tiny.picture(5), Text("red <end>\n")))
    number = len(run.predictor.renderer(document, end=False).tokens)
    seen = page.locator("#sees")
    playwright.expect(seen).to_contain_text(f"tuned: {number} tokens")
    playwright.expect(seen.locator(".token")).to_have_count(number - 4)
    playwright.expect(seen.locator(".token.control")).to_have_count(0)
    shown = seen.locator(".views img").get_attribute("src")
    content = base64.b64decode(shown.partition(",")[2])
    assert content.startswith(b"\x89PNG")


def test_why_shows_probabilities_and_on_demand_attention(
    page: Any, run: LoadedRun
) -> None:
    page.locator("#other").select_option("")
    page.locator("#max_tokens").evaluate("each => { each.value = 3 }")
    ask(page, 4, " red ", 6)
    page.get_by_role("button", name="Why").click()
    document = Document(
        (tiny.picture(4), Text(" red ", loss=False), tiny.picture(6))
    )
    tokens = list(run.predictor.stream(document, max_tokens=3))
    why = page.locator("#why")
    assert why.locator(".sequence .token").count() == len(tokens)
    assert why.locator(".chance code").count() >= 5
    assert why.locator("#attention table").count() == 0
    page.locator("#attend").click()
    playwright.expect(why.locator("tbody tr")).to_have_count(2)
    playwright.expect(why.locator(".cells i")).to_have_count(8)
    assert "no explanation" in why.inner_text()
    why.locator(".sequence .token").last.click()
    playwright.expect(why.locator("tbody tr")).to_have_count(2)


def test_pasted_and_dropped_pictures_stand_where_they_were_put(
    page: Any,
) -> None:
    put = """([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], "a.png", { type: "image/png" }));
        const event = kind === "paste"
            ? new ClipboardEvent("paste", { clipboardData: files })
            : new DragEvent("drop", { dataTransfer: files });
        document.querySelector("#composer").dispatchEvent(event);
    }"""
    page.locator("#composer").click()
    page.keyboard.type("one ")
    for number, kind in ((7, "paste"), (8, "drop")):
        data = base64.b64encode(tiny.picture(number).data).decode()
        page.evaluate(put, [kind, data])
        playwright.expect(page.locator("#composer img")).to_have_count(
            number - 6
        )
        page.keyboard.type(f" after {kind} ")
    parts = page.evaluate(
        "read(document.querySelector('#composer')).map(p => p.text || p.type)"
    )
    assert [part.strip() for part in parts] == [
        "one",
        "image_url",
        "after paste",
        "image_url",
        "after drop",
    ]


def test_a_mistake_is_said_and_an_answer_can_be_stopped(
    page: Any, run: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.locator("#other").select_option("")
    page.locator("#max_tokens").evaluate("each => { each.value = 9000 }")
    page.locator("#composer").click()
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    failed = page.locator(".answer.failed")
    playwright.expect(failed).to_contain_text("at most 8192")
    steps: list[int] = []
    step = run.predictor.model.step

    def slow(tokens: Any, cache: Any) -> Any:
        steps.append(1)
        time.sleep(0.02)
        logits = step(tokens, cache)
        logits[:, run.predictor.renderer.tokenizer.end] = -1e9  # never ends
        return logits

    monkeypatch.setattr(run.predictor.model, "step", slow)
    page.locator("#max_tokens").evaluate("each => { each.value = 4000 }")
    page.get_by_role("button", name="Regenerate").click()
    playwright.expect(page.locator(".answer.waiting")).not_to_be_empty()
    page.locator("#stop").click()
    playwright.expect(page.locator("#send")).to_be_enabled()
    playwright.expect(page.locator(".answer.failed")).to_have_count(0)
    time.sleep(1)  # the server looks twice a second
    done = len(steps)
    time.sleep(0.3)
    assert len(steps) == done < 1_000
