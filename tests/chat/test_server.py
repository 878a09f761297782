"""The API as OpenAI's client sees it: answers of the predictor, whole and streamed;
errors in OpenAI's form; limits; who may call."""

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import tiny
from PIL import Image as Pillow

import mm1
from mm1.data.document import Document, Image, Text
from mm1.loaded_run import LoadedRun

pytest.importorskip("fastapi", reason="pip install 'mm1[chat]'")
pytest.importorskip("uvicorn", reason="pip install 'mm1[chat]'")
openai = pytest.importorskip("openai", reason="pip install openai")
httpx = pytest.importorskip("httpx", reason="pip install httpx")

from serving import data_url, image_part, serving, text_part  # noqa: E402

from mm1.chat.app import make_app  # noqa: E402
from mm1.chat.prompts import Limits  # noqa: E402
from mm1.chat.server import TOKEN, serve  # noqa: E402
from mm1.cli import main  # noqa: E402
from mm1.config import UserError  # noqa: E402

LIMITS = Limits(
    max_length=400, max_images=6, max_pixels=10_000, max_body=200_000
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    return mm1.load(tiny.write_run(tmp_path_factory.mktemp("chat") / "tuned"))


@pytest.fixture(scope="module")
def address(run: LoadedRun) -> Iterator[str]:
    base = LoadedRun(run.trained, run.config, layout="plain")
    runs = {"tuned": run, "base": base}
    with serving(make_app(runs, limits=LIMITS)) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(
        base_url=f"{address}/v1", api_key="none", max_retries=0
    ) as made:
        yield made


def question(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


MESSAGES = [
    {"role": "system", "content": "red cat"},
    question(image_part(tiny.picture(1)), text_part("two dog")),
    {"role": "assistant", "content": "sun"},
    question(
        text_part("is "),
        image_part(tiny.picture(2)),
        text_part(" like "),
        image_part(tiny.picture(3)),
        text_part(" red"),
    ),
]
DOCUMENT = Document(
    (
        Text("red cat\n", loss=False),
        tiny.picture(1),
        Text("two dog\n", loss=False),
        Text("sun", loss=False, end=True),
        Text("is ", loss=False),
        tiny.picture(2),
        Text(" like ", loss=False),
        tiny.picture(3),
        Text(" red\n", loss=False),
    )
)


def greedy(run: LoadedRun, document: Document, **options: Any) -> str:
    return run.predictor.generate([document], **options)[0]


def test_a_chat_is_answered_as_the_predictor_does(
    client: Any, run: LoadedRun
) -> None:
    made = client.chat.completions.create(
        model="tuned", messages=MESSAGES, max_tokens=9
    )
    wanted = greedy(run, DOCUMENT, max_tokens=9)
    assert made.choices[0].message.content == wanted
    assert made.choices[0].finish_reason in ("stop", "length")
    tokens = run.predictor.renderer(DOCUMENT, end=False).tokens
    assert made.usage.prompt_tokens == len(tokens)
    assert made.model == "tuned"
    assert [each.id for each in client.models.list()] == ["tuned", "base"]


def test_a_stream_is_the_same_answer_in_pieces(
    client: Any, run: LoadedRun
) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tuned",
            messages=MESSAGES,
            max_completion_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
            top_logprobs=2,
        )
    )
    *chunks, last = chunks
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == greedy(run, DOCUMENT, max_tokens=9)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert not last.choices
    assert last.usage.completion_tokens == len(chunks) - 1
    for chunk in chunks[1:]:
        (entry,) = chunk.choices[0].logprobs.content
        assert entry.token == entry.top_logprobs[0].token
        assert len(entry.top_logprobs) == 2


def test_a_run_that_was_not_tuned_gets_plain_shots(
    client: Any, run: LoadedRun
) -> None:
    shots = [
        question(image_part(tiny.picture(1)), text_part("red")),
        {"role": "assistant", "content": "cat"},
        question(image_part(tiny.picture(2)), text_part("red")),
    ]
    document = Document(
        (
            tiny.picture(1),
            Text("red"),
            Text(" cat\n"),
            tiny.picture(2),
            Text("red"),
        )
    )
    wanted = greedy(run, document, max_tokens=9, stop=("\n",))
    for options in (
        {"model": "base"},
        {"model": "tuned", "extra_body": {"layout": "plain"}},
    ):
        made = client.chat.completions.create(
            messages=shots, max_tokens=9, **options
        )
        assert made.choices[0].message.content == wanted


def test_a_completion_has_images_where_their_marks_are(
    client: Any, run: LoadedRun
) -> None:
    images = [tiny.picture(4), tiny.picture(5)]
    document = Document((images[0], Text("cat"), images[1], Text(" dog red")))
    options: dict[str, Any] = {
        "model": "base",
        "prompt": "<image>cat<image> dog red",
        "max_tokens": 8,
        "extra_body": {"images": [data_url(image) for image in images]},
    }
    wanted = greedy(run, document, max_tokens=8)
    made = client.completions.create(**options, logprobs=3)
    assert made.choices[0].text == wanted
    tokens = made.choices[0].logprobs
    assert len(tokens.tokens) == made.usage.completion_tokens
    stops = [wanted[3:5], wanted[5:6]]
    cut = client.completions.create(**options, stop=stops)
    assert cut.choices[0].text == greedy(
        run, document, max_tokens=8, stop=stops
    )
    pieces = client.completions.create(**options, stream=True)
    assert "".join(each.choices[0].text for each in pieces) == wanted


def test_names_of_control_tokens_stay_text(client: Any, run: LoadedRun) -> None:
    spelled = "<image> <end><pad>"
    made = client.chat.completions.create(
        model="tuned",
        messages=[{"role": "user", "content": spelled}],
        max_tokens=5,
    )
    document = Document((Text(f"{spelled}\n"),))
    tokens = run.predictor.renderer(document, end=False).tokens
    control = run.predictor.renderer.tokenizer.control_ids
    assert control.isdisjoint(tokens.tolist())
    assert made.usage.prompt_tokens == len(tokens)
    assert made.choices[0].message.content == greedy(
        run, document, max_tokens=5
    )


def test_a_seed_repeats_a_drawn_answer(client: Any) -> None:
    def drawn(seed: int) -> str:
        made = client.chat.completions.create(
            model="tuned",
            messages=MESSAGES,
            max_tokens=12,
            temperature=2.0,
            top_p=0.9,
            seed=seed,
        )
        return made.choices[0].message.content

    assert drawn(3) == drawn(3)
    assert len({drawn(seed) for seed in range(4)}) > 1


def png(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    Pillow.new("RGB", (width, height), "red").save(buffer, "PNG")
    return Image(buffer.getvalue(), width, height)


def post(url: str, body: dict[str, Any]) -> Any:
    """With lone surrogates escaped, which httpx cannot send."""
    headers = {"content-type": "application/json"}
    return httpx.post(url, content=json.dumps(body), headers=headers)


def of_url(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [question(part)]}


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"model": "tunde"}, 404, "there is tuned and base"),
        ({"n": 2}, 400, "n: "),
        ({"tools": [{}]}, 400, "tools: not supported by mm1"),
        ({"tool_choice": "auto"}, 400, "tool_choice: not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias: not supported"),
        ({"top_logprobs": 2}, 400, "top_logprobs: logprobs must be true"),
        ({"temperature": -1}, 400, "temperature: "),
        ({"temperature": "hot"}, 400, "temperature: "),
        ({"max_tokens": 0}, 400, "max_tokens: "),
        ({"max_tokens": 399}, 400, "at most 400 are allowed together"),
        ({"messages": []}, 400, "messages: "),
        ({"messages": [question()]}, 400, "the prompt is empty"),
        ({"messages": MESSAGES[:3]}, 400, "nothing to answer"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        (of_url("http://127.0.0.1:1/a.png"), 400, "no data URL"),
        (of_url("file:///etc/hostname"), 400, "no data URL"),
        (of_url("/etc/hostname"), 400, "no data URL"),
        (of_url("data:image/png,abc"), 400, "must be base64"),
        (of_url("data:image/png;base64,a*b"), 400, "not base64"),
        (of_url("data:image/png;base64,\u00e9"), 400, "not base64"),
        (
            {"messages": [question(text_part("red \ud800"))]},
            400,
            "not valid Unicode: '\\ud800' at character 4",
        ),
        (of_url("data:image/png;base64,aGFsbG8="), 400, "not an image"),
        (of_url(data_url(png(200, 51))), 400, "the limit is 10,000"),
        (
            {"messages": [question(*[image_part(tiny.picture(1))] * 7)]},
            400,
            "at most 6",
        ),
        (
            {
                "messages": [
                    question(image_part(tiny.picture(1))),
                    {
                        "role": "assistant",
                        "content": [image_part(tiny.picture(1))],
                    },
                    question(text_part("red")),
                ]
            },
            400,
            "can only be text",
        ),
    ],
)
def test_a_mistake_is_named_in_openais_form(
    address: str, changed: dict[str, Any], status: int, said: str
) -> None:
    body = {"model": "tuned", "messages": MESSAGES} | changed
    answer = post(f"{address}/v1/chat/completions", body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("changed", "param", "said"),
    [
        (
            {"messages": [question({"type": "input_audio"})]},
            "messages.0.content.0",
            "'input_audio'",
        ),
        (
            {
                "messages": [
                    question({"type": "image_url", "image_url": "data:"})
                ]
            },
            "messages.0.content.0.image_url",
            "valid dictionary",
        ),
        (
            {"messages": [question(text_part("red"), {"type": "text"})]},
            "messages.0.content.1.text",
            "Field required",
        ),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": ["a", 1]}, "stop.1", "valid string"),
        ({"stop": ""}, "stop", "at least 1 character"),
        ({"stop": 5}, "stop", "valid"),
    ],
)
def test_a_field_of_several_kinds_is_named_as_it_was_sent(
    address: str, changed: dict[str, Any], param: str, said: str
) -> None:
    body = {"model": "tuned", "messages": MESSAGES} | changed
    answer = httpx.post(f"{address}/v1/chat/completions", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert said in error["message"]


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b'{"model": ', "application/json", "the body is not JSON: "),
        (b'{"messages": []}', "text/plain", "send Content-Type"),
        (b'{"messages": []}', None, "send Content-Type"),
        (b"[1]", "application/json", "valid dictionary"),
        (b"", "application/json", "Field required"),
    ],
)
def test_a_body_that_is_not_read_says_why(
    address: str, content: bytes, kind: str | None, said: str
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = httpx.post(
        f"{address}/v1/chat/completions", content=content, headers=headers
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["param"] is None


def test_values_that_ask_for_nothing_are_taken(client: Any) -> None:
    asked = {"model": "tuned", "max_tokens": 3, "seed": 1}
    messages = [question(text_part("red"))]
    plain = client.chat.completions.create(messages=messages, **asked)
    neutral = client.chat.completions.create(
        messages=messages,
        **asked,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logit_bias={},
        store=False,
    )
    assert neutral.choices == plain.choices
    client.completions.create(prompt="red", **asked, best_of=1, echo=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "red \ud800"},
        {"prompt": "<image>", "images": ["data:image/png;base64,\u00e9"]},
        {"prompt": "red", "echo": True},
        {"prompt": "red", "best_of": 2},
    ],
)
def test_a_mistake_in_a_completion_is_the_callers(
    address: str, changed: dict[str, Any]
) -> None:
    body = {"model": "base"} | changed
    answer = post(f"{address}/v1/completions", body)
    assert answer.status_code == 400, answer.text


def test_a_part_of_a_character_has_no_bytes(
    client: Any, run: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = run.predictor.renderer.tokenizer
    parts = tokenizer.encode("\u00e9")
    assert len(parts) == 2
    model = run.predictor.model
    step = model.step
    wanted = iter([*parts, *tokenizer.encode("red")])

    def chosen(tokens: Any, cache: Any) -> Any:
        logits = step(tokens, cache)
        logits[:, next(wanted)] = 1e9
        return logits

    monkeypatch.setattr(model, "step", chosen)
    made = client.chat.completions.create(
        model="tuned",
        messages=[question(text_part("red"))],
        max_tokens=4,
        logprobs=True,
    )
    # the first is not from a step
    _, *pair, red = made.choices[0].logprobs.content
    assert [each.bytes for each in pair] == [None, None]
    assert bytes(red.bytes).decode() == red.token


def test_health_and_models_answer_as_clients_ask(
    address: str, client: Any, run: LoadedRun
) -> None:
    assert httpx.head(f"{address}/health").status_code == 200
    assert client.models.retrieve("base").id == "base"
    with pytest.raises(openai.NotFoundError, match="there is tuned and base"):
        client.models.retrieve("other")
    with serving(make_app({"one/run": run})) as other:
        found = httpx.get(f"{other}/v1/models/one/run")
        assert found.json()["id"] == "one/run"


def test_a_damaged_image_is_an_error_before_a_stream_begins(
    client: Any,
) -> None:
    whole = png(60, 60)
    cut = Image(whole.data[:-30], 60, 60)
    with pytest.raises(openai.BadRequestError, match="damaged image"):
        client.chat.completions.create(
            model="tuned", messages=[question(image_part(cut))], stream=True
        )


def test_marks_without_images_are_refused(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="1 <image> marks"):
        client.completions.create(model="base", prompt="<image>red")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(
    address: str, chunked: bool
) -> None:
    body = b" " * 200_001
    answer = httpx.post(
        f"{address}/v1/completions",
        content=iter([body[:100_000], body[100_000:]]) if chunked else body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413
    assert "larger than" in answer.json()["error"]["message"]


def test_only_pages_of_this_machine_may_call(address: str) -> None:
    for headers, status in (
        ({}, 200),
        ({"origin": address}, 200),
        ({"origin": "http://example.org"}, 403),
        ({"host": "example.org"}, 403),
        ({"host": "localhost:123"}, 200),
        ({"host": "[::1"}, 403),
        ({"origin": "http://["}, 403),
    ):
        answer = httpx.get(f"{address}/v1/models", headers=headers)
        assert answer.status_code == status
    assert httpx.get(f"{address}/nothing").json()["error"]["message"]


def test_a_token_is_needed_where_there_is_one(run: LoadedRun) -> None:
    with serving(make_app({"tuned": run}, token="secret")) as address:
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        for given, status in (
            (None, 401),
            ("Bearer wrong", 401),
            ("Bearer s\u00e9cret", 401),
            ("Basic secret", 401),
            ("Bearer secret", 200),
            ("bearer secret", 200),
        ):
            headers = {} if given is None else {"authorization": given}
            found = httpx.get(
                f"{address}/v1/models",
                headers={k: v.encode("latin-1") for k, v in headers.items()},
            )
            assert found.status_code == status
        client = openai.OpenAI(
            base_url=f"{address}/v1", api_key="wrong", max_retries=0
        )
        with client, pytest.raises(openai.AuthenticationError):
            client.models.list()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.mark.parametrize(
    ("host", "given", "token"),
    [
        ("127.0.0.1", None, None),
        ("127.0.0.1", "mine", "mine"),
        ("0.0.0.0", "mine", "mine"),
        ("0.0.0.0", "50%off#1", "50%off#1"),
        ("0.0.0.0", None, "made"),
        ("0.0.0.0", "", "made"),
        ("::", None, "made"),
    ],
)
def test_a_server_for_others_has_a_token(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    host: str,
    given: str | None,
    token: str | None,
) -> None:
    """Its address, which is printed, lets whoever opens it in."""
    run = tiny.write_run(tmp_path / "tuned")
    served: list[Any] = []

    def run_server(server: Any, sockets: Any) -> None:
        served.append(server.config.app)

    monkeypatch.delenv(TOKEN, raising=False)
    if given is not None:
        monkeypatch.setenv(TOKEN, given)
    port = free_port()
    with monkeypatch.context() as patched:
        patched.setattr("uvicorn.Server.run", run_server)
        serve([run], host=host, port=port, max_length=100)
    said = capsys.readouterr().out
    address, _, shown = said.splitlines()[0].rpartition(" ")[2].partition("#")
    assert address == f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    shown = unquote(shown)  # as the page does
    assert len(shown) > 30 if token == "made" else shown == (token or "")
    with serving(served[0]) as found:
        answer = httpx.get(f"{found}/v1/models")
        assert answer.status_code == (401 if shown else 200)
        header = {"authorization": f"Bearer {shown}"} if shown else {}
        answer = httpx.get(f"{found}/v1/models", headers=header)
        assert answer.status_code == 200
        page = httpx.get(found)
        assert page.status_code == 200
        assert "tuned" not in page.text


def test_a_port_that_is_taken_is_said_before_a_run_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=r"in use.*use another --port"):
            serve([Path("none")], host="127.0.0.1", port=port, max_length=100)


@pytest.mark.parametrize("host", ["no such host", "a..b", "192.0.2.1"])
def test_a_host_that_is_not_here_is_said_before_a_run_is_loaded(
    host: str,
) -> None:
    with pytest.raises(UserError, match="use another --host"):
        serve([Path("none")], host=host, port=0, max_length=100)


@pytest.mark.parametrize("token", ["s\u00e9cret", "two words", "line\n"])
def test_a_token_that_no_header_can_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(UserError, match=f"{TOKEN} .* ASCII"):
        serve([Path("none")], host="127.0.0.1", port=0, max_length=100)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--max-length", "0"],
        ["--max-length", "-5"],
    ],
)
def test_numbers_out_of_range_are_no_arguments(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrong: list[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", "chat", "none", *wrong])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"argument {wrong[0]}: must be" in capsys.readouterr().err


@pytest.fixture
def endless(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers do not end and take 20 ms a token; the list grows by each."""
    steps: list[int] = []
    model = run.predictor.model
    step = model.step

    def slow(tokens: Any, cache: Any) -> Any:
        steps.append(1)
        time.sleep(0.02)
        logits = step(tokens, cache)
        logits[:, run.predictor.renderer.tokenizer.end] = -1e9
        return logits

    monkeypatch.setattr(model, "step", slow)
    return steps


def wait_until_idle(address: str) -> None:
    deadline = time.monotonic() + 30
    while httpx.get(f"{address}/health").json()["in_flight"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_who_goes_away_ends_the_answer(
    run: LoadedRun, endless: list[int]
) -> None:
    limits = Limits(max_in_flight=2)
    with (
        serving(make_app({"tuned": run}, limits=limits)) as address,
        openai.OpenAI(
            base_url=f"{address}/v1", api_key="x", max_retries=0
        ) as client,
    ):
        create = client.chat.completions.create
        asked = {"model": "tuned", "messages": MESSAGES, "max_tokens": 5_000}
        stream = create(**asked, stream=True)
        next(iter(stream))
        # one waits behind it, whose patience ends before its turn
        with pytest.raises(openai.APITimeoutError):
            create(**asked, timeout=0.3)
        stream.close()
        wait_until_idle(address)
        done = len(endless)
        time.sleep(0.2)
        assert len(endless) == done < 2_000
        made = create(**(asked | {"max_tokens": 2}))
        assert made.usage.completion_tokens == 2


def test_too_many_requests_are_turned_away(
    run: LoadedRun, endless: list[int]
) -> None:
    limits = Limits(max_in_flight=1)
    with (
        serving(make_app({"tuned": run}, limits=limits)) as address,
        openai.OpenAI(
            base_url=f"{address}/v1", api_key="x", max_retries=0
        ) as client,
    ):
        create = client.chat.completions.create
        asked = {"model": "tuned", "messages": MESSAGES, "max_tokens": 5_000}
        stream = create(**asked, stream=True)
        with pytest.raises(openai.RateLimitError, match="try again later"):
            create(**asked)
        stream.close()
        wait_until_idle(address)
        made = create(**(asked | {"max_tokens": 2}))
        assert made.usage.completion_tokens == 2
