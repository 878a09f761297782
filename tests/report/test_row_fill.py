"""Why rows are not full: the reasons, and that following them fills the rows."""

import re

import numpy as np

from mm1.loader.packing import pack_documents
from mm1.report.row_fill import PackedPiece, RowLimits, why_not_full

LENGTH = 200


def packed(
    tokens: list[int], images: list[int], max_images: int, rows: int
) -> list[str]:
    """The reasons of the rows that such documents are packed into."""
    plan = pack_documents(
        np.array(tokens),
        np.array(images),
        sequence_length=LENGTH,
        max_images=max_images,
        num_rows=rows,
        min_segment=10,
    )
    made = [
        [PackedPiece(s.stop - s.start, images[s.document]) for s in row]
        for row in plan.rows
    ]
    return why_not_full(made, RowLimits(LENGTH, max_images, rows))


def test_the_image_cap_leaves_room_that_its_remedies_fill() -> None:
    captions = [20] * 100
    said, cap = packed(captions, [1] * 100, max_images=5, rows=20)
    assert said.startswith("50.0% of the slots of 20 rows")
    assert cap.startswith("50.0% are in rows that hold all the images")
    assert "20.0 tokens for each image" in cap
    assert "5 images come with 100 of 200 tokens" in cap
    found = re.search(r"max_images=(\d+)", cap)
    assert found
    assert found[1] == "10"
    assert packed(captions, [1] * 100, max_images=int(found[1]), rows=10) == []
    assert "(50% of the tokens, now 0%)" in cap
    texts = [50] * 40  # as many tokens again
    mixed = packed(captions + texts, [1] * 100 + [0] * 40, 5, rows=20)
    assert mixed == []


def test_gaps_too_short_for_any_document() -> None:
    _, short = packed([70] * 30, [1] * 30, max_images=9, rows=10)
    assert short.startswith("30.0% are in gaps shorter than the shortest")
    assert "70 tokens" in short


def test_a_window_without_anything_left() -> None:
    _, window = packed([60] * 4, [1] * 4, max_images=9, rows=2)
    assert window.startswith("40.0% are in rows for which the packing window")
    assert "packing_window (2 now)" in window


def test_full_rows_need_no_reasons() -> None:
    assert packed([100] * 8, [0] * 8, max_images=0, rows=4) == []
    assert why_not_full([], RowLimits(LENGTH, 4, 8)) == []
