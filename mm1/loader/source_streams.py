"""Sources as endless shuffled streams of documents, merged in proportion to their
weights.

The n-th document of a source is a stateless permutation of (seed, source, epoch,
position in the epoch). Each document comes exactly once an epoch, and 2 billion
documents need no more memory than two.

Streams are merged by virtual time: a document is due at (what its source has given
before it) / (its source's weight), counted in tokens, documents or rows. So each source
is within one document of its share at any point of the merged stream, and not only on
average.

    weight .75   |a a a a|b b|c c c c c|d d d|e e ...     merged: a A b c d B e ...
    weight .25   |A A A A|B B B B ...
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from mm1.config import ConfigError
from mm1.loader.mixture_state import WindowSettings
from mm1.loader.packing import never_fits, split_document
from mm1.loader.permutation import permute

CHUNK = 1024
"""Documents whose lengths are looked up at a time."""
MAX_CONSECUTIVE_MISFITS = 1_000_000
"""Reading a source fails after so many documents in a row of which none fits a packed
row, or after two epochs of them."""


@runtime_checkable
class SourceLengths(Protocol):
    """What a mixture must know of a source: the sizes of its documents, numbered 0 to
    num_documents - 1."""

    @property
    def num_documents(self) -> int: ...

    def lengths(
        self, ids: Int[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """(rendered tokens, image tokens included; images) of each document; every
        sub-image counts."""
        ...

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        """(start, stop, sub-images) of each image's tokens; asked only of documents
        with images that fit no row."""
        ...


class SegmentTable(NamedTuple):
    """Parallel arrays over segments of documents."""

    source: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    """Of the document in its source's endless stream."""
    document: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]

    @staticmethod
    def concatenate(tables: "list[SegmentTable]") -> "SegmentTable":
        empty = SegmentTable(*[np.zeros(0, dtype=np.int64)] * 6)
        columns = zip(empty, *tables, strict=True)
        return SegmentTable(*(np.concatenate(column) for column in columns))

    def select(self, index: Int[np.ndarray, " m"]) -> "SegmentTable":
        return SegmentTable(*(column[index] for column in self))

    @property
    def tokens(self) -> Int[np.ndarray, " n"]:
        return self.stop - self.start

    def amounts(self, settings: WindowSettings) -> Int[np.ndarray, " n"]:
        """What each counts in `settings.unit`; integers, so that sums are the same on
        any machine."""
        if settings.weights_of == "documents":
            return (self.start == 0).astype(np.int64)
        if settings.weights_of == "rows":
            return np.maximum(
                self.tokens * max(1, settings.max_images),
                self.images * settings.sequence_length,
            )
        return self.tokens


class SourceStreams:
    """The streams of all sources, in an order that depends on the seed alone."""

    def __init__(self, sources: Mapping[str, SourceLengths], seed: int) -> None:
        self.names = list(sources)
        self.sources = list(sources.values())
        self.seed = seed

    def draw(
        self,
        drawn: Mapping[str, int],
        deficit: Mapping[str, float],
        settings: WindowSettings,
        *,
        max_tokens: int,
        max_images: int,
    ) -> SegmentTable:
        """Takes segments of the merged stream until they hold `max_tokens`, or the next
        has an image too many.

        `drawn` documents of each source were taken before; `deficit` is how far each is
        behind its share.
        """
        # By this time the sources together give `max_tokens` or more if weights count
        # tokens; otherwise it is a first guess.
        horizon = (
            max_tokens * settings.amount_per_row / settings.sequence_length
            - sum(deficit[name] for name in settings.weights)
        )
        while True:
            merged = self._merge(drawn, deficit, settings, horizon)
            tokens_before = np.cumsum(merged.tokens) - merged.tokens
            until_tokens = np.searchsorted(tokens_before, max_tokens)
            until_images = np.searchsorted(
                np.cumsum(merged.images), max_images, side="right"
            )
            count = min(until_tokens, until_images)
            if count < len(merged.source) or merged.tokens.sum() >= max_tokens:
                break
            horizon = 2 * max(1, horizon)
        # all segments of a document are taken together
        while count < len(merged.source) and merged.start[count] > 0:
            count += 1
        return merged.select(np.arange(count))

    def _merge(
        self,
        drawn: Mapping[str, int],
        deficit: Mapping[str, float],
        settings: WindowSettings,
        horizon: float,
    ) -> SegmentTable:
        """The merged stream up to time `horizon`; the segments of a document stay
        together."""
        streams = []
        due = []
        # sorted: the order of documents due at the same time must not depend on the
        # order of sources in a recipe
        for name in sorted(settings.weights):
            weight = settings.weights[name]
            budget = weight * horizon + deficit[name]
            stream = self._read(name, drawn[name], settings, budget)
            amounts = stream.amounts(settings)
            first_segment = np.maximum.accumulate(
                np.where(stream.start == 0, np.arange(len(amounts)), 0)
            )
            given_before = (np.cumsum(amounts) - amounts)[first_segment]
            streams.append(stream)
            due.append((given_before - deficit[name]) / weight)
        time = np.concatenate(due)
        order = np.argsort(time, kind="stable")
        return SegmentTable.concatenate(streams).select(
            order[time[order] < horizon]
        )

    def _read(
        self, name: str, position: int, settings: WindowSettings, budget: float
    ) -> SegmentTable:
        """The documents of a source from `position` on that fit a row, whole or cut,
        until they amount to `budget`."""
        s = self.names.index(name)
        source = self.sources[s]
        size = source.num_documents
        misfits = 0
        tables = []
        while budget > 0:
            epoch, first = divmod(position, size)
            count = min(CHUNK, size - first)
            ids = permute(
                np.arange(first, first + count),
                size,
                f"{self.seed}/{name}/{epoch}",
            )
            zeros = np.zeros_like(ids)
            positions = np.arange(position, position + count)
            documents = SegmentTable(
                zeros + s,
                positions,
                ids,
                zeros,
                *source.lengths(ids),
            )
            fitting = _fit_rows(documents, source, settings)
            misfits = 0 if len(fitting.source) else misfits + count
            # two epochs of misfits hold one whole epoch
            if misfits >= min(2 * size, MAX_CONSECUTIVE_MISFITS):
                raise ConfigError(
                    f"source {name!r}: none of {min(size, misfits)} documents fits a"
                    f" row of {settings.sequence_length} tokens and"
                    f" {settings.max_images} images"
                )
            tables.append(fitting)
            budget -= int(fitting.amounts(settings).sum())
            position += count
        return SegmentTable.concatenate(tables)


def _fit_rows(
    documents: SegmentTable, source: SourceLengths, settings: WindowSettings
) -> SegmentTable:
    """The documents, with those that fit no row cut into segments that do, or left out
    where that is impossible."""
    sequence_length = settings.sequence_length
    max_images = settings.max_images
    misfit = never_fits(
        documents.stop, documents.images, sequence_length, max_images
    )
    if not misfit.any():
        return documents
    segments = [
        split_document(
            num_tokens,
            source.image_spans(document),
            sequence_length=sequence_length,
            max_images=max_images,
        )
        if max_images
        else []
        for document, num_tokens in zip(
            documents.document[misfit].tolist(),
            documents.stop[misfit].tolist(),
            strict=True,
        )
    ]
    num_segments = np.ones(len(misfit), dtype=np.int64)
    num_segments[misfit] = [len(of_one) for of_one in segments]
    fitting = documents.select(np.repeat(np.arange(len(misfit)), num_segments))
    flat = [segment for of_one in segments for segment in of_one]
    start, stop, images = np.array(flat, dtype=np.int64).reshape(-1, 3).T
    replaced = np.repeat(misfit, num_segments)
    fitting.start[replaced] = start
    fitting.stop[replaced] = stop
    fitting.images[replaced] = images
    return fitting
