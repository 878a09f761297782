"""Weighted mixture of sources, exact in tokens; what comes next depends on the seed and a small state alone.

Each source is an endless stream: its n-th document is a stateless permutation of (seed, source, epoch, place in the
epoch). Within an epoch each document comes exactly once, and 2 billion documents need no more memory than two.

The streams are merged by token time: a document is due at (its source's tokens before it) / (its source's weight). So
every source is within one document of its share anywhere in the merged stream, and not only on average.

    weight .75   |a a a a|b b|c c c c c|d d d|e e ...     merged: a A b c d B e ...
    weight .25   |A A A A|B B B B ...

A window takes the next documents of the merged stream and packs them, with what earlier windows left over, into a fixed
number of rows. It stops taking where tokens or images are enough for its rows. Where images bind (a mixture with more
images than its rows may hold), rows end in padding: to fill them would take more text than the weights allow, and the
weights win.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from mm1.data.packing import never_fits, plan

CHUNK = 1024  # documents whose lengths are looked up at a time
PIECES = 64  # pieces of a cut text are 1/64 of a row or more (64 of 4,096 tokens); 64 of 512 would waste 4% of a row
HOPELESS = 1_000_000  # a larger source is given up when none of so many documents in succession fits a row
ROUNDS = 6  # of the Feistel network; four are known to suffice, two more because its halves are small


@runtime_checkable
class Lengths(Protocol):
    """What the mixture must know of a source: sizes of its documents, numbered 0 to num_documents - 1."""

    @property
    def num_documents(self) -> int: ...

    def tokens(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Rendered length of each document in tokens, image tokens included."""
        ...

    def images(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Number of images of each document as the encoder sees them, sub-images included."""
        ...


class Excerpt(NamedTuple):
    """Tokens `start` to `stop` (exclusive) of a rendered document; the source by its place in `Mixture.names`."""

    source: int
    document: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureState:
    """All that a run must remember of its data between windows. Sources are named, so that their order may change."""

    window: int
    """Number of the next window."""
    drawn: dict[str, int]
    """Documents taken from each source so far, skipped ones included; divided by its size: epochs."""
    skipped: dict[str, int]
    """Documents among them that fit no row, counted each time they came up."""
    debt: dict[str, float]
    """Tokens each source is behind its share (negative: ahead)."""
    carried: list[tuple[str, int, int, int]]
    """(source, document, start, stop) of what was taken and not yet placed in a row."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "MixtureState":
        carried: list[tuple[str, int, int, int]] = [tuple(piece) for piece in value["carried"]]
        return MixtureState(**{**value, "carried": carried})


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of one window in training order, and the state after it."""

    number: int
    rows: list[tuple[Excerpt, ...]]
    after: MixtureState


class _Documents(NamedTuple):
    """Parallel arrays over documents. `place` is the number of a document in its source's endless stream."""

    source: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    document: Int[np.ndarray, " n"]
    start: Int[np.ndarray, " n"]
    stop: Int[np.ndarray, " n"]
    images: Int[np.ndarray, " n"]

    @staticmethod
    def concatenate(parts: "list[_Documents]") -> "_Documents":
        none = _Documents(*[np.zeros(0, dtype=np.int64)] * 6)
        return _Documents(*(np.concatenate(columns) for columns in zip(none, *parts, strict=True)))

    def pick(self, index: Int[np.ndarray, " m"]) -> "_Documents":
        return _Documents(*(column[index] for column in self))


class Mixture:
    """Deals windows of `rows_per_window` packed rows; the same on every rank.

    `weights` are shares of tokens (drawn tokens, padding not counted) and sum to 1; a weight of 0 draws nothing.
    """

    def __init__(
        self,
        sources: Mapping[str, Lengths],
        weights: Mapping[str, float],
        *,
        row_length: int,
        max_images: int,
        rows_per_window: int,
        seed: int,
    ) -> None:
        _check(sources, weights)
        self.names = list(sources)
        self.sources = list(sources.values())
        self.weights = np.array([weights[name] for name in self.names]) / sum(weights.values())
        self.row_length, self.max_images = row_length, max_images
        self.rows_per_window, self.seed = rows_per_window, seed

    def start(self) -> MixtureState:
        """The state before the first window."""
        drawn, skipped = dict.fromkeys(self.names, 0), dict.fromkeys(self.names, 0)
        return MixtureState(window=0, drawn=drawn, skipped=skipped, debt=dict.fromkeys(self.names, 0.0), carried=[])

    def window(self, state: MixtureState) -> Window:
        """Takes the next documents, plans their rows and shuffles the rows."""
        waiting = self._waiting(state)
        fresh = self._draw(
            state,
            max_tokens=self.rows_per_window * self.row_length - int((waiting.stop - waiting.start).sum()),
            max_images=self.rows_per_window * self.max_images - int(waiting.images.sum()),
        )
        pool = _Documents.concatenate([waiting, fresh])
        packed = plan(
            pool.stop,
            pool.images,
            row_length=self.row_length,
            max_images=self.max_images,
            num_rows=self.rows_per_window,
            min_piece=max(1, self.row_length // PIECES),
            starts=pool.start,
            num_waiting=len(waiting.source),
        )
        source, document = pool.source.tolist(), pool.document.tolist()
        order = permute(np.arange(self.rows_per_window), self.rows_per_window, f"{self.seed}/rows/{state.window}")
        rows = [tuple(Excerpt(source[d], document[d], a, b) for d, a, b in packed.rows[r]) for r in order.tolist()]
        carried = [(self.names[source[d]], document[d], a, b) for d, a, b in packed.left_over]
        return Window(state.window, rows, self._after(state, fresh, carried))

    def _waiting(self, state: MixtureState) -> _Documents:
        """What earlier windows left over, with image counts looked up again."""
        if set(state.drawn) != set(self.names):
            raise ValueError(f"the state is of sources {sorted(state.drawn)}, the mixture of {sorted(self.names)}")
        pieces = [(self.names.index(name), -1, d, a, b) for name, d, a, b in state.carried]
        source, place, document, start, stop = np.array(pieces, dtype=np.int64).reshape(-1, 5).T
        images = np.zeros_like(source)
        for s in np.unique(source).tolist():
            images[source == s] = self.sources[s].images(document[source == s])
        return _Documents(source, place, document, start, stop, images)

    def _draw(self, state: MixtureState, *, max_tokens: int, max_images: int) -> _Documents:
        """Takes documents of the merged stream until they hold `max_tokens`, or the next has an image too many."""
        debt = np.array([state.debt[name] for name in self.names])
        horizon = max_tokens - debt.sum()  # by this token time all sources together have given max_tokens or more
        streams, due = [], [np.zeros(0)]
        for s in np.flatnonzero(self.weights).tolist():
            stream = self._take(s, state.drawn[self.names[s]], budget=self.weights[s] * horizon + debt[s])
            streams.append(stream)
            due.append((np.cumsum(stream.stop) - stream.stop - debt[s]) / self.weights[s])
        merged = _Documents.concatenate(streams).pick(np.argsort(np.concatenate(due), kind="stable"))
        until_tokens = np.searchsorted(np.cumsum(merged.stop) - merged.stop, max_tokens)
        until_images = np.searchsorted(np.cumsum(merged.images), max_images, side="right")
        return merged.pick(np.arange(min(until_tokens, until_images, len(merged.source))))

    def _take(self, s: int, place: int, budget: float) -> _Documents:
        """The documents of source `s` from `place` on that fit a row, until they hold `budget` tokens."""
        name, source = self.names[s], self.sources[s]
        size, since_one_fitted, parts = source.num_documents, 0, []
        while budget > 0:
            epoch, first = divmod(place, size)
            count = min(CHUNK, size - first)
            ids = permute(np.arange(first, first + count), size, f"{self.seed}/{name}/{epoch}")
            tokens, images = source.tokens(ids), source.images(ids)
            fit = np.flatnonzero(~never_fits(tokens, images, self.row_length, self.max_images))
            since_one_fitted = 0 if len(fit) else since_one_fitted + count
            if since_one_fitted >= min(2 * size, HOPELESS):  # twice its size: somewhere among them is a whole epoch
                raise ValueError(
                    f"source {name!r}: none of {min(size, since_one_fitted)} documents fits a row of "
                    f"{self.row_length} tokens and {self.max_images} images"
                )
            places = np.arange(place, place + count)
            looked_at = _Documents(np.full(count, s), places, ids, np.zeros_like(ids), tokens, images)
            parts.append(looked_at.pick(fit))
            budget -= int(tokens[fit].sum())
            place += count
        return _Documents.concatenate(parts)

    def _after(self, state: MixtureState, fresh: _Documents, carried: list[tuple[str, int, int, int]]) -> MixtureState:
        """Moves each source on behind the last document taken from it, and brings the accounts up to date."""
        drawn, skipped, debt = dict(state.drawn), dict(state.skipped), dict(state.debt)
        total = int(fresh.stop.sum())
        for s, name in enumerate(self.names):
            own = fresh.source == s
            debt[name] += float(self.weights[s] * total - fresh.stop[own].sum())
            if own.any():
                drawn[name] = int(fresh.place[own][-1]) + 1
                skipped[name] += drawn[name] - state.drawn[name] - int(own.sum())
        return MixtureState(window=state.window + 1, drawn=drawn, skipped=skipped, debt=debt, carried=carried)


def _check(sources: Mapping[str, Lengths], weights: Mapping[str, float]) -> None:
    missing, extra = sorted(set(sources) - set(weights)), sorted(set(weights) - set(sources))
    if missing or extra:
        raise ValueError(f"sources without a weight: {missing}; weights without a source: {extra}")
    if not (all(weight >= 0 for weight in weights.values()) and abs(sum(weights.values()) - 1) <= 1e-6):
        raise ValueError(f"weights must be 0 or more and sum to 1, not {sum(weights.values())}: {dict(weights)}")
    for name, source in sources.items():
        if weights[name] > 0 and source.num_documents < 1:
            raise ValueError(f"source {name!r} has no documents")


def permute(places: Int[np.ndarray, " n"], size: int, key: str) -> Int[np.ndarray, " n"]:
    """Where a permutation of 0 .. size - 1, chosen by `key`, takes each place; O(1) memory for any size.

    A Feistel network permutes the next power of 4; values outside are sent through it again until they fall inside
    (cycle walking; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Integer arithmetic alone, so that
    the order of data does not change with the version of numpy or the machine.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    round_keys = np.frombuffer(hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest(), dtype="<u8")
    values = _feistel(places.astype(np.uint64), half, round_keys)
    while len(outside := np.flatnonzero(values >= size)):
        values[outside] = _feistel(values[outside], half, round_keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, round_keys: np.ndarray) -> np.ndarray:
    """Permutes 0 .. 4^half - 1 (uint64): each round mixes one half of the bits with a hash of the other."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for round_key in round_keys:
        mixed = (right + round_key) * np.uint64(0xBF58476D1CE4E5B9)  # multipliers and shifts of SplitMix64
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & mask)
    return (left << half) | right
