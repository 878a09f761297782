"""The page of packed rows, as `mm1 view` writes it."""

import random
from pathlib import Path
from urllib.parse import unquote

import pytest
from html_pages import parse
from pictures import png

from mm1.report.view import (
    ViewDocument,
    ViewImage,
    ViewRow,
    ViewText,
    write_view,
)

PICTURE = png("red", random.Random(0), 32)
CAPTION = ViewDocument(
    "captions",
    "a.tar#7",
    (ViewImage((PICTURE, PICTURE)), ViewText("a red circle", True)),
    start=0,
    stop=20,
    length=20,
    num_targets=4,
)
CHAT = ViewDocument(
    "instructions",
    "b.json#<script>",
    (
        ViewText("what is <script>alert(1)</script>?", False),
        ViewText("three", True),
    ),
    start=8,
    stop=18,
    length=40,
    num_targets=2,
)
ROW = ViewRow((CAPTION, CHAT), sequence_length=32, max_images=4)


def test_counts_of_a_row() -> None:
    assert (ROW.num_tokens, ROW.num_images, ROW.num_targets) == (30, 2, 6)


def test_page_shows_text_loss_pictures_and_padding(tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    write_view([ROW, ROW], out, title="rows of <b>a recipe</b>")
    tree = parse(out)
    words = " ".join(tree.words)
    assert "rows of <b>a recipe</b>" in words
    assert "what is <script>alert(1)</script>?" in words
    assert "tokens 8 to 18 of 40" in words
    assert (
        "30 of 32 tokens (93.8%), 6 with loss, 2 of 4 images, 2 documents"
        in words
    )
    assert "2 tokens of padding" in words
    classes = [attributes.get("class") for _, attributes in tree.tags]
    # two pieces in each row, and the legend
    assert classes.count("learnt") == 2 * 2 + 1
    assert classes.count("unlearnt") == 2
    assert sum(tag == "img" for tag, _ in tree.tags) == 4
    assert not any(tag in ("script", "link") for tag, _ in tree.tags)
    assert {"row-1", "row-2"} <= {
        attributes.get("id") for _, attributes in tree.tags
    }


def test_a_full_row_has_no_padding(tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    write_view(
        [ViewRow((CAPTION,), sequence_length=20, max_images=4)],
        out,
        title="rows",
    )
    assert "of padding" not in out.read_text()


def test_images_lie_beside_the_page_each_once(tmp_path: Path) -> None:
    out = tmp_path / "my rows.html"
    large = ViewDocument(
        "captions",
        "b.tar#1",
        (ViewImage((png("green", random.Random(1), 300),)),),
        start=0,
        stop=9,
        length=9,
        num_targets=0,
    )
    write_view(
        [ViewRow((CAPTION, large), 40, 4)] * 3, out, title="rows of two sizes"
    )
    folder = tmp_path / "my rows_files"
    kinds = sorted(path.suffix for path in folder.iterdir())
    assert kinds == [".png", ".webp"]
    images = [found for tag, found in parse(out).tags if tag == "img"]
    assert len(images) == 9
    for image in images:
        assert image["loading"] == "lazy"
        assert (tmp_path / unquote(image["src"] or "")).is_file()
    kept = folder / "mine.png"
    kept.write_bytes(b"")
    write_view([ViewRow((CAPTION,), 40, 4)], out, title="fewer")
    assert sorted(path.suffix for path in folder.iterdir()) == [".png"] * 2
    assert kept.exists()


def test_captions_share_a_line(tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    page = ViewText("a long page " * 40, True)
    long = ViewDocument("pages", "c#1", (page,), 0, 90, 90, 90)
    write_view([ViewRow((CHAT, long), 128, 4)], out, title="rows")
    looks = [a.get("class") or "" for t, a in parse(out).tags if t == "article"]
    assert [look.endswith("brief") for look in looks] == [True, False]


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_view([], tmp_path / "view.html", title="nothing")
