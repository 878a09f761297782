"""What is left alone is counted, with its name: files, columns, and whatever a source
says."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import jpeg, pairs, write_lines, write_tar

from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.pipeline import prepare
from mm1.prepare.skipped import MAX_KINDS, MAX_NAMES, Skipped, describe_skipped
from mm1.prepare.sources import MAX_DETAIL, Unusable


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "words" / "tokenizer.json"
    train_tokenizer(["some words"], path, vocab_size=300)
    return path


def test_counts_are_bounded_whatever_the_data() -> None:
    skipped = Skipped()
    for number in range(MAX_KINDS + 20):
        for _ in range(30):
            skipped.add(f"kind {number}", f"{'long' * 1000} {number}")
    for number in range(50):
        skipped.add("kind 0", f"name {number}")
    counts = skipped.to_json()
    assert len(counts) == MAX_KINDS + 1
    assert sum(each["count"] for each in counts.values()) == 120 * 30 + 50
    assert len(counts["kind 0"]["names"]) == MAX_NAMES
    assert len(json.dumps(counts)) < 100 * MAX_KINDS * 10


def test_counts_add_up_over_files_and_survive_json() -> None:
    one, two = Skipped(), Skipped()
    one.add("link", "a")
    two.add("link", "b", 4)
    two.add("column", "url")
    one.update(Skipped.from_json(json.loads(json.dumps(two.to_json()))))
    assert one.to_json() == {
        "link": {"count": 5, "names": ["a", "b"]},
        "column": {"count": 1, "names": ["url"]},
    }
    assert (
        describe_skipped(one.to_json()) == "5 link (a, b, ...), 1 column (url)"
    )


def test_names_that_a_terminal_would_obey_are_escaped() -> None:
    skipped = Skipped()
    skipped.add("link", "caf\udce9\x1b[2J\n.jpg")
    (name,) = skipped.to_json()["link"]["names"]
    assert name == "caf\\udce9\\x1b[2J\\n.jpg"


def test_files_of_other_kinds_in_a_folder_are_named(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "raw"
    (raw / "more").mkdir(parents=True)
    write_tar(raw / "a.tar", pairs(1))
    write_tar(raw / "B.TAR", pairs(1, start=1))
    for name in ("a.parquet", "a_stats.json", "._a.tar", "more/c.tar"):
        (raw / name).write_bytes(b"x")
    (raw / "gone.tar").symlink_to(raw / "nowhere")
    manifest = prepare("captions", [raw], tmp_path / "out", tokenizer)
    assert manifest["documents"] == 2
    assert manifest["skipped"] == {
        "hidden file": {"count": 1, "names": ["._a.tar"]},
        ".parquet file": {"count": 1, "names": ["a.parquet"]},
        ".json file": {"count": 1, "names": ["a_stats.json"]},
        "link to nothing": {"count": 1, "names": ["gone.tar"]},
        "folder": {"count": 1, "names": ["more"]},
    }
    assert "not read: 1 hidden file (._a.tar)" in capsys.readouterr().err


def test_images_that_rows_may_name_are_no_other_files(
    tmp_path: Path, tokenizer: Path
) -> None:
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    (raw / "images" / "1.jpg").write_bytes(jpeg())
    (raw / "cover.PNG").write_bytes(jpeg())
    (raw / "notes.odt").touch()
    row = {"image": "images/1.jpg", "caption": "noise"}
    write_lines(raw / "a.jsonl", [row])
    manifest = prepare("caption_tables", [raw], tmp_path / "out", tokenizer)
    assert manifest["skipped"] == {
        ".odt file": {"count": 1, "names": ["notes.odt"]}
    }


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_columns_that_are_not_read_are_named_once_a_file(
    kind: str, tmp_path: Path, tokenizer: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg())
    row = {"url": "u", "image": "1.jpg", "caption": "noise", "note": "n"}
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row] * 3), path)
    elif kind == "csv":
        lines = [",".join(row), *[",".join(row.values())] * 3]
        path.write_text("\n".join(lines) + "\n")
    else:
        write_lines(path, [row] * 3)
    manifest = prepare("caption_tables", [path], tmp_path / "out", tokenizer)
    assert manifest["documents"] == 3
    (counts,) = manifest["skipped"].values()
    assert list(manifest["skipped"]) == ["column"]
    assert (counts["count"], set(counts["names"])) == (2, {"url", "note"})


def test_a_detail_keeps_both_ends_and_says_its_length() -> None:
    why = Unusable("unreadable", "begin" + "x" * 100_000 + "end")
    assert len(why.detail) < MAX_DETAIL + 40
    assert why.detail.startswith("begin")
    assert why.detail.endswith("end (100,008 characters)")
    assert len(str(why)) < MAX_DETAIL + 60


def test_what_a_page_shows_and_is_not_read_is_counted(
    tmp_path: Path, tokenizer: Path
) -> None:
    raw = tmp_path / "site"
    raw.mkdir()
    (raw / "1.jpg").write_bytes(jpeg())
    (raw / "a.html").write_text(
        "<p>words <img alt='nothing'> <img srcset='1.jpg 1x, 2.jpg 2x'>"
        "<video src='a.mp4'><svg></svg></video><iframe src='x'></iframe>"
    )
    manifest = prepare("html_pages", [raw], tmp_path / "out", tokenizer)
    assert (manifest["documents"], manifest["images"]) == (1, 1)
    assert manifest["skipped"] == {
        kind: {"count": 1, "names": ["a.html"]}
        for kind in (
            "img without an address",
            "video element",
            "iframe element",
        )
    }


def test_keys_and_details_of_drops_are_bounded(
    tmp_path: Path, tokenizer: Path
) -> None:
    members = [*pairs(1), (f"{'long' * 9000}.jpg", jpeg())]
    path = write_tar(tmp_path / "a.tar", members)
    rows = [{"image": "x" * 99_000, "caption": "of a name"}] * 2
    lines = write_lines(tmp_path / "a.jsonl", [*rows, {"caption": "none"}])
    (tmp_path / "1.jpg").write_bytes(jpeg())
    with lines.open("ab") as file:
        file.write(b'{"image": "1.jpg", "caption": "good"}\n')
    prepare("captions", [path], tmp_path / "one", tokenizer)
    prepare("caption_tables", [lines], tmp_path / "two", tokenizer)
    for name, count in (("one", 1), ("two", 3)):
        drops = (tmp_path / name / "drops.jsonl").read_text().splitlines()
        assert len(drops) == count
        assert max(map(len, drops)) < 2500
