"""Interleaved pages (OBELICS's parquet, MMC4's lines, HTML), among good ones."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import jpeg, write_lines, write_pages

from cases import Case, prepared, refused
from mm1.prepare.sources import DOT
from mm1.prepare.sources.interleaved import END_OF_DOCUMENT

GOOD = {"images": [None, DOT], "texts": ["good", None]}


def page(images: list[bytes | None] | None, texts: list[str | None]) -> Case:
    bad = {"images": images, "texts": texts}
    return lambda folder, _: prepared(
        "interleaved", write_pages(folder / "a.parquet", [GOOD, bad, GOOD])
    )


def table(**columns: Any) -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        pq.write_table(pa.table(columns), folder / "a.parquet")
        return prepared("interleaved", folder / "a.parquet")

    return case


def as_error(case: Case) -> Case:
    return lambda folder, patch: refused(lambda: case(folder, patch), folder)


def truncated(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_pages(folder / "a.parquet", [GOOD] * 9)
    path.write_bytes(path.read_bytes()[:-50])
    return refused(lambda: prepared("interleaved", path), folder)


def damaged_inside(folder: Path, _: pytest.MonkeyPatch) -> str:
    path = write_pages(
        folder / "a.parquet",
        [
            {"images": [None], "texts": [f"page {i} " + "x" * 50]}
            for i in range(9)
        ],
    )
    data = bytearray(path.read_bytes())
    data[(at := data.index(b"page 6") - 60) : at + 60] = bytes(60)
    path.write_bytes(data)
    return prepared("interleaved", path)


def not_utf8(folder: Path, patch: pytest.MonkeyPatch) -> str:
    texts = pa.array([["good"], [b"caf\xe9"]], pa.list_(pa.binary())).view(
        pa.list_(pa.string())
    )
    return table(
        images=pa.array([[None]] * 2, pa.list_(pa.binary())), texts=texts
    )(folder, patch)


def mmc4(**changes: Any) -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        (folder / "a_images").mkdir()
        (folder / "a_images" / "0.jpg").write_bytes(jpeg())
        good = {
            "image_info": [{"image_name": "0.jpg", "matched_text_index": 0}],
            "text_list": ["good"],
        }
        return prepared(
            "mmc4",
            write_lines(folder / "a.jsonl", [good, good | changes, good]),
        )

    return case


def html_without_words(folder: Path, _: pytest.MonkeyPatch) -> str:
    (pages := folder / "pages").mkdir()
    (pages / "a.html").write_text("<p>good</p>")
    (pages / "b.html").write_text("<script>only()</script>")
    (pages / "c.html").write_bytes(b"<p>" * 10_000 + b"good")
    (pages / "d.html").write_bytes(b"<p>caf\xe9")
    return prepared("html_pages", pages)


CASES: dict[str, Case] = {
    "OBELICS' marker between two articles": page(
        [None, DOT], [f"one {END_OF_DOCUMENT} two", None]
    ),
    "OBELICS' marker and nothing else": page([None], [END_OF_DOCUMENT]),
    "null at both places": page([DOT, None], [None, None]),
    "all null": page([None, None], [None, None]),
    "image and text at one place": page([DOT, None], ["one", "two"]),
    "lists of different length": page([None, DOT], ["one"]),
    "no list of images": page(None, ["one"]),
    "no text": page([DOT, None], [None, "  "]),
    "empty lists": page([], []),
    "NUL in a text": page([None], ["a\0b"]),
    "text that is not UTF-8": not_utf8,
    "bytes that are not an image": page(
        [None, b"rubbish", None], ["one", None, "two"]
    ),
    "a URL as image, no folder to look it up in": page(
        [None, b"https://example.org/1.jpg"], ["one", None]
    ),
    "lists of numbers as texts": as_error(table(images=[[None]], texts=[[1]])),
    "no column of texts": as_error(table(images=[[None]], text=[["one"]])),
    "truncated parquet": truncated,
    "damaged parquet": damaged_inside,
    "MMC4: a missing image": mmc4(
        image_info=[{"image_name": "1.jpg", "matched_text_index": 0}]
    ),
    "MMC4: an image for no sentence": mmc4(
        image_info=[{"image_name": "0.jpg", "matched_text_index": 7}]
    ),
    "MMC4: a text as list of sentences": mmc4(text_list=json.dumps(["good"])),
    "HTML: only scripts, unclosed tags, Latin-1": html_without_words,
}
