"""Preparing: counts add up, a folder with a manifest is complete, and validation texts
are not in the training split."""

import json
import os
from array import array
from pathlib import Path
from typing import Any

import pytest
from raw_files import chat, jpeg, pairs, write_lines, write_pages, write_tar

from mm1.config import ConfigError, from_json, to_json
from mm1.data.document import Document, Image, Text
from mm1.data.prepared.shards import Shards, read_manifest
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.overrides import component_names, default_config, override
from mm1.prepare import pipeline as module
from mm1.prepare import preparation
from mm1.prepare.content_hash import is_validation
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters, ImageRules
from mm1.prepare.pipeline import find_files, prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts
from mm1.prepare.tokenizer_texts import TokenizerTexts

REAL = Path(
    os.environ.get("MM1_REAL_DATA")
    or Path(__file__).resolve().parents[3] / "shared" / "real"
)
needs_real_data = pytest.mark.skipif(
    not REAL.is_dir(),
    reason=(
        "set MM1_REAL_DATA to a folder with captions/, interleaved/, text/ and"
        " instructions/"
    ),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    train_tokenizer(["picture number one two three"], path, vocab_size=300)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two tars: 7 complete samples, an empty caption and a sample without an image."""
    folder = tmp_path / "raw"
    folder.mkdir()
    write_tar(folder / "0.tar", pairs(4))
    write_tar(
        folder / "1.tar",
        [
            *pairs(3, start=4),
            ("8.jpg", jpeg()),
            ("8.txt", b" \n"),
            ("9.txt", b"no picture"),
        ],
    )
    return folder


def drops(out: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (out / "drops.jsonl").read_text().splitlines()
    ]


def test_the_counts_add_up(raw: Path, tokenizer: Path, tmp_path: Path) -> None:
    manifest = prepare(
        Preparation.Config(source=Captions.Config(), validation=0.4),
        [raw],
        tmp_path / "out",
        tokenizer,
    )
    assert (
        manifest["records_in"],
        manifest["documents"],
        manifest["images"],
    ) == (
        9,
        7,
        7,
    )
    assert manifest["drops"] == {"empty caption": 1, "no image": 1}
    assert [
        (d["file"], d["key"], d["reason"]) for d in drops(tmp_path / "out")
    ] == [
        (str(raw / "1.tar"), "8", "empty caption"),
        (str(raw / "1.tar"), "9", "no image"),
    ]
    splits = [
        Shards(tmp_path / "out", split) for split in ("train", "validation")
    ]
    assert sum(len(split) for split in splits) == 7
    assert (
        sum(int(split.text_tokens.sum()) for split in splits)
        == manifest["tokens"]
    )
    keys = sorted(split.key(i) for split in splits for i in range(len(split)))
    assert keys == sorted(
        f"{raw / tar}#{i:04}"
        for tar, numbers in (("0.tar", range(4)), ("1.tar", range(4, 7)))
        for i in numbers
    )
    assert read_manifest(tmp_path / "out") == manifest
    assert (
        tmp_path / "out" / "tokenizer.json"
    ).read_text() == tokenizer.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def test_images_are_measured_and_stored_unchanged(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    prepare("captions", [raw / "0.tar"], tmp_path / "out", tokenizer)
    document = Shards(tmp_path / "out").document(2)
    assert document.images == (Image(jpeg(2), 12, 9),)
    assert document.text == "<image>picture number 2"


def test_the_same_raw_files_give_the_same_bytes(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        prepare(
            Preparation.Config(source=Captions.Config(), validation=0.3),
            [raw],
            tmp_path / name,
            tokenizer,
        )
    written = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*.*"))
        for n in ("one", "two")
    ]
    assert written[0] == written[1]
    assert all(
        (tmp_path / "one" / p).read_bytes()
        == (tmp_path / "two" / p).read_bytes()
        for p in written[0]
    )


# --- existing folders


def test_a_finished_folder_is_left_alone(
    raw: Path,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = prepare(
        Preparation.Config(source=Captions.Config(), validation=0.3),
        [raw],
        tmp_path / "out",
        tokenizer,
    )
    monkeypatch.setattr(module, "convert_file", None)
    capsys.readouterr()
    assert (
        prepare(
            Preparation.Config(source=Captions.Config(), validation=0.3),
            sorted(raw.iterdir()),
            tmp_path / "out",
            tokenizer,
        )
        == first
    )
    assert "already prepared" in capsys.readouterr().err


def test_a_folder_prepared_in_another_way_is_refused(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    prepare("captions", [raw], tmp_path / "out", tokenizer)
    with pytest.raises(
        ConfigError, match=r"prepared with validation 0\.0 \(now 0\.5\)"
    ):
        prepare(
            Preparation.Config(source=Captions.Config(), validation=0.5),
            [raw],
            tmp_path / "out",
            tokenizer,
        )
    with pytest.raises(ConfigError, match="prepared with config"):
        prepare(
            Preparation.Config(source=Captions.Config(field="other")),
            [raw],
            tmp_path / "out",
            tokenizer,
        )
    write_tar(raw / "1.tar", pairs(1))
    with pytest.raises(ConfigError, match="other or changed raw files"):
        prepare("captions", [raw], tmp_path / "out", tokenizer)


def test_a_folder_with_other_files_is_not_touched(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="not empty"):
        prepare("captions", [raw], tmp_path / "out", tokenizer)
    (tmp_path / "new.unfinished").mkdir()
    (tmp_path / "new.unfinished" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        prepare("captions", [raw], tmp_path / "new", tokenizer)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [
        "thesis.tex"
    ]


def test_an_empty_folder_is_used(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    assert (
        prepare("captions", [raw], tmp_path / "out", tokenizer)["documents"]
        == 7
    )


def test_unfinished_files_of_a_killed_run_are_prepared_again(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    left = tmp_path / "out.unfinished" / "train"
    left.mkdir(parents=True)
    (left / "00007-000.arrow").write_bytes(b"half")
    (tmp_path / "out.unfinished" / "scratch" / "parts" / "00000-x").mkdir(
        parents=True
    )
    prepare("captions", [raw], tmp_path / "out", tokenizer)
    assert sorted(
        p.name for p in (tmp_path / "out" / "train").glob("*.arrow")
    ) == [
        "00000-000.arrow",
        "00001-000.arrow",
    ]


# --- the validation split


def text(content: str) -> Document:
    return Document((Text(content),))


def test_copies_stay_in_one_split() -> None:
    for i in range(200):
        sides = {
            is_validation(text(c), 0.5)
            for c in (
                f"A cat, no. {i}!",
                f"a  cat no {i}\n",
                f"A CAT -- no {i}",
            )
        }
        assert len(sides) == 1


def test_the_share_is_about_as_requested() -> None:
    held = sum(is_validation(text(f"document {i}"), 0.1) for i in range(4000))
    assert 300 < held < 500
    assert not any(
        is_validation(text(f"document {i}"), 0.0) for i in range(100)
    )
    assert {is_validation(text("!" * i), 0.5) for i in range(1, 30)} == {
        False,
        True,
    }


def test_a_larger_share_contains_the_smaller_one() -> None:
    documents = [text(f"document {i}") for i in range(1000)]
    assert all(
        is_validation(d, 0.3) for d in documents if is_validation(d, 0.1)
    )


# --- config and sources


def test_one_config_takes_all_overrides() -> None:
    config = Preparation.Config(source=default_config(Source, "interleaved"))
    for assignment in (
        "source.folder=pictures",
        "source.urls=sha256",
        "filters.images.min_side=100",
        "filters.duplicates.exact=True",
        "validation=0.01",
        "validation_by=image",
    ):
        override(config, assignment)
    assert config == Preparation.Config(
        source=Interleaved.Config(folder="pictures", urls="sha256"),
        filters=Filters.Config(
            images=ImageRules.Config(min_side=100),
            duplicates=Duplicates.Config(exact=True),
        ),
        validation=0.01,
        validation_by="image",
    )
    assert from_json(to_json(config)) == config
    override(config, "source=mm1.prepare.sources.text:Texts")
    assert config.source == Texts.Config()
    with pytest.raises(ConfigError, match=r"no key 'filters\.near'"):
        override(config, "filters.near=0.8")
    with pytest.raises(
        ConfigError,
        match=r"no key 'source\.feild'; did you mean 'source\.field'",
    ):
        override(config, "source.feild=body")


def test_a_long_text_is_encoded_in_pieces(
    tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end where no token crosses, if the text has such places."""
    monkeypatch.setattr(preparation, "MAX_ENCODED", 30)
    vocabulary = Tokenizer.Config(path=str(tokenizer)).build()
    for text in (
        "picture number one two three " * 20,
        "picture\n\nnumber one\ntwo three\n" * 20,
        "picture number one " + "x" * 200 + " two",
    ):
        ids = preparation.encode_text(text, vocabulary)
        assert list(ids) == vocabulary.encode(text)
    assert isinstance(ids, array)
    monkeypatch.setattr(preparation, "MAX_ENCODED", 1 << 20)
    assert preparation.encode_text("one", vocabulary) == tuple(
        vocabulary.encode("one")
    )


def test_sources_are_known_by_their_file_names() -> None:
    assert {"captions", "interleaved", "text", "instructions"} <= set(
        component_names(Source)
    )
    assert default_config(Source, "text") == Texts.Config()
    assert (
        default_config(Source, "mm1.prepare.sources.text:Texts")
        == Texts.Config()
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("caption", "did you mean 'captions'"),
        ("mm1.data.tokenizer:Tokenizer", "is no Source"),
        ("mm1.x:Y", "no class at"),
        ("x:Y", "add --trust x if you trust"),
    ],
)
def test_unknown_sources_are_errors(kind: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        default_config(Source, kind)


def test_files_of_a_folder_are_found_by_pattern(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "c.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "d.tar").mkdir()
    found = find_files(
        Captions, [tmp_path / "c.txt", tmp_path, tmp_path / "a.tar"]
    )
    assert [path.name for path in found] == ["c.txt", "a.tar", "b.tar"]
    with pytest.raises(
        FileNotFoundError, match=r"has no file for this source \(\*\.jsonl, "
    ):
        find_files(Texts, [tmp_path])
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        find_files(Texts, [tmp_path / "nowhere"])


def test_shares_are_below_one(
    raw: Path, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="validation"):
        prepare(
            Preparation.Config(source=Captions.Config(), validation=1.0),
            [raw],
            tmp_path / "out",
            tokenizer,
        )


def test_no_usable_record_is_an_error_with_its_reasons(
    tokenizer: Path, tmp_path: Path
) -> None:
    write_lines(
        tmp_path / "a.jsonl",
        [{"text": ""}, {"txt": "wrong field"}, {"txt": "again"}],
    )
    with pytest.raises(
        ConfigError,
        match="none of 3 records can be used: 2 no text, 1 empty text",
    ):
        prepare("text", [tmp_path / "a.jsonl"], tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def test_a_failing_source_names_the_record(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def document(*_: object) -> Document:
        raise KeyError("mistake in a source")

    monkeypatch.setattr(Texts, "document", document)
    write_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    with pytest.raises(KeyError) as error:
        prepare("text", [tmp_path / "a.jsonl"], tmp_path / "out", tokenizer)
    assert error.value.__notes__ == [f"while reading {tmp_path / 'a.jsonl'}#1"]


def test_every_kind_of_document_reaches_the_shards(
    tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.jpg").write_bytes(jpeg())
    raw = {
        "interleaved": write_pages(
            tmp_path / "a.parquet",
            [{"images": [None, jpeg(1)], "texts": ["one", None]}],
        ),
        "text": write_lines(tmp_path / "a.jsonl", [{"text": "one two"}]),
        "instructions": write_lines(
            tmp_path / "b.jsonl",
            [chat("<image>\nWhat?", "One.", image="p.jpg")],
        ),
    }
    for kind, path in raw.items():
        prepare(kind, [path], tmp_path / kind, tokenizer)
    texts = {kind: Shards(tmp_path / kind).document(0).text for kind in raw}
    assert texts == {
        "interleaved": "one<image>",
        "text": "one two",
        "instructions": "<image>What?\nOne.",
    }
    answer = Shards(tmp_path / "instructions").document(0).parts[-1]
    assert isinstance(answer, Text)
    assert answer.end
    assert answer.loss


# --- real data


@needs_real_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "documents", "images"),
    [
        ("captions", 1531, 1531),
        ("interleaved", 437, 626),
        ("text", 695, 0),
        ("instructions", 416, 168),
    ],
)
@pytest.mark.long
def test_real_data_is_read_without_a_drop(
    kind: str, documents: int, images: int, tmp_path: Path
) -> None:
    """The counts are those of the folder's README."""
    sample = (
        line[:500] for line in TokenizerTexts([REAL / "text" / "web.jsonl"])
    )
    train_tokenizer(sample, tmp_path / "t.json", vocab_size=1024)
    manifest = prepare(
        Preparation.Config(
            source=default_config(Source, kind), validation=0.05
        ),
        [REAL / kind],
        tmp_path / "out",
        tmp_path / "t.json",
    )
    assert (manifest["documents"], manifest["images"]) == (documents, images)
    assert not manifest["drops"]
    assert not manifest["images_dropped"]
    assert Shards.has_split(tmp_path / "out", "validation")
