"""Document -> tokens. Training, evaluation and serving all render documents here, so
the model sees the same layout in each.

    Document(Image, Text("a cat"))  ->  tokens     <i> <i> <i> <i> a cat <end>
      (4 tokens per image)              loss_mask   .   .   .   .  x  x   x

A document ends with `<end>`, unless its last part brings its own or it is a prompt. It
begins with the tokenizer's begin token, where there is one.

An image that is split (see `mm1.data.image_processing`) takes the tokens of each of its
sub-images in turn. With `index_tokens` each sub-image is preceded by its position, as
text without loss:

    (1,1,1) <i> <i> <i> <i> (1,1,2) <i> <i> <i> <i> (1,0,0) <i> <i> <i> <i> a cat <end>
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor, decode_image
from mm1.data.tokenizer import Tokenizer

Grid = tuple[int, int]
"""Rows and columns of the tiles that an image is split into."""


@dataclass(frozen=True, eq=False, slots=True)
class RenderedDocument:
    """Tokens of a document; its images stay encoded until a batch is collated."""

    tokens: Int[np.ndarray, " n"]
    loss_mask: Bool[np.ndarray, " n"]
    """Is this token a target?"""
    images: tuple[Image, ...] = ()
    grids: tuple[Grid, ...] = ()
    """One per image."""
    image_spans: tuple[tuple[int, int], ...] = ()
    """One per image: start and stop (exclusive) of its tokens, index tokens
    included."""

    def images_between(
        self, start: int, stop: int
    ) -> Iterator[tuple[int, Image, Grid]]:
        """(number, counted from 1; image; grid) of each image whose tokens lie within
        `start` to `stop`."""
        images = zip(self.images, self.grids, self.image_spans, strict=True)
        for number, (image, grid, (first, last)) in enumerate(images, 1):
            if start <= first and last <= stop:
                yield number, image, grid


class UnitFlops(NamedTuple):
    """What a model computes for one more of each, in a row of fixed length."""

    pair: int = 0
    """Of tokens of a document, for attention."""
    text_token: int = 0
    """In place of padding or an image's token: text is a target."""
    image: int = 1


@dataclass(frozen=True, slots=True)
class Renderer:
    """Lays documents out for a model that takes `tokens_per_image` tokens per
    sub-image."""

    tokenizer: Tokenizer
    image_processor: ImageProcessor | None
    """None: the model has no image encoder, and documents with images are errors."""
    tokens_per_image: int = 0
    trained_length: int | None = None
    """Tokens of the sequences that the model is trained on, if it is on sequences."""
    unit_flops: UnitFlops = field(default_factory=UnitFlops)
    """The model's, if it is a language model."""

    def __call__(
        self, document: Document, *, end: bool = True
    ) -> RenderedDocument:
        """`end=False` leaves the document open for the model to continue: a prompt."""
        # ids, and whether they are targets
        pieces: list[tuple[Sequence[int] | Int[np.ndarray, " n"], bool]] = []
        if self.tokenizer.begin is not None:
            pieces.append(([self.tokenizer.begin], False))
        images = document.images
        spans = []
        position = len(pieces)
        grids = self.grids(images)
        numbered_grids = iter(enumerate(grids, 1))
        for part in document.parts:
            if isinstance(part, Image):
                pieces.append((self.image_tokens(*next(numbered_grids)), False))
                spans.append((position, position + len(pieces[-1][0])))
            else:
                pieces.append((self.text_tokens(part), part.loss))
            position += len(pieces[-1][0])
        last = document.parts[-1] if document.parts else None
        if end and not (isinstance(last, Text) and last.end):
            pieces.append(
                (
                    [self.tokenizer.end],
                    last.loss if isinstance(last, Text) else True,
                )
            )
        return RenderedDocument(
            *_concatenate(pieces), images, grids, tuple(spans)
        )

    def text_tokens(self, part: Text) -> Sequence[int]:
        ids = (
            part.tokens
            if part.tokens is not None
            else self.tokenizer.encode(part.content)
        )
        return [*ids, self.tokenizer.end] if part.end else ids

    def grids(self, images: Sequence[Image]) -> tuple[Grid, ...]:
        """The grids of all images of one document.

        Raises:
            ValueError: there are images, but the model has no encoder.
        """
        if not images:
            return ()
        if self.image_processor is None:
            raise ValueError(
                "a document with images was given to a model without an image encoder"
            )
        num = len(images)
        return tuple(
            self.image_processor.choose_grid(image.width, image.height, num, i)
            for i, image in enumerate(images, 1)
        )

    def image_tokens(self, number: int, grid: Grid) -> Int[np.ndarray, " n"]:
        """The tokens of a document's image `number`, counted from 1."""
        assert self.image_processor is not None
        positions = self.image_processor.positions(grid)
        if not self.image_processor.index_tokens:
            return np.full(
                len(positions) * self.tokens_per_image, self.tokenizer.image
            )
        sub_image = [self.tokenizer.image] * self.tokens_per_image
        return np.array(
            [
                token
                for position in positions
                for token in (*self._index_tokens(number, position), *sub_image)
            ]
        )

    def _index_tokens(self, number: int, position: Grid) -> list[int]:
        assert self.image_processor is not None
        text = self.image_processor.index_text(number, position)
        ids = self.tokenizer.encode(text)
        if self.tokenizer.decode(ids).strip() != text:
            raise ConfigError(
                f"loader.index_tokens: the tokenizer cannot encode {text!r}; use a"
                " byte-level tokenizer, or turn index tokens off"
            )
        return ids

    def sub_images(
        self, image: Image, grid: Grid = (1, 1)
    ) -> UInt8[Tensor, "sub_images 3 H W"]:
        """An image's sub-images, in the order of their tokens.

        Raises:
            ImageError: it cannot be decoded.
        """
        assert self.image_processor is not None
        return self.image_processor(decode_image(image.data), grid)

    @property
    def fixed_tokens_per_image(self) -> int | None:
        """The tokens of each image where all take equally many, as one sub-image each;
        None where that depends on their sizes or numbers."""
        processor = self.image_processor
        if processor is None:
            return 0
        if processor.max_tiles > 1 or processor.index_tokens:
            return None
        return self.tokens_per_image

    def lengths(
        self,
        text_tokens: Int[np.ndarray, " documents"],
        offsets: Int[np.ndarray, " offsets"],
        widths: Int[np.ndarray, " images"],
        heights: Int[np.ndarray, " images"],
    ) -> tuple[Int[np.ndarray, " documents"], Int[np.ndarray, " documents"]]:
        """(tokens, sub-images) of rendered documents, from their numbers of text tokens
        and their image sizes.

        The images of document i are those from `offsets[i]` to `offsets[i + 1]`.
        """
        text_tokens = text_tokens.astype(np.int64)
        per_document = np.diff(offsets).astype(np.int64)
        if self.image_processor is None:
            return text_tokens, per_document
        document = np.repeat(np.arange(len(per_document)), per_document)
        number = np.arange(len(document)) - offsets[document] + 1
        rows, columns = self.image_processor.choose_grids(
            widths, heights, per_document[document], number
        )
        sub_images = self.image_processor.num_sub_images(rows, columns)
        tokens = sub_images * self.tokens_per_image + self._num_index_tokens(
            number, rows, columns
        )
        image_tokens, num_sub_images = (
            np.diff(np.concatenate([[0], np.cumsum(x)])[offsets])
            for x in (tokens, sub_images)
        )
        return text_tokens + image_tokens, num_sub_images

    def _num_index_tokens(
        self, number: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Index tokens of each image; each distinct (number, rows, columns) is
        tokenised once."""
        assert self.image_processor is not None
        if not self.image_processor.index_tokens:
            return np.zeros_like(number)
        base = self.image_processor.max_tiles + 1
        kinds, kind = np.unique(
            (number * base + rows) * base + columns, return_inverse=True
        )
        lengths = []
        for code in kinds.tolist():
            image, row = divmod(code // base, base)
            positions = self.image_processor.positions((row, code % base))
            lengths.append(
                sum(len(self._index_tokens(image, p)) for p in positions)
            )
        return np.array(lengths, dtype=np.int64)[kind]


def _concatenate(
    pieces: list[tuple[Any, bool]],
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    num = sum(len(ids) for ids, _ in pieces)
    tokens = np.empty(num, dtype=np.int64)
    loss_mask = np.empty(num, dtype=bool)
    start = 0
    for ids, loss in pieces:
        stop = start + len(ids)
        tokens[start:stop] = ids
        loss_mask[start:stop] = loss
        start = stop
    return tokens, loss_mask


def text_length(
    document: Document, token_counts: list[int], *, begin: bool = False
) -> int:
    """Length of a rendered document without its image tokens, from the number of tokens
    of each text part.

    `begin`: does the tokenizer have a begin token?
    """
    texts = [part for part in document.parts if isinstance(part, Text)]
    own_ends = sum(part.end for part in texts)
    last = document.parts[-1] if document.parts else None
    needs_end = not (isinstance(last, Text) and last.end)
    return begin + sum(token_counts) + own_ends + needs_end
