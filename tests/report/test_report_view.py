"""The page of packed rows, as `mm1 view` writes it."""

import random
from pathlib import Path

import pytest
from html_pages import check_self_contained, parse
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
    check_self_contained(out)
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


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"):
        write_view([], tmp_path / "view.html", title="nothing")
