"""Shares stay exact, and each document comes once, when weights, their unit, sources
or rows change."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from test_mixture import (
    MAX_IMAGES,
    SEQUENCE_LENGTH,
    Fixed,
    mixed_sources,
    texts,
    through_json,
    windows,
)

from mm1.config import ConfigError
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import MixtureState, Row
from mm1.loader.permutation import permute

LONGEST = {"tokens": 900, "documents": 1, "rows": 1.8}
"""What one document of `mixed_sources` counts at most: 900 of 512 tokens, 1.8 rows."""


def mixture_of(
    sources: dict[str, Any], *weights: float, **options: Any
) -> Mixture:
    limits: dict[str, Any] = {
        "sequence_length": SEQUENCE_LENGTH,
        "max_images": MAX_IMAGES,
        "packing_window": 24,
        "seed": 0,
    }
    return Mixture(
        sources, dict(zip(sources, weights, strict=True)), **limits | options
    )


def documents(name: str, size: int, first: int, last: int) -> np.ndarray:
    """Those at positions `first` to `last` of a source's endless stream."""
    epochs = range(last // size + 1)
    order = np.concatenate(
        [
            permute(np.arange(size), size, f"0/{name}/{epoch}")
            for epoch in epochs
        ]
    )
    return order[first:last]


def amounts(
    mixture: Mixture, unit: str, before: MixtureState, after: MixtureState
) -> np.ndarray:
    """What each source gave between two states, computed from the documents that must
    have come."""
    given = []
    for name, source in zip(
        mixture.names, mixture.streams.sources, strict=True
    ):
        ids = documents(
            name,
            source.num_documents,
            before.drawn.get(name, 0),
            after.drawn[name],
        )
        tokens, images = source.lengths(ids)
        rows = np.maximum(
            tokens / mixture.sequence_length, images / mixture.max_images
        )
        given.append(
            {"tokens": tokens, "documents": np.ones(len(ids)), "rows": rows}[
                unit
            ].sum()
        )
    return np.array(given)


def check_each_document_once_per_epoch(
    mixture: Mixture, rows: list[Row], state: MixtureState
) -> None:
    """To the token, in rows or carried."""
    seen: dict[str, Counter] = {name: Counter() for name in mixture.names}
    for e in (e for row in rows for e in row):
        seen[mixture.names[e.source]][e.document] += e.stop - e.start
    for name, document, start, stop, _ in state.carried:
        seen[name][document] += stop - start
    for name, source in zip(
        mixture.names, mixture.streams.sources, strict=True
    ):
        times = Counter(
            documents(name, source.num_documents, 0, state.drawn[name]).tolist()
        )
        assert seen[name] == {
            d: times[d] * int(source.lengths(np.array([d]))[0][0])
            for d in times
        }


@pytest.mark.parametrize("unit", ["documents", "rows"])
def test_weights_are_exact_in_their_unit(unit) -> None:
    mixture = mixture_of(mixed_sources(), 0.5, 0.3, 0.2, weights_of=unit)
    state = mixture.start()
    for _ in range(4):
        state = mixture.window(state).after
        given = amounts(mixture, unit, mixture.start(), state)
        assert (
            np.abs(given - given.sum() * np.array([0.5, 0.3, 0.2])).max()
            <= LONGEST[unit] + 1e-9
        )


def test_windows_end_where_the_schedule_changes_weights_and_shares_stay_exact() -> (
    None
):
    later = {30: (0.2, 0.2, 0.6), 61: (0.0, 0.5, 0.5)}
    sources = mixed_sources()
    mixture = mixture_of(
        sources,
        0.4,
        0.4,
        0.2,
        schedule={
            row: dict(zip(sources, shares, strict=True))
            for row, shares in later.items()
        },
    )
    states = [
        mixture.start(),
        *(window.after for window in windows(mixture, 6)),
    ]
    assert [state.rows for state in states] == [0, 24, 30, 54, 61, 85, 109]
    deficit = np.zeros(3)
    for row, (before, after) in zip(
        [0, 0, 30, 30, 61, 61], pairwise(states), strict=True
    ):
        given = amounts(mixture, "tokens", before, after)
        deficit += (
            given.sum() * np.array(later.get(row, (0.4, 0.4, 0.2))) - given
        )
        # over the whole history, not only since the last change
        assert np.abs(deficit).max() <= LONGEST["tokens"]
        assert np.allclose(deficit, list(after.deficit.values()))
    assert states[-1].drawn["pages"] == states[4].drawn["pages"]


@pytest.mark.parametrize("used", [0, 7, 24])
def test_other_weights_and_a_new_source_in_the_middle_of_a_window(used) -> None:
    """The rest of the window is planned again; the new source begins at its first
    document."""
    sources = mixed_sources(n=60)
    old = mixture_of(
        {name: sources[name] for name in ("pages", "text")}, 0.6, 0.4
    )
    rows = windows(old, 1)[0].rows
    begun = through_json(old.window(old.start()).after)
    settings = old.settings(begun)
    new = mixture_of(sources, 0.2, 0.5, 0.3, packing_window=10)
    rows += old.window(begun, settings).rows[:used]
    rows = [
        tuple(
            e._replace(source=new.names.index(old.names[e.source])) for e in row
        )
        for row in rows
    ]

    # with one more source the same window is planned
    again = new.window(begun, settings)
    assert [[e[1:] for e in row] for row in again.rows] == [
        [e[1:] for e in row] for row in old.window(begun).rows
    ]
    state = again.state_after(used, new.names)
    assert (state.rows, state.drawn["captions"]) == (24 + used, 0)
    for _ in range(5):
        window = new.window(state)
        rows = rows + window.rows
        state = through_json(window.after)
    check_each_document_once_per_epoch(new, rows, state)
    shares = amounts(new, "tokens", again.after, state)
    assert (
        np.abs(shares - shares.sum() * np.array([0.2, 0.5, 0.3])).max()
        <= 2 * LONGEST["tokens"]
    )


def test_another_unit_and_longer_rows_from_a_state_on() -> None:
    sources = mixed_sources(n=60)
    first = windows(mixture_of(sources, 0.4, 0.4, 0.2), 2)
    longer = mixture_of(
        sources,
        0.4,
        0.4,
        0.2,
        sequence_length=2 * SEQUENCE_LENGTH,
        max_images=8,
        weights_of="documents",
    )
    then = windows(longer, 3, first[-1].after)
    check_each_document_once_per_epoch(
        longer,
        [row for window in [*first, *then] for row in window.rows],
        then[-1].after,
    )
    given = amounts(longer, "documents", first[-1].after, then[-1].after)
    assert np.abs(given - given.sum() * np.array([0.4, 0.4, 0.2])).max() <= 1


def test_rows_may_not_shrink_below_carried_segments() -> None:
    mixture = mixture_of(
        {"pages": Fixed(np.array([300] * 9), np.array([3] * 9))},
        1.0,
        packing_window=2,
    )
    state = mixture.window(mixture.start()).state_after(1, mixture.names)
    smaller = mixture_of(
        {"pages": mixture.streams.sources[0]}, 1.0, max_images=2
    )
    with pytest.raises(
        ConfigError,
        match=(
            r"source 'pages': a segment of document \d with 300 tokens and 3 images"
            r" waits"
        ),
    ):
        smaller.window(state)


def test_weights_of_a_schedule_are_checked() -> None:
    with pytest.raises(
        ConfigError, match=r"from row 40 on: sources without a weight: \['a'\]"
    ):
        mixture_of({"a": texts(9)}, 1.0, schedule={40: {}})


@dataclass
class Albums(Fixed):
    """Images of 10 tokens each, evenly spaced in the text."""

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        tokens = int(self.num_tokens[document])
        images = int(self.num_images[document])
        ends = np.linspace(0, tokens, images + 1).astype(int)[1:].tolist()
        return [(end - 10, end, 1) for end in ends]


def test_pages_that_fit_no_row_are_cut_and_not_skipped() -> None:
    """Documents of up to 40 images for rows of 4; those with more than 28 do not even
    fit a window."""
    rng = np.random.default_rng(0)
    images = rng.integers(1, 41, 50)
    albums = Albums(images * 10 + rng.integers(20, 900, 50), images)
    mixture = mixture_of(
        {"albums": albums, "text": texts(*rng.integers(5, 900, 50).tolist())},
        0.7,
        0.3,
    )
    mixture.packing_window = 7
    planned = windows(mixture, 30)
    for row in (row for window in planned for row in window.rows):
        assert sum(e.images for e in row) <= MAX_IMAGES
        assert sum(e.stop - e.start for e in row) <= SEQUENCE_LENGTH
    check_each_document_once_per_epoch(
        mixture,
        [row for window in planned for row in window.rows],
        planned[-1].after,
    )
    assert planned[-1].after.skipped == {"albums": 0, "text": 0}
    seen = Counter()
    for e in (
        e
        for window in planned
        for row in window.rows
        for e in row
        if e.source == 0
    ):
        seen[e.document] += e.images
    for name, document, *_, images_carried in planned[-1].after.carried:
        seen[document] += images_carried if name == "albums" else 0
    assert all(seen[d] % images[d] == 0 for d in seen)
    assert (
        max(map(abs, planned[-1].after.deficit.values()))
        <= albums.num_tokens.max()
    )
