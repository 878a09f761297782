"""What is too much is refused before anything of it is decoded or tokenised, and every
request has a place among those in flight while it is prepared."""

import base64
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny
from PIL import Image as Pillow

import mm1
from mm1.data.tokenizer import Tokenizer
from mm1.loaded_run import LoadedRun
from mm1.miniature.benchmarks import Miniature

pytest.importorskip("fastapi", reason="pip install 'mm1[chat]'")
pytest.importorskip("uvicorn", reason="pip install 'mm1[chat]'")
httpx = pytest.importorskip("httpx", reason="pip install httpx")

from serving import serving  # noqa: E402

from mm1.chat.app import make_app  # noqa: E402
from mm1.chat.prompts import Limits  # noqa: E402

LIMITS = Limits(max_length=100, max_images=2, max_in_flight=1)


@pytest.fixture
def run(tmp_path: Path) -> LoadedRun:
    benchmarks = {"count": Miniature.Config(task="count", num_questions=3)}
    return mm1.load(tiny.write_run(tmp_path / "tuned", benchmarks=benchmarks))


@pytest.fixture
def address(run: LoadedRun) -> Iterator[str]:
    with serving(make_app({"tuned": run}, limits=LIMITS)) as found:
        yield found


def picture_url() -> str:
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 8), "red").save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/png;base64,{content}"


def chat(content: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
    }


PICTURE = {"type": "image_url", "image_url": {"url": picture_url()}}
PATHS = ["/v1/chat/completions", "/v1/completions", "/mm1/sequence"]


def body_of(path: str, text: str, num_images: int) -> dict[str, Any]:
    if path == "/v1/completions":
        urls = [picture_url()] * num_images
        return {"prompt": "<image>" * num_images + text, "images": urls}
    body = chat([*[PICTURE] * num_images, {"type": "text", "text": text}])
    return body if path.startswith("/v1") else {"messages": body["messages"]}


@pytest.mark.parametrize("path", PATHS)
def test_images_are_counted_before_they_are_decoded(
    address: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr("mm1.chat.prompts.open_image", decoded.append)
    answer = httpx.post(address + path, json=body_of(path, "red", 3))
    assert answer.status_code == 400
    assert "3 images; at most 2" in answer.json()["error"]["message"]
    assert not decoded


@pytest.mark.parametrize("path", PATHS)
def test_characters_are_counted_before_they_are_tokenised(
    address: str, run: LoadedRun, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    encoded: list[str] = []
    encode = Tokenizer.encode

    def noted(tokenizer: Tokenizer, content: str) -> list[int]:
        encoded.append(content)
        return encode(tokenizer, content)

    monkeypatch.setattr(Tokenizer, "encode", noted)
    most = 100 * run.trained.renderer.tokenizer.longest_token
    answer = httpx.post(address + path, json=body_of(path, "a" * (most + 1), 0))
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert f"at most {most}" in error["message"]
    assert not encoded
    answer = httpx.post(address + path, json=body_of(path, "a" * most, 0))
    assert "tokens and the answer" in answer.json()["error"]["message"]


def test_texts_are_counted_together(address: str, run: LoadedRun) -> None:
    most = 100 * run.trained.renderer.tokenizer.longest_token
    half = "a" * (most // 2 + 1)
    body = {
        "messages": [
            {"role": "system", "content": half},
            {"role": "user", "content": [{"type": "text", "text": half}]},
        ]
    }
    answer = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert "characters" in answer.json()["error"]["message"]


def test_every_prompt_fits_that_has_few_enough_tokens(run: LoadedRun) -> None:
    """A text of the longest tokens is not refused by its characters."""
    tokenizer = run.trained.renderer.tokenizer
    words = [tokenizer.name(i) for i in range(tokenizer.num_tokens)]
    assert max(map(len, words)) <= tokenizer.longest_token


@pytest.mark.parametrize("path", [*PATHS, "/mm1/attention", "/mm1/shots"])
def test_what_is_prepared_has_a_place(
    address: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """While one request is prepared another is turned away; then there is room."""
    begun, go_on = threading.Event(), threading.Event()
    encode = Tokenizer.encode
    build = Miniature.Config.build

    def slow(tokenizer: Tokenizer, content: str) -> list[int]:
        begun.set()
        go_on.wait(20)
        return encode(tokenizer, content)

    def slow_build(config: Miniature.Config) -> Any:
        begun.set()
        go_on.wait(20)
        return build(config)

    monkeypatch.setattr(Tokenizer, "encode", slow)
    monkeypatch.setattr(Miniature.Config, "build", slow_build)

    def ask() -> Any:
        if path == "/mm1/shots":
            query = {"model": "tuned", "benchmark": "count"}
            return httpx.get(address + path, params=query, timeout=30)
        body = body_of(path, "red", 1)
        if path == "/mm1/attention":
            body["said"] = [5]
        return httpx.post(address + path, json=body, timeout=30)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask)
        assert begun.wait(20)
        try:
            refused = ask()
        finally:
            go_on.set()
        assert refused.status_code == 429, refused.text
        assert "try again later" in refused.json()["error"]["message"]
        assert first.result().status_code == 200, first.result().text
    assert ask().status_code == 200


def test_a_mistake_leaves_its_place(address: str) -> None:
    for _ in range(3):
        answer = httpx.post(
            f"{address}/v1/chat/completions", json=chat("red" * 200)
        )
        assert answer.status_code == 400
    assert httpx.get(f"{address}/health").json()["in_flight"] == 0


def test_a_number_of_shots_is_not_negative(address: str) -> None:
    query = {"model": "tuned", "benchmark": "count", "number": -1}
    answer = httpx.get(f"{address}/mm1/shots", params=query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "number"
