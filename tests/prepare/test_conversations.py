"""Conversations: every layout of public data, and no question without its image."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import jpeg, write_lines

from mm1.config import ConfigError
from mm1.data.document import Image, Text
from mm1.prepare import verify
from mm1.prepare.placeholders import Placeholder, split_at_placeholders
from mm1.prepare.sources import Unusable
from mm1.prepare.sources.instructions import Instructions

PNG = jpeg(3, kind="PNG")
BASE64 = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{BASE64}"
REPLY = {"role": "assistant", "content": "A cat."}


def outcome(path: Path, **options: Any) -> list[str]:
    """For each record its document, `I` for each image and `Q`, `A` before texts; or
    the reason why it is dropped."""
    source = Instructions.Config(**options).build()
    outcomes = []
    for record in source.read(path):
        try:
            if isinstance(record.data, Unusable):
                raise record.data
            document, _ = verify.check_document(
                source.document(record.data), images_required=True
            )
            outcomes.append(" ".join(map(described, document.parts)))
        except Unusable as why:
            outcomes.append(f"{why.reason} ({why.detail})")
    return outcomes


def described(part: Text | Image) -> str:
    if isinstance(part, Image):
        return f"I{NUMBERS[part.data]}"
    return f"{'A' if part.loss else 'Q'}:{part.content.strip()}" + (
        "." if part.end else ""
    )


NUMBERS = {jpeg(0): 0, jpeg(1): 1, jpeg(2): 2, PNG: 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    (tmp_path / "0.mp4").write_bytes(b"video")
    return tmp_path


def asked(
    folder: Path, *content: Any, reply: Any = REPLY, **fields: Any
) -> str:
    """The outcome of one exchange."""
    user = content[0] if len(content) == 1 else list(content)
    record = {"messages": [{"role": "user", "content": user}, reply], **fields}
    (result,) = outcome(write_lines(folder / "a.jsonl", [record]))
    return result


WHAT = {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    ("part", "number"),
    [
        ({"type": "image_url", "image_url": {"url": "1.jpg"}}, 1),
        ({"type": "image_url", "image_url": {"url": URI, "detail": "low"}}, 3),
        ({"type": "image_url", "image_url": "1.jpg"}, 1),
        ({"type": "input_image", "image_url": URI}, 3),
        ({"type": "image", "image": "2.jpg", "max_pixels": 9}, 2),
        ({"type": "image", "image": "file://2.jpg"}, 2),
        ({"type": "image", "image": BASE64}, 3),
        ({"type": "image", "image": URI}, 3),
        ({"type": "image", "path": "0.jpg"}, 0),
        ({"type": "image", "url": "0.jpg"}, 0),
        ({"type": "image", "base64": BASE64}, 3),
        ({"type": "image", "image": {"path": "1.jpg", "bytes": None}}, 1),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "x", "data": BASE64},
            },
            3,
        ),
        ({"type": "image", "content": "1.jpg"}, 1),
        ({"image": "1.jpg"}, 1),
    ],
)
def test_an_image_part_is_read(
    part: dict[str, Any], number: int, folder: Path
) -> None:
    assert asked(folder, part, WHAT) == f"I{number} Q:What? A:A cat.."
    assert asked(folder, WHAT, part) == f"Q:What? I{number} A:A cat.."
    # The record lists the image that its part holds.
    listed = {"images": [f"{number}.jpg"]} if number < 3 else {}
    if "path" in json.dumps(part) or number < 3:
        assert asked(folder, part, WHAT, **listed).startswith(f"I{number} Q")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video", "video": "0.mp4"},
        {"type": "video_url", "video_url": {"url": "0.mp4"}},
        {
            "type": "input_audio",
            "input_audio": {"data": "UklGR", "format": "wav"},
        },
        {"type": "audio", "audio_url": "a.wav"},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "input_image", "file_id": "x"},
        {"type": "image", "image": "nowhere.jpg"},
        {"type": "image", "image": "https://example.org/1.jpg"},
        {"type": "image", "image": "data:video/mp4;base64,AAAA"},
        {"type": "image", "image": "data:image/png;base64,@@"},
        {"type": "thinking", "thinking": "x"},
        {"type": "image"},
        {"type": "text"},
        {"type": "text", "text": "See", "image": "1.jpg"},
        {"text": "See", "video": "0.mp4"},
        {"type": "image", "image": "1.jpg", "text": "See"},
        {"type": "image", "image": "1.jpg", "audio": "a.wav"},
        {},
        7,
    ],
)
def test_a_record_with_another_part_is_dropped(part: Any, folder: Path) -> None:
    result = asked(folder, part, WHAT)
    assert "A:A cat" not in result
    assert result.endswith(")")


PLACEHOLDERS = """
<image> <Image> <IMAGE> <img> <ImageHere> <Img><ImageHere></Img> [IMG] [image]
<image_placeholder> <image-placeholder> <IMG_CONTEXT> <im_start><image><im_end>
<img></img> (<image>./</image>) <image_soft_token> <start_of_image> <__media__>
<fake_token_around_image><image><fake_token_around_image> <picture> <|image|>
<img>1.jpg</img> <image>1.jpg</image> [img]1.jpg[/img] ![1](1.jpg)
<image_1> <image1> [IMG1] <image_0> <image:1> <|image_1|>
<|vision_start|><|image_pad|><|vision_end|> <|begin_of_image|><|image|><|end_of_image|>
"""


@pytest.mark.parametrize(
    "text",
    [
        *PLACEHOLDERS.split(),
        "<image 1>",
        "[image 1]",
        "<Image #1>",
        '<img alt="x" src="1.jpg"/>',
    ],
)
def test_an_image_stands_where_any_placeholder_is(
    text: str, folder: Path
) -> None:
    result = asked(folder, f"See {text} here", images=["1.jpg"])
    assert result == "Q:See I1 Q:here A:A cat.."
    if "1.jpg" not in text:
        alone = asked(folder, f"See {text} here")
        assert (
            alone == "marks and images differ (1 places for images, 0 images)"
        )
    else:
        assert asked(folder, f"See {text} here") == result


@pytest.mark.parametrize(
    "text",
    [
        "<video>",
        "<VideoHere>",
        "<video>0.mp4</video>",
        "<|video_pad|>",
        "[VIDEO]",
        "<audio>",
        "<|audio_1|>",
        "<speech>",
    ],
)
def test_a_place_for_other_media_drops_the_record(
    text: str, folder: Path
) -> None:
    assert asked(folder, f"{text}\nWhat?").startswith("not an image (")


def test_what_only_looks_like_a_placeholder_is_text() -> None:
    for text in ("data[image]", "[image](a.png)", "<img alt=x>", "<imagery>"):
        assert list(split_at_placeholders(text)) == [text]
    assert list(split_at_placeholders("<image>{x}", "{x}")) == [
        "<image>",
        Placeholder(),
        "",
    ]


def test_numbered_images_are_placed_by_number(folder: Path) -> None:
    images = {"images": ["0.jpg", "1.jpg", "2.jpg"]}
    text = "<image 3> or <image 1>, <image 2>, <image 1>?"
    assert asked(
        folder, text, **images
    ) == "I2 Q: or I0 Q:, I1 Q:, I0 Q:? A:A cat..".replace("Q: or", "Q:or")
    columns = {"image_1": "2.jpg", "image_2": "1.jpg", "image_3": None}
    assert (
        asked(folder, "<image 2><image 1>?", **columns) == "I1 I2 Q:? A:A cat.."
    )
    assert "differ" in asked(folder, "<image 1> <image 4>", **images)
    assert "differ" in asked(folder, "<image 1> <image 2>", **images)
    parts = [
        {"type": "image", "index": 1, "text": None},
        WHAT,
        {"type": "image", "index": 0},
    ]
    assert asked(folder, *parts, images=["0.jpg", "1.jpg"]) == (
        "I1 Q:What? I0 A:A cat.."
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"video": "0.mp4"},
        {"videos": ["0.mp4"]},
        {"audio": {"path": "a.wav", "bytes": None}},
        {"img": "1.jpg"},
        {"pdf": "a.pdf"},
        {"image_path": "1.jpg"},
        {"image_url": URI},
        {"picture": "1.jpg"},
        {"file_name": "1.jpg"},
        {"image": "0.jpg", "images": ["1.jpg"]},
        {"image": "0.jpg", "depth_image": "1.jpg"},
        {"image": "0.jpg", "video": "0.mp4"},
    ],
)
def test_a_record_that_names_other_media_is_dropped(
    fields: dict[str, Any], folder: Path
) -> None:
    assert asked(folder, "What?", **fields).startswith(
        "media that is not read ("
    )


def test_fields_about_images_do_no_harm(folder: Path) -> None:
    fields = {
        "image": "0.jpg",
        "images": ["0.jpg"],
        "image_path": "coco/0.jpg",
        "image_id": "12",
        "image_size": [3, 4],
        "video": None,
        "audio": "",
        "source": "web.jpg",
        "time_frame": "2019",
    }
    assert asked(folder, "What?", **fields) == "I0 Q:What? A:A cat.."
    assert asked(folder, "What?", images=[], video=[]) == "Q:What? A:A cat.."


def test_images_and_other_media_of_a_turn(folder: Path) -> None:
    def turns(**fields: Any) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": "What?", **fields}, REPLY]
        }

    records = [
        turns(images=["1.jpg"]),
        turns(content="So <image>!", image="2.jpg"),
        turns(content="<image><image>", image="2.jpg"),
        turns(video="0.mp4"),
    ]
    assert outcome(write_lines(folder / "a.jsonl", records)) == [
        "I1 Q:What? A:A cat..",
        "Q:So I2 Q:! A:A cat..",
        "marks and images differ (2 places in a turn, 1 images)",
        "media that is not read (in the field 'video')",
    ]


def test_images_in_answers(folder: Path) -> None:
    shown = {"role": "assistant", "content": "Here <image> it is: <image>"}
    images = ["0.jpg", "1.jpg"]
    assert asked(folder, "Show", reply=shown, images=images) == (
        "Q:Show A:Here I0 A:it is: I1 A:."
    )
    assert asked(folder, "Show", reply=shown) == (
        "Q:Show A:Here <image> it is: <image>."
    )
    part = {
        "role": "assistant",
        "content": [{"type": "image", "image": "2.jpg"}, WHAT],
    }
    assert asked(folder, "Show", reply=part) == "Q:Show I2 A:What?."


LAYOUTS = {
    "LLaVA": {
        "conversations": [
            {"from": "human", "value": "Q1"},
            {"from": "gpt", "value": "A1"},
            {"from": "human", "value": "Q2"},
            {"from": "gpt", "value": "A2"},
        ]
    },
    "Cauldron": {
        "texts": [
            {"user": "Q1", "assistant": "A1", "source": "x"},
            {"user": "Q2", "assistant": "A2", "source": "x"},
        ]
    },
    "conversation": {
        "conversation": [
            {"role": "User", "content": "Q1"},
            {"role": "Assistant", "content": "A1"},
            {"question": "Q2", "answer": "A2"},
        ]
    },
    "dict of lists": {
        "messages": {
            "role": ["user", "assistant"] * 2,
            "content": ["Q1", "A1", "Q2", "A2"],
        }
    },
    "dict of lists of exchanges": {
        "texts": {"user": ["Q1", "Q2"], "assistant": ["A1", "A2"]}
    },
    "JSON in a string": {
        "conversations": json.dumps(
            [
                {"from": "human", "value": "Q1"},
                {"from": "gpt", "value": "A1"},
                {"from": "human", "value": "Q2"},
                {"from": "gpt", "value": "A2"},
            ]
        )
    },
    "prompt and completion": {
        "prompt": [
            {"role": "user", "content": "Q1"},
            {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2"},
        ],
        "completion": [{"role": "assistant", "content": "A2"}],
    },
    "Alpaca": {
        "instruction": "Q2",
        "input": "",
        "output": "A2",
        "history": [["Q1", "A1"]],
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_same_conversation(
    layout: str, folder: Path
) -> None:
    record = LAYOUTS[layout] | {"image": "0.jpg"}
    expected = ["I0 Q:Q1 A:A1. Q:Q2 A:A2."]
    assert outcome(write_lines(folder / "a.jsonl", [record])) == expected
    (folder / "b.json").write_text(json.dumps([record]))
    assert outcome(folder / "b.json") == expected
    table = pa.Table.from_pylist([record | {"image": {"bytes": jpeg(0)}}])
    pq.write_table(table, folder / "c.parquet")
    assert outcome(folder / "c.parquet") == expected


def test_single_exchanges(folder: Path) -> None:
    records = [
        {"question": "Q", "answer": "A"},
        {"prompt": "Q", "response": "A", "image": "1.jpg"},
        {"instruction": "Q", "input": "more", "output": "A", "system": "S"},
        {"instruction": "Q", "context": "more", "response": "A"},
        {"question": "Q", "answer": 3},
        {"question": "Q", "answers": ["A"]},
        {"question": None, "answer": "A"},
    ]
    assert outcome(write_lines(folder / "a.jsonl", records)) == [
        "Q:Q A:A.",
        "I1 Q:Q A:A.",
        "Q:S Q:Q\nmore A:A.",
        "Q:Q\nmore A:A.",
        "no answer (it is a int)",
        "no conversation (the record has question, answers)",
        "no content (a turn has )",
    ]


def test_what_tools_and_systems_say_is_not_learnt(folder: Path) -> None:
    def turn(role: str, content: Any, **fields: Any) -> dict[str, Any]:
        return {"role": role, "content": content, **fields}

    others = ["system", "developer", "tool", "function", "observation"]
    records = [
        {"messages": [turn("system", "S"), turn("user", "Q"), REPLY]},
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "function_call", "value": "f()"},
                {"from": "observation", "value": "7"},
                {"from": "gpt", "value": "A"},
            ]
        },
        {"messages": [*(turn(role, role) for role in others), REPLY]},
        {"messages": [turn("user", "Q"), REPLY], "system": "S"},
        {"messages": [turn("system", "S"), REPLY], "system": "S2"},
        {"messages": [turn("assistant", None, tool_calls=[{"id": 1}]), REPLY]},
        {"messages": [turn("critic", "x"), REPLY]},
        {"messages": [turn("user", "x"), {"role": "assistant"}]},
        {"messages": [turn("user", "x"), turn("tool", "y")]},
    ]
    path = write_lines(folder / "a.jsonl", records)
    *read, call, role, content, answer = outcome(path, suffix="Briefly.")
    assert read == [
        "Q:S Q:Q\nBriefly. A:A cat..",
        "Q:Q\nBriefly. A:f(). Q:7 A:A.",
        " ".join(f"Q:{name}" for name in others) + " A:A cat..",
        "Q:S Q:Q\nBriefly. A:A cat..",
        "Q:S A:A cat..",
    ]
    assert call == "a tool is called (tool_calls of 'assistant' is no text)"
    assert role.startswith("unknown speaker (role is 'critic'")
    assert content == "no content (a turn has role)"
    assert answer == "no answer ()"


def test_columns_and_roles_are_options(folder: Path) -> None:
    record = {
        "picture": "1.jpg",
        "talk": [
            {"who": "pupil", "says": "Look {here}"},
            {"who": "Teacher", "says": "A cat."},
        ],
    }
    path = write_lines(folder / "a.jsonl", [record])
    options = {
        "messages": "talk",
        "image": "picture",
        "role": "who",
        "content": "says",
        "user_roles": ("pupil",),
        "assistant_roles": ("teacher",),
        "placeholder": "{here}",
    }
    assert outcome(path, **options) == ["Q:Look I1 A:A cat.."]
    table = pa.Table.from_pylist([record, {"picture": None, "talk": []}])
    pq.write_table(table, folder / "a.parquet")
    assert outcome(folder / "a.parquet", **options) == [
        "Q:Look I1 A:A cat..",
        "no answer ()",
    ]
    table = pa.Table.from_pylist([{"ask": "Q", "reply": "A", "other": 1}])
    pq.write_table(table, folder / "b.parquet")
    assert outcome(folder / "b.parquet", question="ask", answer="reply") == [
        "Q:Q A:A."
    ]
    with pytest.raises(ConfigError, match="no column 'replies'"):
        outcome(folder / "b.parquet", question="ask", answer="replies")


def test_media_columns_of_parquet_are_noticed(folder: Path) -> None:
    rows = [
        {"question": "Q", "answer": "A", "video": b"x", "n": 1},
        {"question": "Q", "answer": "A", "video": None, "n": 2},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    assert outcome(folder / "a.parquet") == [
        "media that is not read (in the field 'video')",
        "Q:Q A:A.",
    ]


def test_fields_that_are_not_read_are_counted(folder: Path) -> None:
    records = [
        {"question": "Q", "answer": "A", "id": n, "source": "x"} for n in (1, 2)
    ]
    for name in ("a.jsonl", "b.json"):
        text = json.dumps(records)
        if name == "a.jsonl":
            text = "\n".join(map(json.dumps, records))
        (folder / name).write_text(text)
        source = Instructions.Config().build()
        assert len(list(source.read(folder / name))) == 2
        assert source.skipped.names == {"column": ["id", "source"]}
        assert source.skipped.counts == {"column": 2}


def test_lists_of_different_length(folder: Path) -> None:
    record = {"messages": {"role": ["user"], "content": ["x", "y"]}}
    assert outcome(
        write_lines(folder / "a.jsonl", [record, {"texts": ["x"]}])
    ) == [
        "lists of different length (messages: 1 role, 2 content)",
        "no turn (one is a str)",
    ]


def test_images_of_the_record_that_parts_name_again(folder: Path) -> None:
    for name in ("x", "y"):
        (folder / name).mkdir()
    (folder / "x" / "1.jpg").write_bytes(jpeg(1))
    (folder / "y" / "1.jpg").write_bytes(jpeg(2))

    def part(path: str) -> dict[str, str]:
        return {"type": "image", "image": path}

    def with_images(*paths: str, images: list[str]) -> str:
        return asked(folder, *map(part, paths), WHAT, images=images)

    both = ["x/1.jpg", "y/1.jpg"]
    assert with_images(*both, images=both) == "I1 I2 Q:What? A:A cat.."
    swapped = with_images("y/1.jpg", "x/1.jpg", images=both)
    assert swapped == "I2 I1 Q:What? A:A cat.."
    twice = with_images("0.jpg", "0.jpg", images=["0.jpg", "0.jpg"])
    assert twice == "I0 I0 Q:What? A:A cat.."
    assert with_images("0.jpg", images=["./0.jpg"]) == "I0 Q:What? A:A cat.."
    other = with_images("y/1.jpg", images=["x/1.jpg"])
    assert other == (
        "marks and images differ (1 places for images, 1 images; 1 of the places name"
        " theirs)"
    )
