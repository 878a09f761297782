"""Document -> tokens. Training, evaluation and serving all come through here, so the
model meets one layout in each.

    Document(Image, Text("a cat"))  ->  tokens  <i> <i> <i> <i> a cat <end>      (4 tokens an image)
                                        loss_mask .   .   .   .  x  x   x

Every document ends with `<end>`, unless its last part has brought its own, or it is a
prompt. Where the tokenizer has a token to begin with, every document begins with it.

A picture that is split (see `mm1.data.image_processing`) takes the tokens of each of
its views, one after another. With `index_tokens` the place of each view in its picture
precedes it, as text that is not learnt:

    (1,1,1) <i> <i> <i> <i> (1,1,2) <i> <i> <i> <i> (1,0,0) <i> <i> <i> <i> a cat <end>
"""

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import Views
from mm1.data.images import see
from mm1.data.tokenizer import Tokenizer

Grid = tuple[int, int]
"""Rows and columns of the tiles that a picture is split into."""


@dataclass(frozen=True, eq=False, slots=True)
class Sequence:
    """A rendered document; its pictures stay encoded until a batch is made of it."""

    tokens: Int[np.ndarray, " n"]
    loss_mask: Bool[np.ndarray, " n"]
    """Is this token a target?"""
    images: tuple[Image, ...] = ()
    grids: tuple[Grid, ...] = ()
    """Of each picture."""
    places: tuple[tuple[int, int], ...] = ()
    """Of each picture: where its tokens begin and where they end (exclusive), its index
    tokens included."""

    def pictures(self, start: int, stop: int) -> Iterator[tuple[int, Image, Grid]]:
        """Number (counted from 1) and grid of the pictures whose tokens lie from
        `start` to `stop`."""
        pictures = zip(self.images, self.grids, self.places, strict=True)
        for number, (image, grid, (begin, end)) in enumerate(pictures, 1):
            if start <= begin and end <= stop:
                yield number, image, grid


@dataclass(frozen=True, slots=True)
class Renderer:
    """Lays a document out for a model that sees pictures as `views`, each as
    `tokens_per_image` tokens."""

    tokenizer: Tokenizer
    views: Views | None
    """None for a model without an encoder: a document with pictures is then an
    error."""
    tokens_per_image: int = 0

    def __call__(self, document: Document, *, end: bool = True) -> Sequence:
        """`end=False` leaves the document open for the model to go on: a prompt."""
        pieces: list[
            tuple[Items[int] | Int[np.ndarray, " n"], bool]
        ] = []  # ids, and are they learnt?
        if self.tokenizer.begin is not None:
            pieces.append(([self.tokenizer.begin], False))
        images = document.images
        places = []
        at = len(pieces)
        grids = self.grids(images)
        pictures = iter(enumerate(grids, 1))
        for part in document.parts:
            if isinstance(part, Image):
                pieces.append((self.image_tokens(*next(pictures)), False))
                places.append((at, at + len(pieces[-1][0])))
            else:
                pieces.append((self.text_tokens(part), part.loss))
            at += len(pieces[-1][0])
        last = document.parts[-1] if document.parts else None
        if end and not (isinstance(last, Text) and last.end):
            pieces.append(
                ([self.tokenizer.end], last.loss if isinstance(last, Text) else True)
            )
        return Sequence(*_joined(pieces), images, grids, tuple(places))

    def text_tokens(self, part: Text) -> Items[int]:
        ids = (
            part.tokens
            if part.tokens is not None
            else self.tokenizer.encode(part.content)
        )
        return [*ids, self.tokenizer.end] if part.end else ids

    def grids(self, images: Items[Image]) -> tuple[Grid, ...]:
        """Of the pictures of one document.

        Raises:
            ValueError: there are pictures, but the model has no encoder.
        """
        if not images:
            return ()
        if self.views is None:
            raise ValueError(
                "a document with pictures was given to a model without an image encoder"
            )
        num = len(images)
        return tuple(
            self.views.grid(image.width, image.height, num, i)
            for i, image in enumerate(images, 1)
        )

    def image_tokens(self, number: int, grid: Grid) -> Int[np.ndarray, " n"]:
        """The tokens of a document's picture `number`, counted from 1."""
        assert self.views is not None
        cells = self.views.cells(grid)
        if not self.views.index_tokens:
            return np.full(len(cells) * self.tokens_per_image, self.tokenizer.image)
        view = [self.tokenizer.image] * self.tokens_per_image
        return np.array(
            [token for cell in cells for token in (*self._index(number, cell), *view)]
        )

    def _index(self, number: int, cell: Grid) -> list[int]:
        assert self.views is not None
        text = self.views.index(number, cell)
        ids = self.tokenizer.encode(text)
        if self.tokenizer.decode(ids).strip() != text:
            raise ConfigError(
                f"loader.index_tokens: the tokenizer cannot spell {text!r}; use one of"
                " byte pairs, or none"
            )
        return ids

    def pixels(self, image: Image, grid: Grid = (1, 1)) -> UInt8[Tensor, "views 3 H W"]:
        """A picture's views, in the order of their tokens.

        Raises:
            ImageError: it cannot be decoded.
        """
        assert self.views is not None
        return see(image, self.views, grid)

    def lengths(
        self,
        text_tokens: Int[np.ndarray, " documents"],
        offsets: Int[np.ndarray, " offsets"],
        widths: Int[np.ndarray, " images"],
        heights: Int[np.ndarray, " images"],
    ) -> tuple[Int[np.ndarray, " documents"], Int[np.ndarray, " documents"]]:
        """(tokens, views) of documents as they would be rendered, from their text's
        tokens and their pictures' sizes.

        The pictures of document i are those from `offsets[i]` to `offsets[i + 1]`.
        """
        text_tokens = text_tokens.astype(np.int64)
        per_document = np.diff(offsets).astype(np.int64)
        if self.views is None:
            return text_tokens, per_document
        document = np.repeat(np.arange(len(per_document)), per_document)
        number = np.arange(len(document)) - offsets[document] + 1
        rows, columns = self.views.grids(
            widths, heights, per_document[document], number
        )
        views = self.views.counts(rows, columns)
        tokens = views * self.tokens_per_image + self._index_lengths(
            number, rows, columns
        )
        num_tokens, num_views = (
            np.diff(np.concatenate([[0], np.cumsum(x)])[offsets])
            for x in (tokens, views)
        )
        return text_tokens + num_tokens, num_views

    def _index_lengths(
        self, number: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Index tokens of pictures; each sort of picture is spelled once."""
        assert self.views is not None
        if not self.views.index_tokens:
            return np.zeros_like(number)
        base = self.views.max_tiles + 1
        sorts, sort = np.unique(
            (number * base + rows) * base + columns, return_inverse=True
        )
        lengths = []
        for code in sorts.tolist():
            k, row = divmod(code // base, base)
            column = code % base
            lengths.append(
                sum(
                    len(self._index(k, cell))
                    for cell in self.views.cells((row, column))
                )
            )
        return np.array(lengths, dtype=np.int64)[sort]


def _joined(
    pieces: list[tuple[Any, bool]],
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    num = sum(len(ids) for ids, _ in pieces)
    tokens = np.empty(num, dtype=np.int64)
    loss_mask = np.empty(num, dtype=bool)
    start = 0
    for ids, learnt in pieces:
        stop = start + len(ids)
        tokens[start:stop] = ids
        loss_mask[start:stop] = learnt
        start = stop
    return tokens, loss_mask


def text_length(
    document: Document, token_counts: list[int], *, begin: bool = False
) -> int:
    """Tokens of a whole rendered document without its image tokens, from the token
    count of each text part.

    `begin`: has the tokenizer a token to begin with?
    """
    texts = [part for part in document.parts if isinstance(part, Text)]
    own_ends = sum(part.end for part in texts)
    last = document.parts[-1] if document.parts else None
    return (
        begin
        + sum(token_counts)
        + own_ends
        + (not (isinstance(last, Text) and last.end))
    )
