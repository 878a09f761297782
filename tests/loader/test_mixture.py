"""The mixture on sources of synthetic lengths: shares, epochs, resuming."""

import json
import tracemalloc
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1.config import ConfigError
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import DocumentSegment, MixtureState
from mm1.loader.permutation import permute

SEQUENCE_LENGTH = 512
MAX_IMAGES = 4


@dataclass
class Fixed:
    """Documents of given lengths and image counts."""

    num_tokens: np.ndarray
    num_images: np.ndarray

    @property
    def num_documents(self) -> int:
        return len(self.num_tokens)

    def lengths(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.num_tokens[ids], self.num_images[ids]

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        """A single image, which cannot be cut."""
        return [
            (0, int(self.num_tokens[document]), int(self.num_images[document]))
        ]


@dataclass
class TwoBillion:
    """Two billion documents whose lengths are computed, not stored."""

    shortest: int = 50
    num_documents = 2_000_000_000

    def lengths(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.shortest + ids % 50, np.ones_like(ids)

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        raise AssertionError("every document fits a row")


def texts(*lengths: int) -> Fixed:
    return Fixed(
        np.array(lengths, dtype=np.int64),
        np.zeros(len(lengths), dtype=np.int64),
    )


def mixed_sources(seed: int = 0, n: int = 400) -> dict[str, Fixed]:
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 4, n)
    pages = Fixed(images * 36 + rng.integers(20, 200, n), images)
    captions = Fixed(36 + rng.integers(3, 30, n), np.ones(n, dtype=np.int64))
    return {
        "pages": pages,
        "captions": captions,
        "text": texts(*rng.integers(5, 900, n).tolist()),
    }


def mixture_of(
    sources, weights, *, rows: int = 24, seed: int = 0, **caps
) -> Mixture:
    caps = {"sequence_length": SEQUENCE_LENGTH, "max_images": MAX_IMAGES} | caps
    return Mixture(
        sources,
        dict(zip(sources, weights, strict=True)),
        packing_window=rows,
        seed=seed,
        **caps,
    )


def windows(
    mixture: Mixture, count: int, state: MixtureState | None = None
) -> list:
    state = state or mixture.start()
    planned = []
    for _ in range(count):
        planned.append(mixture.window(state))
        state = planned[-1].after
    return planned


def through_json(state: MixtureState) -> MixtureState:
    return MixtureState.from_json(
        json.loads(json.dumps(state.to_json(), sort_keys=True))
    )


def token_shares(mixture: Mixture, planned: list) -> np.ndarray:
    tokens = np.zeros(len(mixture.names))
    for s in (s for window in planned for row in window.rows for s in row):
        tokens[s.source] += s.stop - s.start
    return tokens / tokens.sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 5))
def test_a_permutation_is_a_bijection(size, key) -> None:
    assert sorted(
        permute(np.arange(size), size, f"key {key}").tolist()
    ) == list(range(size))


def test_permutations_depend_on_the_key_and_look_random() -> None:
    places = np.arange(10_000)
    a, b = (permute(places, len(places), key) for key in ("a", "b"))
    assert (a == b).sum() < 10  # one fixed point is expected
    for order in (a, b):
        assert abs(np.corrcoef(places, order)[0, 1]) < 0.05
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05


def test_a_permutation_never_changes() -> None:
    """Any change would make every resumed run read other documents."""
    assert permute(np.arange(8), 8, "0/captions/0").tolist() == [
        6,
        0,
        1,
        2,
        7,
        5,
        3,
        4,
    ]
    assert permute(
        np.array([0, 1, 10**9]), 2 * 10**9, "0/captions/0"
    ).tolist() == [
        808552918,
        204991496,
        1324973601,
    ]


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 10)] * 3), st.integers(0, 100))
def test_shares_are_exact_at_every_window(parts, seed) -> None:
    """Each source is within its longest document of its share, packed and carried
    tokens together."""
    mixture = mixture_of(
        mixed_sources(seed), np.array(parts) / sum(parts), rows=8
    )
    for window in windows(mixture, 4):
        assert max(map(abs, window.after.deficit.values())) <= 900
        assert abs(sum(window.after.deficit.values())) < 1e-6


@pytest.mark.parametrize("weights", [(0.45, 0.45, 0.10), (0.2, 0.3, 0.5)])
def test_shares_of_tokens_are_exact(weights) -> None:
    mixture = mixture_of(mixed_sources(), weights, rows=128, max_images=8)
    shares = token_shares(mixture, windows(mixture, 6))
    assert np.abs(shares - weights).max() < 0.005


def test_rows_are_full() -> None:
    mixture = mixture_of(
        mixed_sources(), (0.4, 0.3, 0.3), rows=128, max_images=8
    )
    rows = [row for window in windows(mixture, 4) for row in window.rows]
    assert (
        sum(p.stop - p.start for row in rows for p in row)
        >= 0.99 * len(rows) * SEQUENCE_LENGTH
    )


def test_shares_hold_and_nothing_accumulates_where_images_are_the_limit() -> (
    None
):
    mixture = mixture_of(
        mixed_sources(), (0.1, 0.8, 0.1), rows=128, max_images=4
    )
    planned = windows(mixture, 6)
    assert np.abs(token_shares(mixture, planned) - (0.1, 0.8, 0.1)).max() < 0.01
    assert len(planned[-1].after.carried) < 128
    for row in (row for window in planned for row in window.rows):
        assert (
            sum(
                mixture.streams.sources[p.source].num_images[p.document]
                for p in row
            )
            <= 4
        )


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(30, 90))
def test_each_document_comes_exactly_once_per_epoch(seed, n) -> None:
    sources = mixed_sources(seed, n)
    mixture = mixture_of(sources, (0.4, 0.3, 0.3), rows=8, seed=seed)
    # tokens seen of each document, carried ones included
    seen: dict[int, Counter] = {s: Counter() for s in range(3)}
    state = mixture.start()
    for window in windows(mixture, 12):
        state = window.after
        for p in (p for row in window.rows for p in row):
            seen[p.source][p.document] += p.stop - p.start
    for name, document, start, stop, _ in state.carried:
        seen[mixture.names.index(name)][document] += stop - start
    for s, name in enumerate(mixture.names):
        epochs, rest = divmod(state.drawn[name], n)
        times = np.array(
            [seen[s][d] / sources[name].num_tokens[d] for d in range(n)]
        )
        assert set(times.tolist()) <= {epochs, epochs + 1}
        assert (times == epochs + 1).sum() == rest


def test_epochs_have_different_orders() -> None:
    mixture = mixture_of({"text": texts(*[100] * 40)}, (1.0,), rows=8)
    orders = [
        permute(np.arange(40), 40, f"{mixture.seed}/text/{epoch}").tolist()
        for epoch in (0, 1)
    ]
    assert orders[0] != orders[1]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 7))
def test_resuming_from_any_state_continues_identically(
    seed, interrupted
) -> None:
    whole = windows(
        mixture_of(mixed_sources(seed, 80), (0.4, 0.3, 0.3), rows=8, seed=seed),
        8,
    )
    state = through_json(whole[interrupted].after)
    assert state == whole[interrupted].after
    resumed = windows(
        mixture_of(mixed_sources(seed, 80), (0.4, 0.3, 0.3), rows=8, seed=seed),
        7 - interrupted,
        state,
    )
    assert resumed == whole[interrupted + 1 :]


def test_the_order_of_a_source_does_not_depend_on_the_others() -> None:
    """Adding a source must not reshuffle the others."""
    sources = mixed_sources()
    alone = mixture_of({"text": sources["text"]}, (1.0,))
    together = mixture_of(sources, (0.3, 0.3, 0.4))
    orders = []
    for mixture in (alone, together):
        s = mixture.names.index("text")
        orders.append(
            {
                p.document
                for w in windows(mixture, 2)
                for row in w.rows
                for p in row
                if p.source == s
            }
        )
    assert orders[1] < orders[0]


def test_documents_that_fit_no_row_are_skipped_and_counted() -> None:
    sources = mixed_sources(n=20)
    sources["captions"].num_images[:7] = MAX_IMAGES + 1
    sources["pages"].num_tokens[:3] = SEQUENCE_LENGTH + 1
    mixture = mixture_of(sources, (0.4, 0.4, 0.2), rows=48)
    planned = windows(mixture, 6)
    state = planned[-1].after
    packed = {
        (p.source, p.document) for w in planned for row in w.rows for p in row
    }
    assert not packed & {(1, d) for d in range(7)} | packed & {
        (0, d) for d in range(3)
    }
    for name, bad in {"pages": 3, "captions": 7, "text": 0}.items():
        epochs = state.drawn[name] // 20
        assert epochs >= 1
        assert bad * epochs <= state.skipped[name] <= bad * (epochs + 1)


def test_a_source_of_weight_0_is_not_read() -> None:
    sources = mixed_sources() | {"unused": texts()}
    planned = windows(mixture_of(sources, (0.5, 0.3, 0.2, 0.0)), 3)
    assert planned[-1].after.drawn["unused"] == 0
    assert all(p.source != 3 for w in planned for row in w.rows for p in row)


def test_a_text_longer_than_a_window_is_read_to_its_end() -> None:
    mixture = mixture_of({"book": texts(20 * SEQUENCE_LENGTH)}, (1.0,), rows=4)
    planned = windows(mixture, 5)
    assert [len(w.after.carried) for w in planned] == [1, 1, 1, 1, 0]
    starts = [p.start for w in planned for row in w.rows for p in row]
    assert sorted(starts) == list(
        range(0, 20 * SEQUENCE_LENGTH, SEQUENCE_LENGTH)
    )


def test_two_billion_documents_take_no_memory() -> None:
    """Measured: 0.33 MB at the peak, for the arrays of a window; one bit per document
    would be 250 MB. The n-th document depends on the seed and n alone."""
    sources = {"captions": TwoBillion(), "pages": TwoBillion(30)}
    mixture = mixture_of(sources, (0.5, 0.5), max_images=16, rows=32)
    tracemalloc.start()
    planned = windows(mixture, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    documents = [
        p[:2] for window in planned for row in window.rows for p in row
    ]
    assert len(set(documents)) == len(documents)
    assert max(document for _, document in documents) > 1_500_000_000

    # Far into the second epoch, as if everything before had been read: the next
    # documents are known.
    done = {"captions": 2_000_000_000 + 12_345, "pages": 5}
    state = replace(
        planned[-1].after,
        drawn=done,
        carried=[],
        window=10**7,
        deficit=dict.fromkeys(done, 0.0),
    )
    after = mixture.window(state).after
    for s, name in enumerate(mixture.names):
        n = np.arange(done[name], after.drawn[name])
        expected = permute(
            n % 2_000_000_000,
            2_000_000_000,
            f"0/{name}/{n[0] // 2_000_000_000}",
        )
        drawn = {
            p.document
            for row in mixture.window(state).rows
            for p in row
            if p.source == s
        }
        assert drawn | {c[1] for c in after.carried if c[0] == name} == set(
            expected.tolist()
        )


@pytest.mark.parametrize(
    ("sources", "weights", "message"),
    [
        (
            {"a": texts(9)},
            {"b": 1.0},
            r"without a weight: \['a'\]; weights without a source: \['b'\]",
        ),
        ({"a": texts(9)}, {"a": 0.9}, r"sum to 1, not 0\.9"),
        (
            {"a": texts(9), "b": texts(9)},
            {"a": 1.5, "b": -0.5},
            r"must be 0 or more",
        ),
        (
            {"a": texts(9), "b": texts()},
            {"a": 0.5, "b": 0.5},
            r"source 'b' has no documents",
        ),
    ],
)
def test_contradictory_weights_are_refused(sources, weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(
            sources,
            weights,
            sequence_length=SEQUENCE_LENGTH,
            max_images=MAX_IMAGES,
            packing_window=8,
            seed=0,
        )


def test_a_source_without_any_fitting_document_is_named() -> None:
    huge = Fixed(np.full(30, SEQUENCE_LENGTH + 1), np.ones(30, dtype=np.int64))
    mixture = mixture_of({"text": texts(9, 20), "huge": huge}, (0.5, 0.5))
    with pytest.raises(
        ValueError,
        match=(
            "source 'huge': none of 30 documents fits a row of 512 tokens and 4 images"
        ),
    ):
        mixture.window(mixture.start())


def test_a_rare_fitting_document_is_found_in_any_epoch() -> None:
    mixture = mixture_of(
        {
            "rare": Fixed(
                np.array([100, *[9999] * 20]), np.ones(21, dtype=np.int64)
            )
        },
        (1.0,),
        rows=2,
    )
    planned = windows(mixture, 3)
    assert {p.document for w in planned for row in w.rows for p in row} == {0}


def test_a_state_with_an_unknown_source_is_refused() -> None:
    state = mixture_of({"a": texts(9)}, (1.0,)).start()
    with pytest.raises(
        ConfigError,
        match=r"the run has read from \['a'\], which the mixture of \['b'\] lacks",
    ):
        mixture_of({"b": texts(9)}, (1.0,)).window(state)


def test_rows_of_a_window_are_shuffled() -> None:
    """Otherwise the rows with the largest documents would come first in each window."""
    mixture = mixture_of(mixed_sources(), (0.4, 0.3, 0.3), rows=64)
    longest = [
        max(p.stop - p.start for p in row)
        for row in mixture.window(mixture.start()).rows
    ]
    halves = [np.mean(longest[:32]), np.mean(longest[32:])]
    assert abs(halves[0] - halves[1]) < 0.3 * np.mean(longest)


def test_rows_are_shuffled_otherwise_in_each_window() -> None:
    """Texts as long as a row are drawn by a known permutation and packed in order."""
    mixture = mixture_of({"text": texts(*[SEQUENCE_LENGTH] * 200)}, (1.0,))
    drawn = permute(np.arange(200), 200, "0/text/0").tolist()
    orders = [
        [drawn.index(row[0].document) - 24 * number for row in window.rows]
        for number, window in enumerate(windows(mixture, 3))
    ]
    assert [sorted(order) for order in orders] == [list(range(24))] * 3
    assert len(set(map(tuple, orders))) == 3


def test_what_was_left_over_comes_first() -> None:
    """A small page waits; without it the larger one would be placed."""
    page = Fixed(np.array([500] * 5), np.array([3] * 5))
    mixture = mixture_of({"pages": page}, (1.0,), rows=1)
    waiting = replace(mixture.start(), carried=[("pages", 7, 0, 20, 1)])
    window = mixture.window(waiting)
    assert window.rows == [(DocumentSegment(0, 7, 0, 20, 1),)]
    (left,) = window.after.carried
    assert left[2:] == (0, 500, 3)


def test_what_was_left_over_takes_tokens_and_images_of_the_window() -> None:
    page = Fixed(np.array([20] * 9), np.array([2] * 9))
    mixture = mixture_of({"pages": page}, (1.0,), rows=1)
    waiting = replace(mixture.start(), carried=[("pages", 7, 0, 20, 3)])
    after = mixture.window(waiting).after
    assert (after.drawn, after.carried) == ({"pages": 0}, [])
    text = mixture_of({"text": texts(*[100] * 9)}, (1.0,), rows=1)
    waiting = replace(text.start(), carried=[("text", 7, 0, 500, 0)])
    assert text.window(waiting).after.drawn == {"text": 1}


def test_a_cut_leaves_at_least_a_sixty_fourth_of_a_row() -> None:
    """Of 515 tokens in rows of 512: 8 go into the next row, not 3."""
    mixture = mixture_of({"text": texts(*[515] * 50)}, (1.0,), rows=8)
    segments = [
        segment
        for window in windows(mixture, 4)
        for row in window.rows
        for segment in row
    ]
    assert min(s.stop - s.start for s in segments) == SEQUENCE_LENGTH // 64


class Albums(Fixed):
    """Documents of images of a hundred tokens each, without text."""

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        return [
            (100 * i, 100 * (i + 1), 1)
            for i in range(int(self.num_images[document]))
        ]


def test_a_cut_page_keeps_each_image_once_and_is_one_document() -> None:
    """Ten images are cut into 4, 4 and 2, and weigh as much as one short text."""
    albums = Albums(np.array([1000] * 30), np.array([10] * 30))
    sources = {"albums": albums, "text": texts(*[50] * 300)}
    mixture = mixture_of(sources, (0.5, 0.5), weights_of="documents", rows=40)
    window = mixture.window(mixture.start())
    assert abs(window.after.drawn["albums"] - window.after.drawn["text"]) <= 1
    segments = [s for row in window.rows for s in row if s.source == 0]
    assert {tuple(s[2:]) for s in segments} == {
        (0, 400, 4),
        (400, 800, 4),
        (800, 1000, 2),
    }
