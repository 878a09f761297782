"""The contract of a source, checked for every file in `mm1/prepare/sources`; then what
each of them reads."""

import contextlib
import fnmatch
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from components import classes_in
from raw_files import chat, jpeg, pairs, write_lines, write_pages, write_tar

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare import json_list, sources, verify
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import (
    Record,
    Source,
    Unusable,
    raw_image,
)
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.instructions import Instructions
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts
from mm1.prepare.tokenizer_texts import TokenizerTexts

every_source = pytest.mark.parametrize(
    "cls", classes_in(Source, sources), ids=lambda c: c.__name__
)

GARBAGE = {
    "nothing": b"",
    "zeros": b"\0" * 2048,
    "bytes": bytes(range(256)) * 9,
    "open list": b"[1, 2",
    "scalars": b'{"a": 1}\n[]\n3\n"x"\nnull\n{"text": 5}\n{"conversations": [4]}\n',
    "list of scalars": (
        b'[1, null, "x", {}, {"conversations": {}}, {"image": 7, "messages": [{"role":'
        b" []}]}]"
    ),
    "deep": b"[" * 100_000,
}


def usable(source: Source, path: Path) -> list[Document]:
    """The documents of the records that can be used."""
    documents = []
    for record in source.read(path):
        if not isinstance(record.data, Unusable):
            documents.append(source.document(record.data))
    return documents


# --- the contract


@every_source
def test_the_example_becomes_a_document_to_learn_from(
    cls: type[Source],
) -> None:
    document = cls.Config().build().document(cls.EXAMPLE)
    verified, lost = verify.check_document(
        document, images_required=cls.IMAGES_REQUIRED
    )
    assert any(
        isinstance(part, Text) and part.loss and part.content.strip()
        for part in verified.parts
    )
    assert not lost
    assert all(
        image.width > 0 and image.height > 0 for image in verified.images
    )


@every_source
def test_the_same_record_gives_the_same_document(cls: type[Source]) -> None:
    one, two = (
        pickle.loads(pickle.dumps(cls.Config())).build().document(cls.EXAMPLE)
        for _ in range(2)
    )
    assert one == two


@every_source
def test_config_survives_json(cls: type[Source]) -> None:
    assert configs.from_json(configs.to_json(cls.Config())) == cls.Config()


@every_source
def test_patterns_are_file_names(cls: type[Source]) -> None:
    assert cls.PATTERNS or "find" in vars(cls)
    assert all(
        "*" in pattern and "/" not in pattern for pattern in cls.PATTERNS
    )
    assert not any(
        fnmatch.fnmatch("manifest.arrow", pattern) for pattern in cls.PATTERNS
    )


@every_source
def test_missing_file_is_an_os_error(cls: type[Source], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        list(cls.Config().build().read(tmp_path / "missing"))


@every_source
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_gives_documents_or_reasons(
    cls: type[Source], garbage: bytes, tmp_path: Path
) -> None:
    """Garbage for one format is text for another; anything but documents and `Unusable`
    is an error."""
    path = tmp_path / "garbage"
    path.write_bytes(garbage)
    source = cls.Config().build()
    try:
        records = list(source.read(path))
    except (ConfigError, OSError):
        return  # the file as a whole is refused
    for record in records:
        if not isinstance(record.data, Unusable):
            with contextlib.suppress(Unusable):
                assert isinstance(source.document(record.data), Document)


@every_source
def test_goes_through_prepare(
    cls: type[Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(_: Source, path: Path) -> Iterator[Record]:
        yield from (Record("a", cls.EXAMPLE), Record("b", Unusable("bad luck")))

    monkeypatch.setattr(cls, "read", read)
    monkeypatch.setattr(cls, "find", lambda path: [path])
    (tmp_path / "raw").touch()
    train_tokenizer(["a text"], tmp_path / "t.json", vocab_size=300)
    manifest = prepare(
        Preparation.Config(source=cls.Config()),
        [tmp_path / "raw"],
        tmp_path / "out",
        tmp_path / "t.json",
    )
    assert (manifest["documents"], manifest["drops"]) == (1, {"bad luck": 1})
    found_text = cls.Config().build().document(cls.EXAMPLE).text
    assert Shards(tmp_path / "out").document(0).text == found_text


# --- captions


def test_captions_are_images_with_their_text(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pairs(2))
    assert [r.key for r in Captions.Config().build().read(path)] == [
        "0000",
        "0001",
    ]
    first, second = usable(Captions.Config().build(), path)
    assert first == Document((raw_image(jpeg(0)), Text("picture number 0")))
    assert second == Document((raw_image(jpeg(1)), Text("picture number 1")))


def test_captions_come_from_txt_or_json_or_a_named_field(
    tmp_path: Path,
) -> None:
    fields = json.dumps(
        {"caption": "from json", "synthetic": "a rewritten caption"}
    ).encode()
    members = [
        ("x/1.JPG", jpeg()),
        ("x/1.json", fields),
        ("x/1.txt", b"from txt"),
        ("y.z/2.png", jpeg()),
        ("y.z/2.json", fields),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    assert [d.text for d in usable(Captions.Config().build(), path)] == [
        "<image>from txt",
        "<image>from json",
    ]
    other = usable(Captions.Config(field="synthetic").build(), path)
    assert [d.text for d in other] == ["<image>a rewritten caption"] * 2


def test_captions_skip_other_members(tmp_path: Path) -> None:
    extra = [
        ("README", b"hello"),
        ("._0000.jpg", b"mac"),
        ("0000.cls", b"7"),
        ("0000.seg.png", b"mask"),
    ]
    path = write_tar(tmp_path / "a.tar", [*extra[:2], *pairs(1), *extra[2:]])
    assert [d.text for d in usable(Captions.Config().build(), path)] == [
        "<image>picture number 0"
    ]


def test_samples_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pairs(1) + pairs(1))
    assert len(usable(Captions.Config().build(), path)) == 2


# --- interleaved


def test_pages_keep_their_order(tmp_path: Path) -> None:
    page = {
        "images": [None, jpeg(1), None, jpeg(2)],
        "texts": ["one", None, " two\n", None],
    }
    path = write_pages(tmp_path / "a.parquet", [page])
    expected = Document(
        (Text("one"), raw_image(jpeg(1)), Text(" two\n"), raw_image(jpeg(2)))
    )
    assert usable(Interleaved.Config().build(), path) == [expected]


def test_consecutive_texts_are_paragraphs() -> None:
    page = {
        "images": [None, None, None, jpeg(1)],
        "texts": ["one", " ", "two", None],
    }
    assert Interleaved.Config().build().document(page).parts == (
        Text("one\n\ntwo"),
        raw_image(jpeg(1)),
    )


def test_images_as_hugging_face_stores_them(tmp_path: Path) -> None:
    page = {
        "images": [{"bytes": jpeg(1), "path": None}, None],
        "texts": [None, "one"],
    }
    pq.write_table(pa.Table.from_pylist([page]), tmp_path / "a.parquet")
    assert usable(Interleaved.Config().build(), tmp_path / "a.parquet") == [
        Document((raw_image(jpeg(1)), Text("one")))
    ]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write_pages(
        tmp_path / "a.parquet", [{"images": [None], "texts": ["one"]}]
    )
    with pytest.raises(
        ConfigError,
        match=r"a\.parquet has no column 'text'; did you mean 'texts'",
    ):
        list(Interleaved.Config(texts="text").build().read(path))


# --- text


def test_text_lines_are_documents(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        [b"\xef\xbb\xbf" + b'{"text": "one"}', b"", {"text": "two\n\nthree"}],
    )
    assert [
        (r.key, r.data["text"]) for r in Texts.Config().build().read(path)
    ] == [
        ("1", "one"),
        ("3", "two\n\nthree"),
    ]


def test_text_of_another_field() -> None:
    assert (
        Texts.Config(field="content").build().document({"content": "one"}).text
        == "one"
    )


def test_tokenizer_texts_come_from_lines_and_plain_files(
    tmp_path: Path,
) -> None:
    write_lines(
        tmp_path / "a.jsonl", [{"text": "one"}, b"broken", {"text": " "}]
    )
    (tmp_path / "b.txt").write_text("two\nthree\n")
    assert list(TokenizerTexts([tmp_path])) == ["one", "two\n", "three\n"]


# --- instructions


def written(folder: Path, records: list[Any], name: str = "a.json") -> Path:
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    (folder / name).write_text(json.dumps(records))
    return folder / name


def ask(content: str) -> Text:
    return Text(content + "\n", loss=False)


def answer(content: str) -> Text:
    return Text(content, end=True)


def test_only_answers_have_loss(tmp_path: Path) -> None:
    record = chat("<image>\nWhat is it?", "A cat.", image="0.jpg")
    record["conversations"] += chat("Sure?", " Yes.\n")["conversations"]
    (document,) = usable(
        Instructions.Config().build(), written(tmp_path, [record])
    )
    expected = (
        raw_image(jpeg(0)),
        ask("What is it?"),
        answer("A cat."),
        ask("Sure?"),
        answer("Yes."),
    )
    assert document.parts == expected


def test_images_replace_their_placeholders(tmp_path: Path) -> None:
    two = chat("Is <image> like <image>?", "No.", image=["0.jpg", "1.jpg"])
    unmarked = chat("What is it?", "A dog.", image="2.jpg")
    alone = chat("How are you?", "Well: <image> is a word here.")
    first, second, third = usable(
        Instructions.Config().build(), written(tmp_path, [two, unmarked, alone])
    )
    asked = (
        Text("Is ", loss=False),
        raw_image(jpeg(0)),
        Text(" like ", loss=False),
        raw_image(jpeg(1)),
        ask("?"),
    )
    assert first.parts == (*asked, answer("No."))
    assert second.parts == (
        raw_image(jpeg(2)),
        ask("What is it?"),
        answer("A dog."),
    )
    assert third.images == ()


def test_a_suffix_follows_every_question(tmp_path: Path) -> None:
    record = chat("<image>\nWhat is it?", "Cat", image="0.jpg")
    record["conversations"] = [
        {"from": "system", "value": "Be brief."},
        *record["conversations"],
        *chat("Colour? \n", "Red")["conversations"],
    ]
    (document,) = usable(
        Instructions.Config(suffix="One word.").build(),
        written(tmp_path, [record]),
    )
    first = (
        ask("Be brief."),
        raw_image(jpeg(0)),
        ask("What is it?\nOne word."),
        answer("Cat"),
    )
    assert document.parts == (*first, ask("Colour?\nOne word."), answer("Red"))


def test_messages_with_strings_and_with_parts(tmp_path: Path) -> None:
    string = {"role": "user", "content": "<image>What is it?"}
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    reply = {
        "role": "assistant",
        "content": [{"type": "text", "text": "A cat."}],
    }
    records = [
        {"messages": [turn, reply], "images": ["0.jpg"]}
        for turn in (string, string | {"content": content})
    ]
    written(tmp_path, [])
    path = write_lines(tmp_path / "a.jsonl", records)
    expected = Document(
        (raw_image(jpeg(0)), ask("What is it?"), answer("A cat."))
    )
    assert usable(Instructions.Config().build(), path) == [expected] * 2


def test_images_may_be_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    written(tmp_path / "pictures", [])
    path = write_lines(
        tmp_path / "a.jsonl", [chat("What is it?", "A cat.", image="1.jpg")]
    )
    (document,) = usable(
        Instructions.Config(folder=str(tmp_path / "pictures")).build(), path
    )
    assert document.images == (raw_image(jpeg(1)),)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_list_is_read_piece_by_piece(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    records = [
        chat(
            f'Écris {i} \U0001f600 "{{[,]}}"',
            "x" * i,
            number=-1.5e3,
            odd=[True, None],
        )
        for i in range(9)
    ]
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(records, indent=1) + "\n")
    read = list(json_list.read_json_list(path))
    assert [record.data for record in read] == records
    assert [record.key for record in read] == [str(i) for i in range(9)]


@pytest.mark.parametrize("chunk", [3, 50, 1 << 20])
@pytest.mark.parametrize(
    "damage",
    [
        lambda item: item.replace('"human"', "human"),
        lambda item: item.replace('"Q3"', '"Q3'),
        lambda item: item.replace("[", "", 1),
        lambda item: item[:-1],
        lambda item: "\0" * 300 + item[300:],
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_damage_in_a_list_costs_its_item(
    damage: Any,
    chunk: int,
    indent: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Turns are objects too, but have no key of the items."""
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    items = [
        json.dumps(
            chat(f"Q{n}", "A" * 90, image=f"{n}.jpg") | {"id": n}, indent=indent
        )
        for n in range(9)
    ]
    items[3] = damage(items[3])
    (tmp_path / "a.json").write_text(f"[{', '.join(items)}]")
    read = list(json_list.read_json_list(tmp_path / "a.json"))
    ids = [r.data["id"] if isinstance(r.data, dict) else None for r in read]
    assert ids == [0, 1, 2, None, 4, 5, 6, 7, 8]
    assert read[3].data.reason == "broken JSON"


def test_an_image_given_as_url_keeps_it() -> None:
    assert raw_image("https://example.org/ä.jpg") == Image(
        "https://example.org/ä.jpg".encode(), 0, 0
    )
