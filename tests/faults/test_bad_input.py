"""Bad raw data beyond the cases of `test_faults`: several properties at a time."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from raw_files import jpeg, pairs, write_pages, write_tar

from mm1.data import image_decoding
from mm1.data.document import Document, Image, Text
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare import verify
from mm1.prepare.pipeline import prepare
from mm1.prepare.sources import DOT, Unusable


class Prepared:
    """The outcome of preparing one raw file."""

    def __init__(self, kind: str, path: Path) -> None:
        out = path.parent / "out"
        train_tokenizer(["a text"], path.parent / "t.json", vocab_size=300)
        self.manifest = prepare(kind, [path], out, path.parent / "t.json")
        self.lines: list[dict[str, Any]] = [
            json.loads(s)
            for s in (out / "drops.jsonl").read_text().splitlines()
        ]
        read = Shards(out)
        self.texts = [read.document(i).text for i in range(len(read))]
        assert all(line["file"] == str(path) for line in self.lines)
        assert self.manifest["records_in"] == self.manifest["documents"] + sum(
            self.manifest["drops"].values()
        )

    @property
    def drops(self) -> list[tuple[str, str]]:
        """(key, reason) of each dropped record."""
        return [
            (line["key"], line["reason"])
            for line in self.lines
            if line["dropped"] == "record"
        ]


# --- caption tars


def test_a_tar_truncated_anywhere_keeps_its_complete_samples(
    tmp_path: Path,
) -> None:
    whole = write_tar(tmp_path / "whole.tar", pairs(4)).read_bytes()
    end = (
        -(-len(whole.rstrip(b"\0")) // 512) * 512
    )  # from here on zeros: the end mark and padding
    for cut in range(4096, len(whole), 789):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "a.tar").write_bytes(whole[:cut])
        result = Prepared("captions", folder / "a.tar")
        assert result.texts == [
            f"<image>picture number {i}" for i in range(len(result.texts))
        ]
        assert [reason for _, reason in result.drops] == (
            [] if cut >= end else ["truncated tar"]
        )
        assert cut < end or len(result.texts) == 4


# --- images


def test_damaged_bytes_never_crash() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = jpeg(1, size=(24, 24), kind=kind)
        for _ in range(40):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 5):
                data[at] = rng.integers(256)
            with contextlib.suppress(Unusable):
                assert verify.check_image(Image(bytes(data), 0, 0)).width > 0


def test_size_is_measured_after_exif_rotation(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[image_decoding.EXIF_ORIENTATION] = 6
    Pillow.new("RGB", (30, 10)).save(tmp_path / "a.jpg", exif=exif)
    image = verify.check_image(Image((tmp_path / "a.jpg").read_bytes(), 0, 0))
    assert (image.width, image.height) == (10, 30)


# --- interleaved pages


def test_a_page_is_kept_without_its_unusable_images(tmp_path: Path) -> None:
    page = {
        "images": [
            None,
            b"https://example.org/1.jpg",
            None,
            DOT,
            b"rubbish",
            None,
        ],
        "texts": ["one", None, "two", None, None, "three"],
    }
    result = Prepared(
        "interleaved", write_pages(tmp_path / "a.parquet", [page])
    )
    assert result.texts == ["one\n\ntwo<image>three"]
    assert result.manifest["images_dropped"] == {
        "image is a URL": 1,
        "unreadable image": 1,
    }
    assert [
        (line["key"], line["dropped"], line["detail"][:7])
        for line in result.lines
    ] == [
        ("0", "image", "image 1"),
        ("0", "image", "image 3"),
    ]


def test_published_obelics_has_urls_in_place_of_images(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "images": [["http://example.org/1.jpg", None]],
            "texts": [[None, "text"]],
            "metadata": ["{}"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    result = Prepared("interleaved", tmp_path / "a.parquet")
    assert (result.texts, result.manifest["images_dropped"]) == (
        ["text"],
        {"image is a URL": 1},
    )


def test_a_document_without_text_to_learn_is_dropped() -> None:
    with pytest.raises(Unusable, match="no text"):
        verify.check_document(
            Document((Image(DOT, 0, 0), Text("only a question?", loss=False))),
            images_required=True,
        )
