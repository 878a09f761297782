"""Shards: documents and their lengths survive the round trip; incomplete folders are
refused."""

import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import pairs, write_lines, write_tar

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.prepared import shard_writer, shards
from mm1.data.prepared.columns import COLUMNS, join_columns
from mm1.data.prepared.shard_writer import ShardWriter
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.overrides import default_config
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source

# Fields alone: classes checked by beartype draw random numbers, which hypothesis
# forbids inside strategies.
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.lists(st.integers(0, 2**31 - 1), max_size=5)
TEXTS = st.tuples(st.just(Text), WORDS, st.booleans(), st.booleans(), IDS)
IMAGES = st.tuples(
    st.just(Image),
    st.binary(min_size=1, max_size=30),
    st.integers(1, 9999),
    st.integers(1, 9999),
)
DRAFTS = st.lists(
    st.lists(st.one_of(TEXTS, IMAGES), max_size=6), min_size=1, max_size=5
)


def drafted(draft: list[tuple[Any, ...]]) -> Document:
    parts = (
        [kind, *(array("i", f) if isinstance(f, list) else f for f in fields)]
        for kind, *fields in draft
    )
    return Document(tuple(kind(*fields) for kind, *fields in parts))


def write(folder: Path, documents: list[Document]) -> Shards:
    writer = ShardWriter(folder, "train", 0)
    for number, document in enumerate(documents):
        writer.add(f"raw#{number}", document)
    written = writer.close()
    split = {
        "documents": len(documents),
        "shards": written,
        "columns": join_columns(folder, "train", written),
    }
    manifest = {
        "format": shards.FORMAT,
        "tokenizer": "abc",
        "splits": {"train": split},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Shards(folder)


@given(DRAFTS)
@settings(max_examples=20, deadline=None)
def test_documents_survive_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, drafts: list[list[Any]]
) -> None:
    documents = [drafted(draft) for draft in drafts]
    read = write(tmp_path_factory.mktemp("shards"), documents)
    assert len(read) == len(documents)
    assert [read.document(i) for i in range(len(read))] == documents
    assert [read.key(i) for i in range(len(read))] == [
        f"raw#{i}" for i in range(len(read))
    ]
    images = [image for document in documents for image in document.images]
    assert read.image_sizes.tolist() == [
        [image.width, image.height] for image in images
    ]
    assert np.diff(read.image_offsets).tolist() == [
        len(document.images) for document in documents
    ]
    assert (read.text_tokens.dtype, read.image_sizes.dtype) == (
        np.int32,
        np.int32,
    )


def test_several_shards_are_numbered_consecutively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "BATCH_BYTES", 300)
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 1000)
    documents = [
        Document(
            (
                Text(f"text {i}", tokens=array("i", [i])),
                Image(bytes(100), i + 1, 2),
            )
        )
        for i in range(50)
    ]
    read = write(tmp_path, documents)
    assert len(list((tmp_path / "train").iterdir())) > 3
    order = np.random.default_rng(0).permutation(50).tolist()
    assert [read.document(i) for i in order] == [documents[i] for i in order]
    assert read.image_sizes[:, 0].tolist() == list(range(1, 51))


def test_datasets_opens_a_shard(tmp_path: Path) -> None:
    from datasets import Dataset

    write(
        tmp_path,
        [
            Document(
                (Text("one", tokens=(1, 2), end=True), Image(b"jpeg", 3, 4))
            )
        ],
    )
    row = Dataset.from_file(str(tmp_path / "train" / "00000-000.arrow"))[0]
    assert (row["texts"], row["tokens"], row["images"]) == (
        ["one", None],
        [[1, 2], None],
        [None, b"jpeg"],
    )
    assert (row["num_text_tokens"], row["num_images"], row["ends"]) == (
        4,
        1,
        [True, False],
    )


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    write_tar(tmp_path / "a.tar", pairs(5))
    train_tokenizer(["picture number 1"], tmp_path / "t.json", vocab_size=300)
    prepare(
        "captions", [tmp_path / "a.tar"], tmp_path / "out", tmp_path / "t.json"
    )
    return tmp_path / "out"


def test_stored_lengths_are_those_of_rendering(prepared: Path) -> None:
    read = Shards(prepared)
    render = Renderer(Tokenizer.Config(path=str(prepared)).build(), None)
    for i in range(len(read)):
        texts = Document(
            tuple(
                part
                for part in read.document(i).parts
                if isinstance(part, Text)
            )
        )
        assert len(render(texts).tokens) == read.text_tokens[i]
        assert list(texts.parts[0].tokens) == render.tokenizer.encode(
            f"picture number {i}"
        )


def test_another_tokenizer_is_refused(prepared: Path) -> None:
    read = Shards(prepared)
    read.check_tokenizer(
        Tokenizer.Config(path=str(prepared)).build().fingerprint
    )
    with pytest.raises(ConfigError, match="tokenised with"):
        read.check_tokenizer("0123456789abcdef")


def test_an_empty_split_is_refused(prepared: Path) -> None:
    assert Shards.has_split(prepared, "train")
    assert not Shards.has_split(prepared, "validation")
    with pytest.raises(
        ConfigError, match="no documents in its split 'validation'"
    ):
        Shards(prepared, "validation")
    with pytest.raises(
        ConfigError, match="no split 'trian'; did you mean 'train'"
    ):
        Shards(prepared, "trian")


def test_only_splits_with_documents_get_shards(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    write_lines(tmp_path / "b.jsonl", [{"text": " "}])
    train_tokenizer(["one"], tmp_path / "t.json", vocab_size=300)
    prepare(
        "text",
        [tmp_path / "a.jsonl", tmp_path / "b.jsonl"],
        tmp_path / "out",
        tmp_path / "t.json",
    )
    assert [path.name for path in (tmp_path / "out").rglob("*.arrow")] == [
        "00000-000.arrow"
    ]


@pytest.mark.parametrize("name", ["../../outside.arrow", "/etc/hostname", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(
    name: str, prepared: Path
) -> None:
    path = prepared / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["shards"][0]["file"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"manifest.json: the shard .* leads"):
        Shards(prepared)


def test_few_shards_are_mapped_and_what_was_read_outlives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "BATCH_BYTES", 40)
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 1)
    documents = [
        Document((Image(bytes([i]) * 50, 3, 2), Text(f"{i}", tokens=(i,))))
        for i in range(8)
    ]
    read = write(tmp_path, documents)
    assert read.mapped == {}

    def mapped() -> int:
        maps = Path("/proc/self/maps").read_text()
        return sum(f"{tmp_path}/train/0" in line for line in maps.splitlines())

    monkeypatch.setattr(shards, "MAX_MAPPED", 3)
    kept = [read.read(i) for i in (0, 1, 2, 1, 3)]
    assert list(read.mapped) == [2, 1, 3]
    assert mapped() == 3
    reader = read.mapped[2].readers
    (view,) = [r.images.data for r in reader.values()]
    kept += [read.read(i) for i in (4, 5, 6, 7, 0)]
    assert [key for key, _ in kept] == [f"raw#{i}" for i in (0, 1, 2, 1, 3)] + [
        f"raw#{i}" for i in (4, 5, 6, 7, 0)
    ]
    # a view keeps its shard mapped
    assert bytes(view[:50]) == bytes([2]) * 50
    assert mapped() == 4
    del reader, view
    assert mapped() == 3


def test_a_shard_that_changes_before_it_is_mapped_is_refused(
    prepared: Path,
) -> None:
    path = prepared / "train" / "00000-000.arrow"
    content = path.read_bytes()
    read = Shards(prepared)
    path.unlink()
    with pytest.raises(ConfigError, match=r"arrow was deleted .* copy the"):
        read.document(0)
    path.write_bytes(content)
    first = read.document(0)
    assert first == Shards(prepared).document(0)

    read = Shards(prepared)
    path.unlink()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"arrow was changed .* copy the"):
        read.document(0)


@pytest.mark.parametrize("column", COLUMNS)
def test_columns_of_another_size_or_content_are_refused(
    column: str, prepared: Path
) -> None:
    path = prepared / "train" / f"{column}.npy"
    content = path.read_bytes()
    read = Shards(prepared)
    before = read.columns[column].copy()
    # the same content in another file is the same column
    path.unlink()
    path.write_bytes(content)
    assert (read.columns[column] == before).all()
    assert (Shards(prepared).columns[column] == before).all()

    path.write_bytes(content[:-8])
    with pytest.raises(ConfigError, match=rf"{column}.npy has .* copy the"):
        Shards(prepared)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"{column}.npy is missing"):
        Shards(prepared)
    path.write_bytes(bytes(len(content)))
    with pytest.raises(ConfigError, match=rf"{column}.npy is damaged .* copy"):
        Shards(prepared).columns[column]


def test_a_column_that_is_written_to_while_in_use_is_refused(
    prepared: Path,
) -> None:
    path = prepared / "train" / "text_tokens.npy"
    read = Shards(prepared)
    assert len(read.text_tokens) == 5
    os.utime(path, ns=(0, 0))
    assert len(read.text_tokens) == 5
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(bytes(4))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ConfigError, match=r"tokens.npy was changed .* resume"):
        len(read.text_tokens)


def test_columns_join_the_shards_of_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several files, some without a document in a split, in several shards."""
    monkeypatch.setattr(shard_writer, "BATCH_BYTES", 200)
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 600)
    for name, count in (("a", 9), ("b", 1), ("c", 5)):
        write_lines(
            tmp_path / f"{name}.jsonl",
            [{"text": f"{name} " * (i % 4 + 1)} for i in range(count)],
        )
    train_tokenizer(["a b c"], tmp_path / "t.json", vocab_size=300)
    config = Preparation.Config(
        source=default_config(Source, "text"), validation=0.3
    )
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    out = tmp_path / "out"
    manifest = prepare(config, files, out, tmp_path / "t.json")
    for split in ("train", "validation"):
        read = Shards(out, split)
        documents = [read.document(i) for i in range(len(read))]
        assert read.text_tokens.tolist() == [
            1 + sum(len(part.tokens) for part in document.parts)  # type: ignore[union-attr, arg-type]
            for document in documents
        ]
        assert read.image_offsets.tolist() == [0] * (len(read) + 1)
        assert manifest["splits"][split]["columns"].keys() == COLUMNS.keys()
    assert not (out / "scratch").exists()
