"""Preparations whose raw files, or whose output, are at an object store: the same as
local ones, whatever happens on the way."""

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw_files
from object_store import (
    ObjectStore,
    broken_halfway,
    expired,
    lost,
    overloaded,
    reset,
    running_store,
)

from mm1.config import ConfigError
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import train_tokenizer
from mm1.overrides import default_config, override
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.storage import remote_file
from mm1.storage.remote_path import RemotePath
from mm1.storage.requests import StorageError, StorageUnavailable


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ObjectStore]:
    monkeypatch.setenv("MM1_CACHE", str(tmp_path / "cache"))
    with running_store(monkeypatch) as store:
        yield store


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["a picture of number one two"], path, vocab_size=270)
    return path


def settings(kind: str, *assignments: str) -> Preparation.Config:
    config = Preparation.Config(
        source=default_config(Source, kind), validation=0.3
    )
    for assignment in assignments:
        override(config, assignment)
    return config


def write_raw(folder: Path) -> Path:
    """A folder of raw files for each kind of them."""
    (folder / "tars").mkdir(parents=True)
    for number in range(3):
        raw_files.write_tar(
            folder / "tars" / f"{number}.tar", raw_files.pairs(8, 8 * number)
        )
    pages = [
        {"images": [None, raw_files.jpeg(i)], "texts": [f"page {i}", None]}
        for i in range(9)
    ]
    (folder / "pages").mkdir()
    raw_files.write_pages(folder / "pages" / "a.parquet", pages)
    (folder / "lines").mkdir()
    texts = [{"text": f"text number {i}"} for i in range(30)]
    raw_files.write_lines(folder / "lines" / "a.jsonl", texts[:15])
    (folder / "lines" / "b.jsonl.gz").write_bytes(
        gzip.compress("\n".join(map(json.dumps, texts[15:])).encode())
    )
    (folder / "table" / "images").mkdir(parents=True)
    with (folder / "table" / "a.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for i in range(6):
            (folder / "table" / "images" / f"{i}.jpg").write_bytes(
                raw_files.jpeg(i)
            )
            rows.writerow([f"images/{i}.jpg", f"picture {i}"])
        rows.writerow(["images/missing.jpg", "no picture"])
        rows.writerow(["/etc/passwd", "no picture either"])
    (folder / "pictures" / "deep" / "er").mkdir(parents=True)
    for i in range(6):
        place = folder / "pictures" / ("deep/er" if i % 2 else "")
        (place / f"{i}.jpg").write_bytes(raw_files.jpeg(i))
        (place / f"{i}.txt").write_text(f"picture {i}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


KINDS = {
    "tars": ("captions",),
    "pages": ("interleaved",),
    "lines": ("text",),
    "table": ("caption_tables", "source.image=image"),
    "pictures": ("captions",),
}


@pytest.mark.parametrize(
    "name",
    [
        "tars",
        "table",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("pages", "lines", "pictures")
        ),
    ],
)
def test_raw_files_at_a_store_are_read_as_local_ones(
    store: ObjectStore, tmp_path: Path, tokenizer: Path, name: str
):
    raw = write_raw(tmp_path / "raw") / name
    far = store.upload(raw, f"raw/{name}")
    config = settings(*KINDS[name])
    store.fault(broken_halfway, "raw", times=2)
    store.fault(reset, "raw", method="GET|HEAD", skip=3, times=1)
    store.fault(overloaded, "raw", method="GET|HEAD", skip=5, times=1)
    made = prepare(config, [far], tmp_path / "far", tokenizer)
    local = prepare(config, [raw], tmp_path / "local", tokenizer)
    for key in ("records_in", "documents", "images", "drops", "skipped"):
        assert made[key] == local[key]
    for split in ("train", "validation"):
        if not local["splits"][split]["documents"]:
            continue
        ours = Shards(tmp_path / "far", split)
        theirs = Shards(tmp_path / "local", split)
        for number in range(len(theirs)):
            key, document = theirs.read(number)
            assert ours.read(number) == (
                key.replace(str(raw), str(far)),
                document,
            )


def test_a_store_that_fails_loses_no_record_and_the_same_command_resumes(
    store: ObjectStore, tmp_path: Path, tokenizer: Path
):
    far = store.upload(write_raw(tmp_path / "raw") / "tars", "raw")
    out = tmp_path / "out"
    for fault, error in ((reset, StorageUnavailable), (expired, StorageError)):
        store.fault(fault, "1.tar")
        with pytest.raises(error, match=r"raw/1\.tar"):
            prepare(settings("captions"), [far], out, tokenizer)
        store.faults.clear()
        assert not out.exists()
    store.requests.clear()
    assert prepare(settings("captions"), [far], out, tokenizer)["drops"] == {}
    assert "GET /data/raw/0.tar" not in store.requests  # it was finished
    whole = prepare(settings("captions"), [far], tmp_path / "b", tokenizer)
    assert whole["documents"] == 24
    assert contents(out) == contents(tmp_path / "b")


def test_a_raw_file_that_vanishes_is_named(
    store: ObjectStore,
    tmp_path: Path,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 1000)
    far = store.upload(write_raw(tmp_path / "raw") / "tars", "raw")
    store.fault(lost, "1.tar", method="GET", skip=3)
    with pytest.raises((FileNotFoundError, ConfigError), match=r"raw/1\.tar"):
        prepare(settings("captions"), [far], tmp_path / "out", tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(
            ("filters.duplicates.exact=true",), marks=pytest.mark.long
        ),
    ],
    ids=["", "filtered"],
)
def test_a_folder_written_to_a_store_is_the_local_one_byte_for_byte(
    store: ObjectStore,
    tmp_path: Path,
    tokenizer: Path,
    options: tuple[str, ...],
):
    raw = write_raw(tmp_path / "raw") / "tars"
    config = settings("captions", *options)
    out = store.folder("prepared/captions")
    for fault, name in (
        (reset, "00001-000.arrow"),
        (expired, "drops.jsonl"),
        (reset, "manifest.json"),
    ):
        store.fault(fault, name, method="PUT")
        with pytest.raises(StorageError, match=name):
            prepare(config, [raw], out, tokenizer)
        store.faults.clear()
        with pytest.raises(FileNotFoundError, match="manifest"):
            Shards(out)
    made = prepare(config, [raw], out, tokenizer)
    assert prepare(config, [raw], tmp_path / "local", tokenizer) == made
    assert contents(out) == contents(tmp_path / "local")
    assert prepare(config, [raw], out, tokenizer) == made
    assert not [*(tmp_path / "cache" / "prepare").iterdir()]


def test_another_preparation_is_not_written_over(
    store: ObjectStore, tmp_path: Path, tokenizer: Path
):
    raw = write_raw(tmp_path / "raw")
    out = store.folder("prepared")
    store.fault(reset, "00001-000.arrow", method="PUT")
    with pytest.raises(StorageUnavailable):
        prepare(settings("captions"), [raw / "tars"], out, tokenizer)
    store.faults.clear()
    with pytest.raises(ConfigError, match="another preparation"):
        prepare(settings("text"), [raw / "lines"], out, tokenizer)
    prepare(settings("captions"), [raw / "tars"], out, tokenizer)
    with pytest.raises(ConfigError, match="was prepared with"):
        prepare(settings("text"), [raw / "lines"], out, tokenizer)
    (store.folder("other") / "notes.txt").write_text("not ours")
    with pytest.raises(ConfigError, match="s3://data/other is not empty"):
        prepare(
            settings("text"), [raw / "lines"], store.folder("other"), tokenizer
        )


@pytest.mark.long
def test_another_machine_begins_anew_and_makes_the_same(
    store: ObjectStore,
    tmp_path: Path,
    tokenizer: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    raw = write_raw(tmp_path / "raw") / "tars"
    out = store.folder("prepared")
    store.fault(reset, "00002-000.arrow", method="PUT")
    with pytest.raises(StorageUnavailable):
        prepare(settings("captions"), [raw], out, tokenizer)
    store.faults.clear()
    monkeypatch.setenv("MM1_CACHE", str(tmp_path / "another"))
    prepare(settings("captions"), [raw], out, tokenizer)
    prepare(settings("captions"), [raw], tmp_path / "local", tokenizer)
    assert contents(out) == contents(tmp_path / "local")
    assert isinstance(out, RemotePath)
