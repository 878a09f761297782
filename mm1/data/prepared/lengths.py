"""Lengths of prepared documents under a renderer, known without reading the
documents."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer


class DocumentLengths:
    """Tokens and images of each document in one split of a prepared folder."""

    def __init__(
        self, folder: str, renderer: Renderer, split: str = "train"
    ) -> None:
        self.shards = Shards(Path(folder), split)
        self.renderer = renderer
        self.shards.check_tokenizer(renderer.tokenizer.fingerprint)
        self.num_documents = len(self.shards)
        self.num_tokens, self.num_images = renderer.lengths(
            self.shards.text_tokens,
            self.shards.image_offsets,
            self.shards.image_widths,
            self.shards.image_heights,
        )

    def tokens(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Rendered length of each document, image tokens included."""
        return self.num_tokens[ids]

    def images(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Images of each document; every sub-image counts."""
        return self.num_images[ids]

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
        return {
            "documents": self.num_documents,
            "tokens": int(self.num_tokens.sum()),
            "images": int(self.num_images.sum()),
        }
