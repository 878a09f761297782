"""The validation split in rows: every document once, none mixed with other sources."""

import numpy as np

from mm1.data.prepared.lengths import DocumentLengths
from mm1.loader.mixture_state import DocumentSegment, Row
from mm1.loader.packing import (
    PackedSegment,
    never_fits,
    pack_documents,
    split_document,
)


def validation_rows(
    source: DocumentLengths, *, sequence_length: int, max_images: int
) -> list[Row]:
    """All documents of a source's validation split, each once."""
    limits = {"sequence_length": sequence_length, "max_images": max_images}
    num_tokens, num_images = source.lengths(np.arange(source.num_documents))
    misfit = never_fits(num_tokens, num_images, **limits)
    segments = []
    for d, whole in enumerate(
        zip(num_tokens.tolist(), num_images.tolist(), strict=True)
    ):
        if not misfit[d]:
            parts = [(0, *whole)]
        elif max_images:
            parts = split_document(whole[0], source.image_spans(d), **limits)
        else:
            parts = []
        segments += [DocumentSegment(0, d, *part) for part in parts]
    _, _, starts, stops, images = (
        np.array(segments, dtype=np.int64).reshape(-1, 5).T
    )
    packed = pack_documents(stops, images, starts=starts, **limits)
    rows: list[tuple[PackedSegment, ...]] = list(packed.rows)
    for document, first, last in packed.left_over:
        rows += [
            (
                PackedSegment(
                    document, start, min(start + sequence_length, last)
                ),
            )
            for start in range(first, last, sequence_length)
        ]
    return [
        tuple(
            segments[s.document]._replace(start=s.start, stop=s.stop)
            for s in row
        )
        for row in rows
    ]
