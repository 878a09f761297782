"""Bad raw data: each fault is met at prepare time, counted and named; the records around it are kept."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from raw_files import chat, jpeg, pairs, write_lines, write_pages, write_tar

from mm1.config import ConfigError
from mm1.data import verify, views
from mm1.data.document import Document, Image, Text
from mm1.data.prepare import prepare
from mm1.data.shards import Shards
from mm1.data.sources import DOT, Unusable
from mm1.data.tokenizer import train_tokenizer


class Prepared:
    """What came of preparing one raw file."""

    def __init__(self, kind: str, path: Path) -> None:
        out = path.parent / "out"
        train_tokenizer(["a text"], path.parent / "t.json", vocab_size=300)
        self.manifest = prepare(kind, [path], out, path.parent / "t.json")
        self.lines: list[dict[str, Any]] = [json.loads(s) for s in (out / "drops.jsonl").read_text().splitlines()]
        read = Shards(out)
        self.texts = [read.document(i).text for i in range(len(read))]
        assert all(line["file"] == str(path) for line in self.lines)
        assert self.manifest["records_in"] == self.manifest["documents"] + sum(self.manifest["drops"].values())

    @property
    def drops(self) -> list[tuple[str, str]]:
        """(key, reason) of each record that was left out."""
        return [(line["key"], line["reason"]) for line in self.lines if line["dropped"] == "record"]


def sample(name: str, picture: bytes, caption: bytes) -> list[tuple[str, bytes]]:
    return [(f"{name}.jpg", picture), (f"{name}.txt", caption)]


# --- caption tars

HALF = jpeg(size=(64, 64))

BAD_SAMPLES = {
    "half a JPEG": (sample("bad", HALF[: len(HALF) // 2], b"text"), "unreadable image"),
    "header alone": (sample("bad", HALF[:200], b"text"), "unreadable image"),
    "no picture": (sample("bad", b"<html>404</html>", b"text"), "unreadable image"),
    "empty picture": (sample("bad", b"", b"text"), "empty image"),
    "URL": (sample("bad", b"https://example.org/1.jpg", b"text"), "image is a URL"),
    "empty caption": (sample("bad", jpeg(), b""), "empty caption"),
    "white caption": (sample("bad", jpeg(), "\u3000 \n".encode()), "empty caption"),
    "Latin-1": (sample("bad", jpeg(), "caf\xe9".encode("latin-1")), "not UTF-8"),
    "NUL": (sample("bad", jpeg(), b"a\0b"), "NUL in text"),
    "picture alone": ([("bad.jpg", jpeg())], "no caption"),
    "text alone": ([("bad.txt", b"text")], "no image"),
    "json without caption": ([("bad.jpg", jpeg()), ("bad.json", b"{}")], "no caption"),
    "broken json": ([("bad.jpg", jpeg()), ("bad.json", b"{'a'")], "broken JSON"),
    "caption is a number": ([("bad.jpg", jpeg()), ("bad.json", b'{"caption": 3}')], "no caption"),
}


@pytest.mark.parametrize(("members", "reason"), BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_a_bad_sample_is_dropped_alone(members: list[tuple[str, bytes]], reason: str, tmp_path: Path) -> None:
    result = Prepared("captions", write_tar(tmp_path / "a.tar", [*pairs(1), *members, *pairs(1, start=1)]))
    assert result.drops == [("bad", reason)]
    assert result.texts == ["<image>picture number 0", "<image>picture number 1"]


def test_a_tar_cut_anywhere_keeps_its_whole_samples(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", pairs(4)).read_bytes()
    end = -(-len(whole.rstrip(b"\0")) // 512) * 512  # from here on zeros: the end mark and padding
    for cut in range(4096, len(whole), 789):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "a.tar").write_bytes(whole[:cut])
        result = Prepared("captions", folder / "a.tar")
        assert result.texts == [f"<image>picture number {i}" for i in range(len(result.texts))]
        assert [reason for _, reason in result.drops] == ([] if cut >= end + 512 else ["truncated tar"])
        assert cut < end or len(result.texts) == 4


def test_a_damaged_header_in_a_tar_is_no_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pairs(4))
    data = bytearray(path.read_bytes())
    at = data.index(b"0002.jpg")
    data[at : at + 300] = bytes([7]) * 300
    path.write_bytes(data)
    result = Prepared("captions", path)
    assert result.drops == [("0001", "truncated tar")]
    assert len(result.texts) == 2


def test_no_tar_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ConfigError, match="not a tar file"):
        Prepared("captions", tmp_path / "a.tar")


def test_an_absurdly_large_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MAX_BYTES", 1000)
    result = Prepared("captions", write_tar(tmp_path / "a.tar", [*pairs(1), *sample("bad", bytes(2000), b"text")]))
    assert result.drops == [("bad", "file too large")]


def test_a_name_of_any_bytes_is_kept(tmp_path: Path) -> None:
    members = [(name.replace("0000", "caf\udce9"), data) for name, data in pairs(1)]
    assert len(Prepared("captions", write_tar(tmp_path / "a.tar", members)).texts) == 1


# --- pictures


def test_a_decompression_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MAX_PIXELS", 100)
    with pytest.raises(Unusable, match="limit"):
        verify.picture(Image(jpeg(size=(20, 20)), 0, 0))


def test_damaged_bytes_never_crash() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = jpeg(1, size=(24, 24), kind=kind)
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 5):
                data[at] = rng.integers(256)
            with contextlib.suppress(Unusable):
                assert verify.picture(Image(bytes(data), 0, 0)).width > 0


def test_a_turned_picture_is_measured_as_seen(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[views.ORIENTATION] = 6
    Pillow.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    image = verify.picture(Image((tmp_path / "a.jpg").read_bytes(), 0, 0))
    assert (image.width, image.height) == (10, 30)


# --- interleaved pages

GOOD_PAGE = {"images": [None, DOT], "texts": ["good", None]}

BAD_PAGES = {
    "lists of different length": {"images": [None, DOT], "texts": ["one"]},
    "both image and text at one place": {"images": [DOT, None], "texts": ["one", "two"]},
    "neither image nor text at one place": {"images": [DOT, None], "texts": [None, None]},
    "no lists of images and texts": {"images": None, "texts": ["one"]},
    "no text": {"images": [DOT, None], "texts": [None, "  "]},
    "NUL in text": {"images": [None], "texts": ["a\0b"]},
}


@pytest.mark.parametrize(("reason", "page"), BAD_PAGES.items())
def test_a_bad_page_is_dropped_alone(reason: str, page: dict[str, Any], tmp_path: Path) -> None:
    result = Prepared("interleaved", write_pages(tmp_path / "a.parquet", [GOOD_PAGE, page, GOOD_PAGE]))
    assert result.drops == [("1", reason)]
    assert result.texts == ["good<image>"] * 2


def test_a_page_outlives_its_pictures(tmp_path: Path) -> None:
    page = {
        "images": [None, b"https://example.org/1.jpg", None, DOT, b"rubbish", None],
        "texts": ["one", None, "two", None, None, "three"],
    }
    result = Prepared("interleaved", write_pages(tmp_path / "a.parquet", [page]))
    assert result.texts == ["one\n\ntwo<image>three"]
    assert result.manifest["images_dropped"] == {"image is a URL": 1, "unreadable image": 1}
    assert [(line["key"], line["dropped"], line["detail"][:9]) for line in result.lines] == [
        ("0", "image", "picture 1"),
        ("0", "image", "picture 3"),
    ]


def test_published_obelics_has_urls_for_pictures(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"images": [["http://example.org/1.jpg", None]], "texts": [[None, "text"]], "metadata": ["{}"]})
    pq.write_table(table, tmp_path / "a.parquet")
    result = Prepared("interleaved", tmp_path / "a.parquet")
    assert (result.texts, result.manifest["images_dropped"]) == (["text"], {"image is a URL": 1})


def test_a_page_that_is_not_utf8(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([["good"], [b"caf\xe9"], ["good"]], pa.list_(pa.binary())).view(pa.list_(pa.string()))
    images = pa.array([[None]] * 3, pa.list_(pa.binary()))
    pq.write_table(pa.table({"images": images, "texts": texts}), tmp_path / "a.parquet")
    result = Prepared("interleaved", tmp_path / "a.parquet")
    assert (result.texts, result.drops) == (["good", "good"], [("1", "not UTF-8")])


def test_a_parquet_file_without_its_end(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "a.parquet", [GOOD_PAGE] * 9)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ConfigError, match="not a parquet file"):
        Prepared("interleaved", path)


def test_a_damaged_page_of_a_parquet_file_ends_it(tmp_path: Path) -> None:
    pages = [{"images": [None], "texts": [f"page {i} " + "x" * 50]} for i in range(9)]
    path = write_pages(tmp_path / "a.parquet", pages)
    data = bytearray(path.read_bytes())
    at = data.index(b"page 6") - 60
    data[at : at + 60] = bytes(60)
    path.write_bytes(data)
    result = Prepared("interleaved", path)
    assert [reason for _, reason in result.drops] == ["damaged parquet file"]
    assert result.texts[:4] == [page["texts"][0] for page in pages[:4]]


# --- JSON lines

BAD_LINES = {
    "broken JSON line": b'{"text": "unfinished',
    "not UTF-8": b'{"text": "caf\xe9"}',
    "empty text": b'{"text": " \\n"}',
    "no text": b'{"content": "another field"}',
    "no JSON object": b'["text"]',
    "NUL in text": b'{"text": "a\\u0000b"}',
}


@pytest.mark.parametrize(("reason", "line"), BAD_LINES.items())
def test_a_bad_line_is_dropped_alone(reason: str, line: bytes, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"text": "first"}, b"", line, {"text": "last"}])
    result = Prepared("text", path)
    assert (result.texts, result.drops) == (["first", "last"], [("3", reason)])


def test_half_a_surrogate_pair_is_not_utf8(tmp_path: Path) -> None:
    result = Prepared("text", write_lines(tmp_path / "a.jsonl", [{"text": "good"}, b'{"text": "\\ud83d"}']))
    assert result.drops == [("2", "not UTF-8")]


def test_a_line_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MAX_BYTES", 100)
    path = write_lines(tmp_path / "a.jsonl", [{"text": "first"}, {"text": "x" * 1000}, {"text": "last"}])
    result = Prepared("text", path)
    assert (result.texts, result.drops) == (["first", "last"], [("2", "line too long")])


# --- instructions

GOOD_CHAT = chat("Well?", "Good.")

BAD_CHATS = {
    "missing image file": chat("<image>What?", "x", image="nowhere.jpg"),
    "unreadable image file": chat("<image>What?", "x", image="."),
    "unreadable image": chat("<image>What?", "x", image="text.jpg"),
    "image is a URL": chat("<image>What?", "x", image="https://example.org/1.jpg"),
    "marks and images differ": chat("<image><image>What?", "x", image="dot.png"),
    "empty answer": chat("What?", " "),
    "no answer": {"conversations": [{"from": "human", "value": "What?"}]},
    "no conversation": {"prompt": "What?"},
    "unknown speaker": {"conversations": [{"from": "parrot", "value": "What?"}]},
    "no JSON object": ["What?", "x"],
    "no image path": chat("<image>What?", "x", image=3),
}


@pytest.mark.parametrize(("reason", "record"), BAD_CHATS.items())
def test_a_bad_conversation_is_dropped_alone(reason: str, record: Any, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(DOT)
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "a.json").write_text(json.dumps([GOOD_CHAT, record, GOOD_CHAT]))
    result = Prepared("instructions", tmp_path / "a.json")
    assert (result.texts, result.drops) == (["Well?\nGood."] * 2, [("1", reason)])
    if reason == "missing image file":
        assert "nowhere.jpg" in result.lines[0]["detail"]


def test_a_list_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    text = json.dumps([GOOD_CHAT, GOOD_CHAT, GOOD_CHAT])
    (tmp_path / "a.json").write_text(text[:-20])
    result = Prepared("instructions", tmp_path / "a.json")
    assert (len(result.texts), result.drops) == (2, [("2", "broken JSON")])


def test_a_record_of_a_list_that_is_not_utf8(tmp_path: Path) -> None:
    text = json.dumps([GOOD_CHAT, chat("Where?", "caf@"), GOOD_CHAT]).encode().replace(b"@", b"\xe9")
    (tmp_path / "a.json").write_bytes(text)
    result = Prepared("instructions", tmp_path / "a.json")
    assert (len(result.texts), result.drops) == (2, [("1", "not UTF-8")])


def test_text_that_the_tokenizer_drops_whole_is_no_text() -> None:
    with pytest.raises(Unusable, match="no text"):
        verify.document(Document((Image(DOT, 0, 0), Text("only a question?", loss=False))), pictures_matter=True)
