"""Weighted mixture of sources, exact in what it weighs; what comes next depends on the
seed and a small state alone.

Each source is an endless stream: its n-th document is a stateless permutation of (seed,
source, epoch, place in the epoch). Within an epoch each document comes exactly once,
and 2 billion documents need no more memory than two.

The streams are merged by their own time: a document is due at (what its source gave
before it) / (its source's weight), in tokens, documents or rows. So every source is
within one document of its share anywhere in the merged stream, and not only on average.
What a source is behind or ahead is kept when weights change.

    weight .75   |a a a a|b b|c c c c c|d d d|e e ...     merged: a A b c d B e ...
    weight .25   |A A A A|B B B B ...

A window takes the next documents of the merged stream and packs them, with what earlier
windows left over, into a fixed number of rows. It stops taking where tokens or images
are enough for its rows. Where images bind (a mixture with more images than its rows may
hold), rows end in padding: to fill them would take more text than the weights allow,
and the weights win.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from mm1.config import ConfigError
from mm1.loader.mixture_state import Excerpt, MixtureState, Terms, Unit, Waiting, Window
from mm1.loader.packing import never_fits, plan
from mm1.loader.permutation import permute

CHUNK = 1024  # documents whose lengths are looked up at a time
# pieces of a cut text are 1/64 of a row or more (64 of 4,096 tokens); 64 of 512 would
# waste 4% of a row
PIECES = 64
# a larger source is given up when none of so many documents in succession fits a row
HOPELESS = 1_000_000


@runtime_checkable
class Lengths(Protocol):
    """What the mixture must know of a source: sizes of its documents, numbered 0 to
    num_documents - 1."""

    @property
    def num_documents(self) -> int: ...

    def tokens(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Rendered length of each document in tokens, image tokens included."""
        ...

    def images(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Number of images of each document as the encoder sees them, sub-images
        included."""
        ...

    def pieces(
        self, document: int, *, sequence_length: int, max_images: int
    ) -> list[tuple[int, int, int]]:
        """(start, stop, images) of the pieces into which a document with pictures that
        fits no row can be cut."""
        ...


class _Documents(NamedTuple):
    """Parallel arrays over documents and pieces. `place` is a document's number in its
    source's endless stream."""

    source: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    document: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]

    @staticmethod
    def concatenate(parts: "list[_Documents]") -> "_Documents":
        none = _Documents(*[np.zeros(0, dtype=np.int64)] * 6)
        return _Documents(
            *(np.concatenate(columns) for columns in zip(none, *parts, strict=True))
        )

    def pick(self, index: Int[np.ndarray, " m"]) -> "_Documents":
        return _Documents(*(column[index] for column in self))

    @property
    def tokens(self) -> Int[np.ndarray, " n"]:
        return self.stop - self.start

    def amounts(self, terms: Terms) -> Int[np.ndarray, " n"]:
        """What each counts for, in `terms.unit`; whole numbers, so that sums are the
        same on every machine."""
        if terms.weights_of == "documents":
            return (self.start == 0).astype(np.int64)
        if terms.weights_of == "rows":
            return np.maximum(
                self.tokens * max(1, terms.max_images),
                self.images * terms.sequence_length,
            )
        return self.tokens


class Mixture:
    """Deals windows of packed rows; the same on every rank.

    `weights` are shares of `weights_of` (of what is drawn: padding not counted) and sum
    to 1; a weight of 0 draws nothing. `schedule` gives other weights from a row on,
    counted over all windows: a window ends before it.
    """

    def __init__(
        self,
        sources: Mapping[str, Lengths],
        weights: Mapping[str, float],
        *,
        sequence_length: int,
        max_images: int,
        packing_window: int,
        seed: int,
        weights_of: Unit = "tokens",
        schedule: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        self.schedule = {0: weights} | dict(schedule or {})
        for row, shares in self.schedule.items():
            _check(sources, shares, row)
        self.names = list(sources)
        self.sources = list(sources.values())
        self.sequence_length = sequence_length
        self.max_images = max_images
        self.packing_window = packing_window
        self.seed = seed
        self.weights_of: Unit = weights_of

    def start(self) -> MixtureState:
        """The state before the first window."""
        nothing = dict.fromkeys(self.names, 0)
        debt = dict.fromkeys(self.names, 0.0)
        return MixtureState(
            window=0,
            rows=0,
            drawn=nothing,
            skipped=dict(nothing),
            debt=debt,
            unit=self._terms(0).unit,
            carried=[],
        )

    def terms(self, state: MixtureState) -> Terms:
        """Those of the window that begins at this state."""
        return self._terms(state.rows)

    def _terms(self, row: int) -> Terms:
        weights = self.schedule[max(start for start in self.schedule if start <= row)]
        until_next = [start - row for start in self.schedule if start > row]
        return Terms(
            weights={
                name: weight / sum(weights.values())
                for name, weight in weights.items()
                if weight > 0
            },
            weights_of=self.weights_of,
            num_rows=min([self.packing_window, *until_next]),
            sequence_length=self.sequence_length,
            max_images=self.max_images,
        )

    def window(self, state: MixtureState, terms: Terms | None = None) -> Window:
        """Takes the next documents, plans their rows and shuffles the rows.

        `terms` are this mixture's at that state, unless a window is planned again that
        was begun under others.

        Raises:
            ConfigError: the state has a source that the mixture lacks, or waiting
                documents that fit no row of it.
        """
        state, terms = self._adopted(state), terms or self.terms(state)
        waiting = self._waiting(state, terms)
        fresh = self._draw(
            state,
            terms,
            max_tokens=terms.num_rows * terms.sequence_length
            - int(waiting.tokens.sum()),
            max_images=terms.num_rows * terms.max_images - int(waiting.images.sum()),
        )
        pool = _Documents.concatenate([waiting, fresh])
        packed = plan(
            pool.stop,
            pool.images,
            sequence_length=terms.sequence_length,
            max_images=terms.max_images,
            num_rows=terms.num_rows,
            min_piece=max(1, terms.sequence_length // PIECES),
            starts=pool.start,
            num_waiting=len(waiting.source),
        )
        source = pool.source.tolist()
        document = pool.document.tolist()
        images = pool.images.tolist()
        order = permute(
            np.arange(terms.num_rows),
            terms.num_rows,
            f"{self.seed}/rows/{state.window}",
        ).tolist()
        rows = [
            tuple(
                Excerpt(source[d], document[d], a, b, images[d])
                for d, a, b in packed.rows[r]
            )
            for r in order
        ]
        carried = [
            (self.names[source[d]], document[d], a, b, images[d])
            for d, a, b in packed.left_over
        ]
        return Window(state.window, rows, self._after(state, terms, fresh, carried))

    def _adopted(self, state: MixtureState) -> MixtureState:
        """The state, with sources that were added since; they begin at their first
        document."""
        if lost := sorted(set(state.drawn) - set(self.names)):
            raise ConfigError(
                f"the run has read from {lost}, which the mixture of"
                f" {sorted(self.names)} lacks; to stop reading a source keep it and"
                " give it the weight 0"
            )
        columns = {
            name: getattr(self.start(), name) | getattr(state, name)
            for name in ("drawn", "skipped", "debt")
        }
        return replace(state, **columns)

    def _waiting(self, state: MixtureState, terms: Terms) -> _Documents:
        """What earlier windows left over."""
        pieces = [
            (self.names.index(name), -1, d, a, b, images)
            for name, d, a, b, images in state.carried
        ]
        waiting = _Documents(*np.array(pieces, dtype=np.int64).reshape(-1, 6).T)
        misfits = np.flatnonzero(
            never_fits(
                waiting.tokens, waiting.images, terms.sequence_length, terms.max_images
            )
        )
        if len(misfits):
            i = misfits[0]
            raise ConfigError(
                f"source {self.names[waiting.source[i]]!r}: a piece of document"
                f" {waiting.document[i]} with {waiting.tokens[i]} tokens and"
                f" {waiting.images[i]} images waits for a row, but rows now hold"
                f" {terms.sequence_length} tokens and {terms.max_images} images; a"
                " run's rows may grow, not shrink"
            )
        return waiting

    def _draw(
        self, state: MixtureState, terms: Terms, *, max_tokens: int, max_images: int
    ) -> _Documents:
        """Takes documents of the merged stream until they hold `max_tokens`, or the
        next has an image too many."""
        debt = self._debt(state, terms)
        # By this time the sources together give `max_tokens` or more if it is counted
        # in tokens; else it is a guess.
        horizon = max_tokens * terms.amount_of_a_row / terms.sequence_length - sum(
            debt[name] for name in terms.weights
        )
        while True:
            merged = self._merged(state, terms, debt, horizon)
            until_tokens = np.searchsorted(
                np.cumsum(merged.tokens) - merged.tokens, max_tokens
            )
            until_images = np.searchsorted(
                np.cumsum(merged.images), max_images, side="right"
            )
            count = min(until_tokens, until_images)
            if count < len(merged.source) or merged.tokens.sum() >= max_tokens:
                break
            horizon = 2 * max(1, horizon)
        while (
            count < len(merged.source) and merged.start[count] > 0
        ):  # all pieces of a document are taken at once
            count += 1
        return merged.pick(np.arange(count))

    def _merged(
        self,
        state: MixtureState,
        terms: Terms,
        debt: Mapping[str, float],
        horizon: float,
    ) -> _Documents:
        """The merged stream from the state on, as far as `horizon`; the pieces of a
        document stay together."""
        streams = []
        due = []
        for name in sorted(
            terms.weights
        ):  # of documents that are due together the order must not depend on the recipe
            weight = terms.weights[name]
            stream = self._take(
                name, state.drawn[name], terms, budget=weight * horizon + debt[name]
            )
            amounts = stream.amounts(terms)
            whole = np.maximum.accumulate(
                np.where(stream.start == 0, np.arange(len(amounts)), 0)
            )
            streams.append(stream)
            due.append(((np.cumsum(amounts) - amounts)[whole] - debt[name]) / weight)
        time = np.concatenate(due)
        order = np.argsort(time, kind="stable")
        return _Documents.concatenate(streams).pick(order[time[order] < horizon])

    def _take(self, name: str, place: int, terms: Terms, budget: float) -> _Documents:
        """The documents of a source from `place` on that fit a row, whole or cut, until
        they amount to `budget`."""
        s = self.names.index(name)
        source = self.sources[s]
        since_one_fitted = 0
        parts = []
        size = source.num_documents
        while budget > 0:
            epoch, first = divmod(place, size)
            count = min(CHUNK, size - first)
            ids = permute(
                np.arange(first, first + count), size, f"{self.seed}/{name}/{epoch}"
            )
            none = np.zeros_like(ids)
            places = np.arange(place, place + count)
            looked_at = _Documents(
                none + s, places, ids, none, source.tokens(ids), source.images(ids)
            )
            fitting = _cut(looked_at, source, terms)
            since_one_fitted = 0 if len(fitting.source) else since_one_fitted + count
            if since_one_fitted >= min(
                2 * size, HOPELESS
            ):  # twice its size holds a whole epoch
                raise ConfigError(
                    f"source {name!r}: none of {min(size, since_one_fitted)} documents"
                    f" fits a row of {terms.sequence_length} tokens and"
                    f" {terms.max_images} images"
                )
            parts.append(fitting)
            budget -= int(fitting.amounts(terms).sum())
            place += count
        return _Documents.concatenate(parts)

    def _after(
        self,
        state: MixtureState,
        terms: Terms,
        fresh: _Documents,
        carried: list[Waiting],
    ) -> MixtureState:
        """Moves each source on behind the last document taken from it, and brings the
        accounts up to date."""
        drawn = dict(state.drawn)
        skipped = dict(state.skipped)
        debt = self._debt(state, terms)
        amounts = fresh.amounts(terms)
        for s, name in enumerate(self.names):
            own = fresh.source == s
            debt[name] += terms.weights.get(name, 0.0) * int(amounts.sum()) - int(
                amounts[own].sum()
            )
            if own.any():
                drawn[name] = int(fresh.place[own][-1]) + 1
                skipped[name] += (
                    drawn[name] - state.drawn[name] - int((fresh.start[own] == 0).sum())
                )
        return MixtureState(
            window=state.window + 1,
            rows=state.rows + terms.num_rows,
            drawn=drawn,
            skipped=skipped,
            debt=debt,
            unit=terms.unit,
            carried=carried,
        )

    def _debt(self, state: MixtureState, terms: Terms) -> dict[str, float]:
        return (
            dict(state.debt)
            if state.unit == terms.unit
            else dict.fromkeys(self.names, 0.0)
        )


def _cut(documents: _Documents, source: Lengths, terms: Terms) -> _Documents:
    """The documents, those with pictures that fit no row in pieces that do, or left out
    where there are none."""
    misfit = never_fits(
        documents.stop, documents.images, terms.sequence_length, terms.max_images
    )
    if not misfit.any():
        return documents
    caps = {"sequence_length": terms.sequence_length, "max_images": terms.max_images}
    pieces = [
        source.pieces(document, **caps)
        for document in documents.document[misfit].tolist()
    ]
    counts = np.ones(len(misfit), dtype=np.int64)
    counts[misfit] = [len(of_one) for of_one in pieces]
    cut = documents.pick(np.repeat(np.arange(len(misfit)), counts))
    columns = (
        np.array([piece for of_one in pieces for piece in of_one], dtype=np.int64)
        .reshape(-1, 3)
        .T
    )
    for column, values in zip((cut.start, cut.stop, cut.images), columns, strict=True):
        column[np.repeat(misfit, counts)] = values
    return cut


def _check(
    sources: Mapping[str, Lengths], weights: Mapping[str, float], row: int
) -> None:
    when = f"from row {row:,} on: " if row else ""
    missing = sorted(set(sources) - set(weights))
    extra = sorted(set(weights) - set(sources))
    if missing or extra:
        raise ConfigError(
            f"{when}sources without a weight: {missing}; weights without a source:"
            f" {extra}"
        )
    if not (
        all(weight >= 0 for weight in weights.values())
        and abs(sum(weights.values()) - 1) <= 1e-6
    ):
        total = sum(weights.values())
        raise ConfigError(
            f"{when}weights must be 0 or more and sum to 1, not {total}:"
            f" {dict(weights)}"
        )
    for name, source in sources.items():
        if weights[name] > 0 and source.num_documents < 1:
            raise ConfigError(f"source {name!r} has no documents")
