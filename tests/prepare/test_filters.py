"""Filters: each rule refuses what it says and nothing else; of duplicates across files
the first is kept."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import jpeg, write_lines, write_pages

from mm1 import cli
from mm1.config import ConfigError, UserError
from mm1.data.document import Document, Image, Text
from mm1.data.prepared.shards import Shards, read_manifest
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.prepare import verify
from mm1.prepare.content_hash import (
    image_hash,
    is_validation,
    words_or_characters,
)
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters, ImageRules, TextRules
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.repetition import find_repetition
from mm1.prepare.sources import Unusable
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts
from mm1.recipes.filters import filters_named, web_pages, web_text


def page(*parts: str | Image) -> Document:
    return Document(
        tuple(Text(part) if isinstance(part, str) else part for part in parts)
    )


def reasons(rules: ImageRules.Config, *images: Image) -> list[str]:
    """Why images of one page are left out."""
    look = rules.build().for_one_document(verify.check_image)
    return [
        why.reason
        for why in verify.check_document(
            page("a", *images), images_required=False, check=look
        )[1]
    ]


def sized(width: int, height: int, url: str = "") -> Image:
    return Image(jpeg(width, (width, height)), 0, 0, url)


@pytest.mark.parametrize(
    ("rules", "kept", "left_out", "reason"),
    [
        (
            ImageRules.Config(min_side=10),
            sized(10, 90),
            sized(9, 90),
            "image too small",
        ),
        (
            ImageRules.Config(max_side=90),
            sized(10, 90),
            sized(10, 91),
            "image too large",
        ),
        (
            ImageRules.Config(max_aspect=2.0),
            sized(20, 40),
            sized(41, 20),
            "image too long",
        ),
        (
            ImageRules.Config(url_words=("logo",)),
            sized(9, 9, "http://logo.org/a.jpg?logo"),
            sized(9, 9, "http://a.org/Logos/a.jpg"),
            "word in image URL",
        ),
    ],
)
def test_rules_for_images(
    rules: ImageRules.Config, kept: Image, left_out: Image, reason: str
) -> None:
    assert reasons(ImageRules.Config(), kept, left_out) == []
    assert reasons(rules, kept, left_out) == [reason]


def test_an_image_appears_once_on_a_page() -> None:
    one = sized(9, 9)
    other = sized(8, 9)
    assert (
        reasons(ImageRules.Config(once=True), one, other, one, one)
        == ["repeated image"] * 2
    )
    assert reasons(ImageRules.Config(), one, one) == []


@pytest.mark.parametrize(
    ("field", "value", "kept", "refused", "reason"),
    [
        ("min_words", 3, "one two three", "one two", "text too short"),
        ("max_words", 2, "one two", "one two three", "text too long"),
        ("min_word_length", 3.0, "one two", "a two", "word length"),
        ("max_word_length", 3.0, "one two", "three", "word length"),
        ("max_symbols", 0.5, "one #", "## ...", "too many symbols"),
        ("min_alphabetic", 0.5, "one 2", "1 2 three", "too few letters"),
        ("repetition", True, "one\ntwo", "one\none", "repetitive text"),
    ],
)
def test_rules_for_text(
    field: str, value: Any, kept: str, refused: str, reason: str
) -> None:
    rules = TextRules.Config(**{field: value}).build()
    rules.check(page(kept))
    with pytest.raises(Unusable) as why:
        rules.check(page(refused))
    assert why.value.reason == reason


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("a\nb\nc\nd\na\na\n", "33% of the lines are copies"),
        (
            "a b\n\nlong long copy\n\nc d\n\ne\n\nlong long copy",
            "copies of lines",
        ),
        ("the cat the cat the cat sat on a mat", "in one sequence of 2 words"),
        (
            "x1 a b c d x2 a b c d y1 y2 y3 y4 y5 y6 y7 y8 y9 y0",
            "one sequence of 3 words",
        ),
        (
            (
                "It is a truth universally acknowledged, that a single man must be in"
                " want of a wife."
            ),
            "",
        ),
        ("", ""),
    ],
)
def test_repetition(text: str, how: str) -> None:
    found = find_repetition(text)
    assert (how in found) if how else not found


def test_words_of_long_repeats_count_once() -> None:
    """60 words of equal length, then 12 of them again: 12 of 72 are 17%."""
    words = [f"{i:03}" for i in range(60)]
    assert (
        find_repetition(" ".join(words + words[:12]))
        == "17% of the characters are in repeated sequences of 5 words"
    )
    assert find_repetition(" ".join(words + words[:5])) == ""


# --- across files


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    train_tokenizer(["page number one two three"], path, vocab_size=300)
    return path


def dropped(out: Path) -> list[tuple[str, str, str, str]]:
    lines = [
        json.loads(line)
        for line in (out / "drops.jsonl").read_text().splitlines()
    ]
    return [
        (Path(line["file"]).name, line["key"], line["dropped"], line["reason"])
        for line in lines
    ]


def test_the_first_copy_is_kept(tokenizer: Path, tmp_path: Path) -> None:
    files = [
        write_lines(
            tmp_path / "0.jsonl",
            [{"text": "Page one."}, {"text": ""}, {"text": "Page two."}],
        ),
        write_lines(
            tmp_path / "1.jsonl",
            [
                {"text": "page  ONE"},
                {"text": "page three"},
                {"text": "page one"},
            ],
        ),
    ]
    filters = Filters.Config(duplicates=Duplicates.Config(exact=True))
    manifest = prepare(
        Preparation.Config(source=Texts.Config(), filters=filters),
        files,
        tmp_path / "out",
        tokenizer,
    )
    assert (manifest["records_in"], manifest["documents"]) == (6, 3)
    assert dropped(tmp_path / "out") == [
        ("0.jsonl", "2", "record", "empty text"),
        ("1.jsonl", "1", "record", "duplicate"),
        ("1.jsonl", "3", "record", "duplicate"),
    ]
    assert f"of {files[0]}#1" in (tmp_path / "out" / "drops.jsonl").read_text()
    shards = Shards(tmp_path / "out")
    assert [shards.document(i).text for i in range(3)] == [
        "Page one.",
        "Page two.",
        "page three",
    ]


def test_images_in_many_documents_are_removed(
    tokenizer: Path, tmp_path: Path
) -> None:
    """An image on three of four pages is removed; a page left without one is dropped,
    and does not count as the first copy of its text."""
    logo = jpeg(0)
    cat = jpeg(1)
    dog = jpeg(2)
    pages = [
        {"images": [logo, None], "texts": [None, "one"]},
        {
            "images": [None, logo, None, cat],
            "texts": ["two", None, "three", None],
        },
        {
            "images": [None, logo, logo, dog, dog],
            "texts": ["four", *[None] * 4],
        },
        {"images": [cat, None], "texts": [None, "one"]},
    ]
    files = [
        write_pages(tmp_path / f"{i}.parquet", pages[2 * i : 2 * i + 2])
        for i in range(2)
    ]
    filters = Filters.Config(
        duplicates=Duplicates.Config(exact=True, max_documents_of_image=2),
        min_images=1,
    )
    manifest = prepare(
        Preparation.Config(source=Interleaved.Config(), filters=filters),
        files,
        tmp_path / "out",
        tokenizer,
    )
    assert (manifest["documents"], manifest["images"]) == (3, 4)
    assert (manifest["drops"], manifest["images_dropped"]) == (
        {"too few images": 1},
        {"image in many documents": 3},
    )
    shards = Shards(tmp_path / "out")
    found = [shards.document(i) for i in range(3)]
    assert [document.text for document in found] == [
        "two\n\nthree<image>",
        "four<image><image>",
        "<image>one",
    ]
    encode = Tokenizer.Config(path=str(tokenizer)).build().encode
    texts = [
        part
        for document in found
        for part in document.parts
        if isinstance(part, Text)
    ]
    assert [list(part.tokens or ()) for part in texts] == [
        encode(part.content) for part in texts
    ]


def test_a_caption_is_dropped_with_its_image() -> None:
    duplicates = Duplicates.Config(max_documents_of_image=1).build()
    documents = [
        page(sized(9, 9), "a"),
        page(sized(9, 9), "b"),
        page(sized(8, 9), "c"),
    ]
    removals = removals_of(duplicates, [documents])[0]
    assert removals.documents == {
        0: ("image in many documents", ""),
        1: ("image in many documents", ""),
    }
    assert not removals.images


def removals_of(
    duplicates: Duplicates, files: Sequence[Sequence[Document]]
) -> Any:
    import pyarrow as pa

    rows = [
        [
            duplicates.fingerprint(f"{f}#{i}", document)
            for i, document in enumerate(file)
        ]
        for f, file in enumerate(files)
    ]
    tables = [pa.Table.from_pylist(file, duplicates.schema()) for file in rows]
    return duplicates.find_removals(
        tables, lambda count: None, images_required=True
    )


def test_near_duplicates() -> None:
    """200 words with one changed: 5 of 196 n-grams differ; the similarity is 191 / 201,
    or 0.95."""
    pytest.importorskip("datasketch", reason="pip install 'mm1[filters]'")
    draw = random.Random(0)
    texts = [
        [f"w{draw.randrange(5000)}" for _ in range(200)] for _ in range(30)
    ]
    near = [[*text[:50], "other", *text[51:]] for text in texts[:10]]
    far = [[*text[:100], *texts[-1][100:]] for text in texts[10:20]]
    files = [
        [page(" ".join(words)) for words in file]
        for file in (texts, [*near, *far])
    ]
    removals = removals_of(Duplicates.Config(near=0.8).build(), files)
    assert not removals[0].documents
    assert sorted(removals[1].documents) == list(range(10))
    assert all(
        removals[1].documents[i][1].endswith(f" like 0#{i}") for i in range(10)
    )
    assert removals_of(Duplicates.Config(near=0.8).build(), files) == removals


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("一", "龥"),
        ("ぁ", "ヺ"),
        ("ก", "ฮ"),
        ("ກ", "ຮ"),
        ("က", "အ"),
        ("ក", "អ"),
        ("\U00020000", "\U0002a6d0"),
    ],
    ids=["Han", "kana", "Thai", "Lao", "Burmese", "Khmer", "Han B"],
)
def test_near_duplicates_where_no_spaces_are(first: str, last: str) -> None:
    """One character of 300 is another one, or is missing."""
    pytest.importorskip("datasketch", reason="pip install 'mm1[filters]'")
    rng = np.random.default_rng(0)
    texts = [
        "".join(map(chr, rng.integers(ord(first), ord(last), 300)))
        for _ in range(4)
    ]
    near = [
        texts[0][:99] + first + texts[0][100:],
        texts[1][:50] + texts[1][51:],
    ]
    files = [[page(text) for text in (*texts, *near)]]
    (lost,) = removals_of(Duplicates.Config(near=0.8).build(), files)
    assert list(lost.documents) == [4, 5]
    assert {reason for reason, _ in lost.documents.values()} == {
        "near-duplicate"
    }


def test_words_among_characters_stay_words() -> None:
    mixed = page("Der iPhone手机 is ที่ここ: 한국어 단어!")
    assert words_or_characters(mixed) == [
        *("der", "iphone", "手", "机", "is", "ท", "こ", "こ"),
        *("한국어", "단어"),
    ]


def test_short_texts_are_compared_whole() -> None:
    """A text with fewer words than an n-gram has is like equal texts alone."""
    pytest.importorskip("datasketch", reason="pip install 'mm1[filters]'")
    short = ["cat", "dog", "red fox", "red dog", "a b c d", "a b c e"]
    again = ["Cat!", "猫", "猫咪", "red  FOX", "猫", "a b c d e"]
    files = [[page(text) for text in (*short, *again)]]
    (lost,) = removals_of(Duplicates.Config(near=0.8).build(), files)
    assert list(lost.documents) == [6, 9, 10]


def test_near_duplicates_need_datasketch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(UserError, match=r"mm1\[filters\]"):
        Duplicates.Config(near=0.8).build()


# --- options


def test_impossible_options_are_errors() -> None:
    with pytest.raises(ConfigError, match="min_images=3 is more than"):
        Filters.Config(min_images=3, max_images=2).build()
    with pytest.raises(ConfigError, match=r"near=1\.5 must be above 0"):
        Duplicates.Config(near=1.5).build()
    with pytest.raises(ConfigError, match="did you mean 'web_text'"):
        filters_named("webtext")


def test_options_of_the_command(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_lines(
        tmp_path / "a.jsonl",
        [{"body": "one"}, {"body": "two words"}, {"body": "Two words!"}],
    )
    options = [
        "filters=web_text",
        "filters.duplicates.near=None",
        "filters.text.min_words=2",
        "filters.text.repetition=False",
    ]
    options += ["--validation", "1e-9", "--validation-by", "image"]
    options += ["source.field=body"]
    paths = ["--out", str(tmp_path / "out"), "--tokenizer", str(tokenizer)]
    monkeypatch.setattr(
        "sys.argv", ["mm1", "prepare", "text", str(raw), *paths, *options]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest["drops"] == {"text too short": 1, "duplicate": 1}
    assert manifest["filters"]["text"]["max_words"] == 100_000


def test_sets_of_filters() -> None:
    assert filters_named("web_pages") == web_pages()
    assert filters_named("web_text") == web_text()


def test_captions_of_one_image_stay_together() -> None:
    pictures = [sized(8 + i, 9) for i in range(40)]
    sides = [
        {is_validation(page(p, f"caption {i}"), 0.5, "image") for i in range(5)}
        for p in pictures
    ]
    assert all(len(side) == 1 for side in sides)
    assert {True, False} == set.union(*sides)
    assert len({image_hash(p) for p in pictures}) == 40
    by_text = {
        is_validation(page(pictures[0], f"caption {i}"), 0.5) for i in range(20)
    }
    assert by_text == {True, False}
