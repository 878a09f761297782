"""Lengths of prepared documents under a renderer, known without reading the
documents."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from jaxtyping import Int

from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.storage.remote_path import as_path

BLOCK = 1 << 16
"""Documents whose lengths are computed at a time where those of all are needed."""


class DocumentLengths:
    """Tokens and images of the documents in one split of a prepared folder, computed
    from its columns for those that are asked for."""

    def __init__(
        self, folder: str, renderer: Renderer, split: str = "train"
    ) -> None:
        self.shards = Shards(as_path(folder), split)
        self.renderer = renderer
        self.shards.check_tokenizer(renderer.tokenizer.fingerprint)
        self.num_documents = len(self.shards)

    def lengths(
        self, ids: Int[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """(rendered tokens, image tokens included; sub-images) of each document.

        Raises:
            ConfigError: the folder has changed since it was opened.
        """
        offsets = self.shards.image_offsets
        text_tokens = self.shards.text_tokens[ids]
        first = offsets[ids]
        counts = offsets[ids + 1] - first
        if (fixed := self.renderer.fixed_tokens_per_image) is not None:
            return text_tokens + fixed * counts, counts
        ends = np.concatenate([[0], np.cumsum(counts)])
        images = np.repeat(first - ends[:-1], counts) + np.arange(ends[-1])
        sizes = self.shards.image_sizes[images]
        return self.renderer.lengths(
            text_tokens, ends, sizes[:, 0], sizes[:, 1]
        )

    def blocks(
        self,
    ) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
        """`lengths` of all documents in order, `BLOCK` at a time."""
        for first in range(0, self.num_documents, BLOCK):
            last = min(first + BLOCK, self.num_documents)
            yield self.lengths(np.arange(first, last))

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        """(start, stop, sub-images) of each image's tokens; reads the document.

        Raises:
            ValueError: there are images, but the model has no encoder.
        """
        rendered = self.renderer(self.shards.document(document))
        processor = self.renderer.image_processor
        return [
            (start, stop, len(processor.positions(grid)) if processor else 1)
            for (start, stop), grid in zip(
                rendered.image_spans, rendered.grids, strict=True
            )
        ]

    def describe(self) -> dict[str, int | float]:
        """Totals, for people."""
        return dict(self._totals)

    @cached_property
    def _totals(self) -> dict[str, int]:
        documents, tokens, images = self.shards.totals()
        fixed = self.renderer.fixed_tokens_per_image
        if fixed is None:
            # a pass over all documents, some 2 million a second
            totals = [(t.sum(), i.sum()) for t, i in self.blocks()]
            tokens, images = (int(sum(x)) for x in zip(*totals, strict=True))
        else:
            tokens += images * fixed
        return {"documents": documents, "tokens": tokens, "images": images}
