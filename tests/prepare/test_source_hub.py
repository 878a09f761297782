"""Local data sets of every kind that `datasets` opens, and rows without images."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import jpeg, write_lines

from mm1.config import ConfigError
from mm1.prepare import verify
from mm1.prepare.sources import Unusable
from mm1.prepare.sources.hub import Hub

# `datasets` leaves files of CSV open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def open_files() -> Iterator[None]:
    yield
    gc.collect()


def outcome(path: Path, **options: Any) -> tuple[list[str], Hub]:
    """For each record its text, or the reason why it is dropped; and the source."""
    source = Hub.Config(**options).build()
    outcomes = []
    for record in source.read(path):
        try:
            if isinstance(record.data, Unusable):
                raise record.data
            document, _ = verify.check_document(
                source.document(record.data), images_required=True
            )
            outcomes.append(document.text)
        except Unusable as why:
            outcomes.append(why.reason)
    return outcomes, source


@pytest.mark.parametrize("name", ["data", "csv", "json", "text", "parquet"])
def test_a_folder_is_a_folder_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder named after a format is no request for that format's files in the
    current folder."""
    for place, text in ((tmp_path, "wrong"), (tmp_path / name, "right")):
        place.mkdir(exist_ok=True)
        (place / "a.csv").write_text(f"text,n\n{text},1\n")
        write_lines(place / "b.jsonl", [{"text": text}])
        (place / "c.txt").write_text(f"{text}\n")
        pq.write_table(pa.table({"text": [text]}), place / "d.parquet")
    monkeypatch.chdir(tmp_path)
    read, source = outcome(Path(name), image="")
    assert read == ["right"]
    assert sum(source.skipped.counts.values()) in (3, 4)  # files, and column n


def test_a_format_is_no_name_of_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("text\nwrong\n")
    monkeypatch.chdir(tmp_path)
    for name in ("csv", "json", "text", "parquet", "imagefolder"):
        with pytest.raises(FileNotFoundError, match=f"no folder {name}"):
            outcome(Path(name), image="")


def test_csv_and_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("caption,text\nx,hello\ny,bye\nz,\n")
    read, source = outcome(tmp_path, image="")
    assert read == ["hello", "bye", "no text"]
    assert source.skipped.names == {"column": ["caption"]}
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "a.txt").write_text("one\n\ntwo")
    assert outcome(tmp_path / "prose", image="")[0] == [
        "one",
        "empty text",
        "two",
    ]
    with pytest.raises(ConfigError, match="no column 'captoin'; did you mean"):
        outcome(tmp_path, image="", text="captoin")
    with pytest.raises(ConfigError, match="image= for a data set without"):
        outcome(tmp_path / "prose")


def test_rows_without_an_image_are_texts_and_counted(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg())
    rows = [
        {"image": {"bytes": jpeg(), "path": None}, "text": "pair"},
        {"image": None, "text": "alone"},
        {"image": {"bytes": None, "path": "1.jpg"}, "text": "named"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read, source = outcome(tmp_path)
    assert read == ["<image>pair", "alone", "<image>named"]
    assert source.noted == {"without an image": 1}


def test_conversations_of_every_layout(tmp_path: Path) -> None:
    llava = [
        {"from": "human", "value": "<image>Q"},
        {"from": "gpt", "value": "A"},
    ]
    folders = {
        "conversations": [
            {"conversations": llava, "image": "1.jpg"},
            {"conversations": [{**llava[0], "value": "Q2"}, llava[1]]},
        ],
        "texts": [
            {"texts": [{"user": "Q", "assistant": "A"}], "image": "1.jpg"}
        ],
        "exchange": [
            {"question": "Q", "answer": "A", "image": "1.jpg", "x": 1}
        ],
        "video": [
            {"conversations": llava[:1] * 2, "image": "1.jpg", "video": "v"}
        ],
    }
    for name, rows in folders.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(jpeg())
        write_lines(tmp_path / name / "a.jsonl", rows)
    read, source = outcome(tmp_path / "conversations", messages="conversations")
    assert read == ["<image>Q\nA", "Q2\nA"]
    assert source.noted == {"without an image": 1}
    for options in ({"messages": "texts"}, {"text": "texts"}):
        assert outcome(tmp_path / "texts", **options)[0] == ["<image>Q\nA"]
    read, source = outcome(tmp_path / "exchange", question="question")
    assert (read, source.skipped.names) == (["<image>Q\nA"], {"column": ["x"]})
    assert outcome(tmp_path / "video", messages="conversations")[0] == [
        "media that is not read"
    ]


def test_pages_end_where_obelics_says_and_may_have_no_images(
    tmp_path: Path,
) -> None:
    mark = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
    pages = [
        {"images": [None, jpeg()], "texts": [f"a {mark} b", None]},
        {"images": None, "texts": ["c", "d"]},
    ]
    pq.write_table(pa.Table.from_pylist(pages), tmp_path / "a.parquet")
    options = {"image": "images", "text": "texts"}
    assert outcome(tmp_path, **options)[0] == ["a", "b<image>", "c\n\nd"]


def test_files_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train-0", "train-1", "test-0"):
        write_lines(tmp_path / "data" / f"{name}.jsonl", [{"text": name}])
    (tmp_path / "data" / "train-2.csv").write_text("text\nx\n")
    (tmp_path / "README").write_text(json.dumps("x"))
    read, source = outcome(tmp_path, image="")
    assert read == ["train-0", "train-1"]
    assert source.skipped.names == {
        ".csv file": ["data/train-2.csv"],
        "file": ["README"],
        "file of split test": ["data/test-0.jsonl"],
    }
