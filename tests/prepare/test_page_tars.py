"""Tars of pages: MINT-1T's json and TIFF, OpenFlamingo's MMC4, images by name."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from raw_files import jpeg, write_tar

from mm1.data import image_decoding
from mm1.data.document import Document
from mm1.data.image_processing import decode_image
from mm1.prepare import verify
from mm1.prepare.sources import Source, Unusable
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.mmc4 import MMC4

COLOURS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}


def pages_of_tiff(*colours: str) -> bytes:
    first, *others = [Pillow.new("RGB", (9, 7), colour) for colour in colours]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "TIFF",
        save_all=True,
        append_images=others,
        compression="tiff_lzw",
    )
    return buffer.getvalue()


def mint(*images: str | None, **more: Any) -> bytes:
    """A page with a text in each place without an image."""
    texts = [None if image else f"text {n}" for n, image in enumerate(images)]
    return json.dumps({"texts": texts, "images": images, **more}).encode()


def read(source: Source, path: Path) -> dict[str, list[str]]:
    """Key -> the parts of the page: texts, colours of images, or why they are lost."""
    found = {}
    for record in source.read(path):
        try:
            if isinstance(record.data, Unusable):
                raise record.data
            document = source.document(record.data)
            found[record.key] = parts_of(document)
        except Unusable as why:
            found[record.key] = [f"dropped: {why.reason}"]
    return found


def parts_of(document: Document) -> list[str]:
    document, lost = verify.check_document(document, images_required=False)
    names = {rgb: name for name, rgb in COLOURS.items()}
    parts = [
        part.content
        if hasattr(part, "content")
        else names.get(tuple(decode_image(part.data)[:, 0, 0].tolist()), "?")
        for part in document.parts
    ]
    return parts + [f"lost: {why.reason}" for why in lost]


def test_mint_has_a_page_of_a_tiff_for_each_image(tmp_path: Path) -> None:
    names = ("page_0_image_85", None, "page_2_image_9", None, "page_2_image_3")
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("0a.json", mint(*names, url="http://x.org", pdf_name="x")),
            ("0a.tiff", pages_of_tiff("red", "lime", "blue")),
            ("1b.json", mint(None, "page_0_image_1")),
            ("1b.tiff", pages_of_tiff("lime")),
            ("2c.tiff", pages_of_tiff("blue")),
            ("2c.json", mint("page_0_image_1", None)),
        ],
    )
    source = Interleaved.Config().build()
    assert read(source, path) == {
        "0a": ["red", "text 1", "lime", "text 3", "blue"],
        "1b": ["text 0", "lime"],
        "2c": ["blue", "text 1"],
    }
    assert source.skipped.to_json() == {
        "column": {"count": 2, "names": ["pdf_name", "url"]}
    }


def test_a_tiff_of_another_number_of_pages_is_not_guessed_at(
    tmp_path: Path,
) -> None:
    half = pages_of_tiff("red", "lime")
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("a.json", mint("i1", None)),
            ("a.tiff", half),
            ("b.json", mint("i1", None, "i2")),
            ("b.tiff", b"II*\0 and so on"),
            ("c.json", mint("i1", None)),
        ],
    )
    differ = "lost: images of file and page differ"
    assert read(Interleaved.Config().build(), path) == {
        "a": ["text 1", differ],
        "b": ["text 1", *["lost: unreadable image"] * 2],
        "c": ["text 1", "lost: missing image file"],
    }


def test_pages_of_a_tiff_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_decoding, "MAX_FRAMES", 2)
    members = [
        ("a.json", mint("i1", None)),
        ("a.tiff", pages_of_tiff("red", "lime", "blue")),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    found = read(Interleaved.Config().build(), path)
    assert found == {"a": ["text 1", "lost: unreadable image"]}


def test_images_by_the_names_of_members(tmp_path: Path) -> None:
    members = [
        ("images/b2.tif", pages_of_tiff("red")),
        ("a.json", mint("a.1.jpg", None, "images/b2.tif")),
        ("a.1.jpg", pages_of_tiff("lime")),
        ("a.2.jpg", pages_of_tiff("blue")),
        ("c.png", pages_of_tiff("blue")),
        ("notes.txt", b"n"),
        ("d.json", b"[1]"),
        ("e.json", b"{"),
    ]
    source = Interleaved.Config().build()
    found = read(source, write_tar(tmp_path / "a.tar", members))
    assert found == {
        "a": ["lime", "text 1", "red"],
        "d": ["dropped: no JSON object"],
        "e": ["dropped: broken JSON"],
    }
    assert source.skipped.to_json() == {
        ".txt file": {"count": 1, "names": ["notes.txt"]},
        "image that no page names": {
            "count": 2,
            "names": ["a.2.jpg", "c.png"],
        },
    }


def page_of_mmc4(*infos: dict[str, Any]) -> bytes:
    images = [
        {"matched_text_index": 1, "matched_sim": 0.3, **info} for info in infos
    ]
    page = {"text_list": ["Lock.", "Press."], "image_info": images}
    return json.dumps(page).encode()


@pytest.mark.parametrize("written", ["base64", "repr of base64"])
def test_mmc4_of_open_flamingo(written: str, tmp_path: Path) -> None:
    """Its script writes `str(base64.b64encode(...))`, which begins with b'."""
    encoded = base64.b64encode(pages_of_tiff("red"))
    text = str(encoded) if written.startswith("repr") else encoded.decode()
    members = [
        ("0f3a.json", page_of_mmc4({"image_name": "x", "image_base64": text})),
        ("11b2.json", page_of_mmc4({"image_name": "gone.jpg"})),
    ]
    source = MMC4.Config().build()
    assert read(source, write_tar(tmp_path / "a.tar", members)) == {
        "0f3a": ["Lock.", "red", "Press."],
        "11b2": ["Lock.", "\n\nPress.", "lost: missing image file"],
    }


def test_mmc4_with_images_as_members(tmp_path: Path) -> None:
    members = [
        ("b904.jpg", pages_of_tiff("blue")),
        ("0.json", page_of_mmc4({"image_name": "b904.jpg"})),
        ("1.json", page_of_mmc4({"image_name": "later.png"})),
        ("later.png", pages_of_tiff("lime")),
        ("nobodys.png", jpeg()),
    ]
    source = MMC4.Config().build()
    assert read(source, write_tar(tmp_path / "a.tar", members)) == {
        "0": ["Lock.", "blue", "Press."],
        "1": ["Lock.", "lime", "Press."],
    }
    assert source.skipped.to_json() == {
        "image that no page names": {"count": 1, "names": ["nobodys.png"]}
    }


def test_a_truncated_tar_gives_its_whole_pages(tmp_path: Path) -> None:
    members = [
        ("a.json", mint("i1", None)),
        ("a.tiff", pages_of_tiff("red")),
        ("b.json", mint("i1", None)),
        ("b.tiff", pages_of_tiff("lime")),
    ]
    path = write_tar(tmp_path / "a.tar", members)
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[:-20])
    found = read(Interleaved.Config().build(), path)
    assert found.pop("a") == ["red", "text 1"]
    assert "dropped: truncated tar" in next(iter(found.values()))
