"""Texts in JSON lines and conversations, among good ones."""

import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from raw_files import chat, jpeg, write_lines

from cases import Case, prepared, refused
from mm1.prepare import verify
from mm1.prepare.sources import DOT

URI = f"data:image/png;base64,{base64.b64encode(DOT).decode()}"


def line(bad: bytes) -> Case:
    return lambda folder, _: prepared(
        "text",
        write_lines(
            folder / "a.jsonl", [{"text": "good"}, bad, {"text": "good"}]
        ),
    )


def too_long(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(verify, "MAX_LINE", 100)
    return line(json.dumps({"text": "x" * 1000}).encode())(folder, patch)


def zipped(damage: Any) -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        texts = [
            f"good {random.Random(i).randbytes(5000).hex()}" for i in range(40)
        ]
        path = write_lines(
            folder / "a.jsonl.gz", [{"text": text} for text in texts]
        )
        path.write_bytes(damage(gzip.compress(path.read_bytes())))
        outcome = prepared("text", path)
        kept = int(outcome.split()[0])
        assert 0 < kept < 40
        return outcome.replace(str(kept), "N", 1).replace(
            f"of {kept + 1} ", "of N + 1 ", 1
        )

    return case


def nothing_usable(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_lines(
        folder / "a.jsonl", [{"text": ""}, {"txt": "wrong field"}]
    )
    return refused(lambda: prepared("text", path), folder)


def empty_file(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "a.jsonl").touch()
    return refused(lambda: prepared("text", folder / "a.jsonl"), folder)


def conversation(record: Any) -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        (folder / "dot.png").write_bytes(DOT)
        (folder / "text.jpg").write_text("no picture")
        (folder.parent / "secret.jpg").write_bytes(jpeg())
        good = chat("Well?", "Good.")
        (folder / "a.json").write_text(json.dumps([good, record, good]))
        return prepared("instructions", folder / "a.json")

    return case


def parts(*content: Any, **fields: Any) -> Case:
    """A conversation about a picture that its parts or fields name."""
    question = [*content, {"type": "text", "text": "What?"}]
    turns = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "x"},
    ]
    return conversation({"messages": turns, **fields})


def turns(*turns: dict[str, Any]) -> Case:
    return conversation(
        {"messages": [*turns, {"role": "assistant", "content": "x"}]}
    )


def damaged_list(folder: Path, _: pytest.MonkeyPatch) -> str:
    items = [json.dumps(chat("Well?", "Good.")) for _ in range(3)]
    items[1] = items[1].replace('"gpt"', "gpt")
    (folder / "a.json").write_text(f"[{', '.join(items)}]")
    return prepared("instructions", folder / "a.json")


def truncated_list(folder: Path, _: pytest.MonkeyPatch) -> str:
    (folder / "a.json").write_text(
        json.dumps([chat("Well?", "Good.")] * 3)[:-20]
    )
    return prepared("instructions", folder / "a.json")


CASES: dict[str, Case] = {
    "a truncated line": line(b'{"text": "unfinished'),
    "not UTF-8": line(b'{"text": "caf\xe9"}'),
    "half a surrogate pair": line(b'{"text": "\\ud83d"}'),
    "NUL": line(b'{"text": "a\\u0000b"}'),
    "only white space": line(b'{"text": " \\n"}'),
    "another field": line(b'{"content": "x"}'),
    "a list as text": line(b'{"text": ["x"]}'),
    "not an object": line(b'["text"]'),
    "a line too long (limit lowered to 100 bytes)": too_long,
    "truncated gz": zipped(lambda data: data[: len(data) // 2]),
    "damaged gz": zipped(
        lambda data: (
            data[: len(data) // 2] + b"\xff" * 99 + data[len(data) // 2 + 99 :]
        )
    ),
    "no usable line": nothing_usable,
    "empty file": empty_file,
    "conversation: missing image file": conversation(
        chat("<image>What?", "x", image="nowhere.jpg")
    ),
    "conversation: a folder as image": conversation(
        chat("<image>What?", "x", image=".")
    ),
    "conversation: a text file as image": conversation(
        chat("<image>What?", "x", image="text.jpg")
    ),
    "conversation: a path outside the folder": conversation(
        chat("<image>What?", "x", image="../secret.jpg")
    ),
    "conversation: a URL": conversation(
        chat("<image>What?", "x", image="https://example.org/1.jpg")
    ),
    "conversation: a number as path": conversation(
        chat("<image>What?", "x", image=3)
    ),
    "conversation: two placeholders, one image": conversation(
        chat("<image><image>What?", "x", image="dot.png")
    ),
    "conversation: an image without placeholder": conversation(
        chat("What?", "x", image="dot.png")
    ),
    "conversation: an empty answer": conversation(chat("What?", " ")),
    "conversation: no answer": conversation(
        {"conversations": [{"from": "human", "value": "What?"}]}
    ),
    "conversation: no turns": conversation({"prompt": "What?"}),
    "conversation: an unknown speaker": conversation(
        {"conversations": [{"from": "parrot", "value": "What?"}]}
    ),
    "conversation: not an object": conversation(["What?", "x"]),
    "conversation: a picture in a data URI": parts(
        {"type": "image_url", "image_url": {"url": URI}}
    ),
    "conversation: a broken data URI": parts(
        {"type": "image_url", "image_url": {"url": URI[:-9] + "@"}}
    ),
    "conversation: a video as data URI": parts(
        {"type": "image", "image": "data:video/mp4;base64,AAAA"}
    ),
    "conversation: a missing file in a part": parts(
        {"type": "image", "image": "nowhere.png"}
    ),
    "conversation: a file known to an API only": parts(
        {"type": "input_image", "file_id": "file-1"}
    ),
    "conversation: a part without its picture": parts({"type": "image"}),
    "conversation: a video as part": parts({"type": "video", "video": "a.mp4"}),
    "conversation: audio as part": parts(
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    ),
    "conversation: a picture inside a text part": parts(
        {"type": "text", "text": "See", "image": "dot.png"}
    ),
    "conversation: a video beside": parts(video="a.mp4"),
    "conversation: a picture in a field that is not read": parts(img="dot.png"),
    "conversation: two different fields of pictures": parts(
        image="dot.png", images=["text.jpg"]
    ),
    "conversation: a place for a video": conversation(
        chat("<video>What?", "x")
    ),
    "conversation: a place for audio": conversation(
        chat("<|audio_1|>What?", "x")
    ),
    "conversation: ImageHere without a picture": conversation(
        chat("<ImageHere>What?", "x")
    ),
    "conversation: [IMG] without a picture": conversation(
        chat("[IMG]What?", "x")
    ),
    "conversation: the second of one picture": conversation(
        chat("<image 2>What?", "x", image="dot.png")
    ),
    "conversation: the path of a missing file in its text": conversation(
        chat("<img>nowhere.png</img>What?", "x")
    ),
    "conversation: a turn without content": turns({"role": "user"}),
    "conversation: a tool is called": turns(
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    ),
    "conversation: what a tool says": turns({"role": "tool", "content": "7"}),
    "conversation: lists of different length": conversation(
        {"messages": {"role": ["user", "assistant"], "content": ["What?"]}}
    ),
    "conversations: a truncated list": truncated_list,
    "conversations: a damaged item of a list": damaged_list,
}
