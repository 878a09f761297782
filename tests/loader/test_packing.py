"""The plan is checked for what it promises on arbitrary lengths, and for how well it
fills rows on MM1-like ones."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mm1.loader.packing import Piece, Plan, cut, deal, never_fits, plan

SEQUENCE_LENGTH = 200
MAX_IMAGES = 4
MIN_PIECE = 16

document_sizes = st.one_of(
    st.tuples(
        st.integers(1, SEQUENCE_LENGTH), st.integers(1, MAX_IMAGES)
    ),  # with images
    st.tuples(
        st.integers(1, 3 * SEQUENCE_LENGTH), st.just(0)
    ),  # text, also longer than a row
)
pools = st.lists(document_sizes, max_size=40)
thorough = settings(max_examples=60, deadline=None)


def plan_of(pool: list[tuple[int, int]], **options) -> Plan:
    tokens, images = np.array(pool, dtype=np.int64).reshape(-1, 2).T
    return plan(
        tokens,
        images,
        sequence_length=SEQUENCE_LENGTH,
        max_images=MAX_IMAGES,
        min_piece=MIN_PIECE,
        **options,
    )


def pieces_by_document(planned: Plan) -> dict[int, list[Piece]]:
    found: dict[int, list[Piece]] = {}
    for piece in [
        *(piece for row in planned.rows for piece in row),
        *planned.left_over,
    ]:
        found.setdefault(piece.document, []).append(piece)
    return found


@thorough
@given(pools, st.none() | st.integers(0, 12))
def test_nothing_is_lost_or_repeated(pool, num_rows) -> None:
    planned = plan_of(pool, num_rows=num_rows)
    found = pieces_by_document(planned)
    assert sorted(found) == list(range(len(pool)))
    for document, pieces in found.items():
        ends = [0, *(stop for _, _, stop in sorted(pieces))]
        assert [start for _, start, _ in sorted(pieces)] == ends[:-1]
        assert ends[-1] == pool[document][0]
    assert num_rows is None or len(planned.rows) == num_rows


@thorough
@given(pools, st.none() | st.integers(0, 12))
def test_caps_hold_and_only_texts_are_cut(pool, num_rows) -> None:
    planned = plan_of(pool, num_rows=num_rows)
    for row in planned.rows:
        assert sum(stop - start for _, start, stop in row) <= SEQUENCE_LENGTH
        assert sum(pool[document][1] for document, _, _ in row) <= MAX_IMAGES
    for document, pieces in pieces_by_document(planned).items():
        if pool[document][1]:
            assert len(pieces) == 1
        if len(pieces) > 1:
            assert min(stop - start for _, start, stop in pieces) >= MIN_PIECE


@thorough
@given(pools, st.integers(1, 12))
def test_a_text_is_cut_only_where_a_row_ends(pool, num_rows) -> None:
    for row in plan_of(pool, num_rows=num_rows).rows:
        assert all(stop == pool[document][0] for document, _, stop in row[:-1])


@thorough
@given(pools)
def test_same_input_same_plan(pool) -> None:
    assert plan_of(pool) == plan_of(list(pool))


@thorough
@given(pools, st.integers(1, 6))
def test_offering_what_was_left_over_again_places_everything_once(
    pool, num_rows
) -> None:
    tokens, images = np.array(pool, dtype=np.int64).reshape(-1, 2).T
    waiting = [Piece(d, 0, int(n)) for d, n in enumerate(tokens)]
    covered = np.zeros_like(tokens)
    for _ in range(len(pool) * 4 + 1):
        if not waiting:
            break
        documents, starts, stops = (
            np.array(column) for column in zip(*waiting, strict=True)
        )
        caps = {
            "sequence_length": SEQUENCE_LENGTH,
            "max_images": MAX_IMAGES,
            "min_piece": MIN_PIECE,
        }
        planned = plan(
            stops,
            images[documents],
            starts=starts,
            num_rows=num_rows,
            num_waiting=len(waiting),
            **caps,
        )
        for piece in (piece for row in planned.rows for piece in row):
            covered[documents[piece.document]] += piece.stop - piece.start
        waiting = [
            Piece(int(documents[d]), start, stop)
            for d, start, stop in planned.left_over
        ]
    assert covered.tolist() == tokens.tolist()


def test_what_waited_goes_first() -> None:
    """One row: the small document that waited is taken before the large one that would
    otherwise win."""
    tokens = np.array([20, 190])
    images = np.array([1, 1])
    caps = {"sequence_length": SEQUENCE_LENGTH, "max_images": MAX_IMAGES, "num_rows": 1}
    assert plan(tokens, images, **caps).rows == [(Piece(1, 0, 190),)]
    assert plan(tokens, images, num_waiting=1, **caps).rows == [(Piece(0, 0, 20),)]


def test_the_rest_of_a_cut_text_is_continued() -> None:
    tokens = np.array([500])
    images = np.array([0])
    starts = np.array([350])
    planned = plan(
        tokens,
        images,
        sequence_length=100,
        max_images=0,
        min_piece=MIN_PIECE,
        starts=starts,
    )
    assert planned == Plan(
        rows=[(Piece(0, 350, 450),), (Piece(0, 450, 500),)], left_over=[]
    )


def test_a_cut_leaves_no_piece_that_is_too_short() -> None:
    """105 tokens into rows of 100: the first piece gives up 11 tokens so that the rest
    keeps 16."""
    planned = plan(
        np.array([105]), np.array([0]), sequence_length=100, max_images=0, min_piece=16
    )
    assert planned.rows == [(Piece(0, 0, 89),), (Piece(0, 89, 105),)]


def test_no_documents_no_rows() -> None:
    assert plan_of([]) == Plan(rows=[], left_over=[])


def test_what_never_fits() -> None:
    tokens = np.array([200, 201, 201, 10, 10, 0])
    images = np.array([1, 1, 0, 4, 5, 0])
    assert never_fits(tokens, images, SEQUENCE_LENGTH, MAX_IMAGES).tolist() == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    with pytest.raises(
        ValueError,
        match=(
            r"document 1 has 201 tokens and 1 images: it never fits a row of 200 tokens"
        ),
    ):
        plan(tokens, images, sequence_length=SEQUENCE_LENGTH, max_images=MAX_IMAGES)


@thorough
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, MAX_IMAGES)), max_size=12),
    st.integers(1, 300),
)
def test_pieces_of_a_long_page_fit_rows_and_no_picture_is_cut(parts, last_text) -> None:
    """Each part is a text of so many tokens and a picture of so many views, 10 tokens
    each."""
    pictures = []
    at = 0
    for text, views in parts:
        pictures.append((at + text, at + text + 10 * views, views))
        at += text + 10 * views
    pieces = cut(
        at + last_text, pictures, sequence_length=SEQUENCE_LENGTH, max_images=MAX_IMAGES
    )
    assert [start for start, _, _ in pieces] == [0, *(stop for _, stop, _ in pieces)][
        :-1
    ]
    assert pieces[-1][1] == at + last_text
    for start, stop, images in pieces:
        assert stop - start <= SEQUENCE_LENGTH
        assert images <= MAX_IMAGES
        assert images == sum(
            views for a, b, views in pictures if start <= a and b <= stop
        )
    assert sum(images for _, _, images in pieces) == sum(
        views for _, _, views in pictures
    )


def test_a_long_page_is_cut_at_row_size_or_before_a_picture() -> None:
    pictures = [(0, 40, 2), (40, 80, 2), (95, 115, 1), (500, 540, 2)]
    pieces = cut(560, pictures, sequence_length=200, max_images=4)
    assert pieces == [(0, 95, 4), (95, 295, 1), (295, 495, 0), (495, 560, 2)]
    assert (
        cut(560, [*pictures, (540, 550, 5)], sequence_length=200, max_images=4) == []
    )  # a picture that fits no row
    assert cut(560, [(0, 201, 1)], sequence_length=200, max_images=4) == []


def mm1_pool(
    shares: tuple[float, float, float], num_rows: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Interleaved, captions and text as in benchmarks/packing.py, `shares` of the
    tokens of rows of 4,096."""
    rng = np.random.default_rng(seed)
    n = num_rows * 30
    images = rng.geometric(1 / 2.3, n)
    interleaved = images * 144 + rng.lognormal(6.5, 0.9, n).astype(np.int64).clip(20)
    captions = 144 + rng.lognormal(3.0, 0.6, n).astype(np.int64).clip(3)
    text = rng.lognormal(6.4, 1.1, n).astype(np.int64).clip(10)
    keep = ~never_fits(interleaved, images, 4096, 16)
    kinds = [
        (interleaved[keep], images[keep]),
        (captions, np.ones_like(captions)),
        (text, np.zeros_like(text)),
    ]
    counts = [
        np.searchsorted(np.cumsum(k), s * num_rows * 4096)
        for (k, _), s in zip(kinds, shares, strict=True)
    ]
    tokens, images = zip(
        *[(t[:count], i[:count]) for (t, i), count in zip(kinds, counts, strict=True)],
        strict=True,
    )
    return np.concatenate(tokens), np.concatenate(images)


def test_mm1_rows_are_full_and_level() -> None:
    """45/45/10 by tokens, 256 rows. Measured over seeds 0 to 39: 98.3% to 99.9% filled,
    99.7% in the mean; images a row spread by 2.4 in the mean, by 2.84 at most (seed
    701: 3.06). Small windows hold 10% text only on the average.
    """
    filled = []
    spreads = []
    for seed in range(6):
        tokens, images = mm1_pool((0.45, 0.45, 0.10), 256, seed)
        planned = plan(
            tokens, images, sequence_length=4096, max_images=16, num_rows=256
        )
        filled.append(
            sum(stop - start for row in planned.rows for _, start, stop in row)
            / (256 * 4096)
        )
        spreads.append(
            np.std(
                [
                    sum(images[document] for document, _, _ in row)
                    for row in planned.rows
                ]
            )
        )
    assert np.mean(filled) >= 0.995
    assert np.mean(spreads) <= 2.6


@pytest.mark.parametrize(
    ("shares", "least"), [((1.0, 0.0, 0.0), 0.95), ((0.66, 0.34, 0.0), 0.95)]
)
def test_rows_without_texts_are_full_too(shares, least) -> None:
    """Measured: 98% for interleaved documents alone, 97% for two thirds interleaved,
    one third captions."""
    tokens, images = mm1_pool(shares, 256, seed=0)
    planned = plan(tokens, images, sequence_length=4096, max_images=16, num_rows=256)
    assert (
        sum(stop - start for row in planned.rows for _, start, stop in row)
        >= least * 256 * 4096
    )


def test_captions_alone_use_every_image_slot() -> None:
    tokens = np.full(16 * 32, 170)
    images = np.ones(16 * 32, dtype=np.int64)
    planned = plan(tokens, images, sequence_length=4096, max_images=16)
    assert [len(row) for row in planned.rows] == [16] * 32
    assert planned.left_over == []


@thorough
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.data())
def test_each_row_is_dealt_to_one_rank_and_hands_are_of_one_size(
    world_size, hands_of_a_rank, rows_of_a_hand, data
) -> None:
    num_hands = world_size * hands_of_a_rank
    images = data.draw(
        st.lists(
            st.integers(0, 16),
            min_size=num_hands * rows_of_a_hand,
            max_size=num_hands * rows_of_a_hand,
        )
    )
    dealt = [deal(images, num_hands, rank, world_size) for rank in range(world_size)]
    assert [len(hands) for hands in dealt] == [hands_of_a_rank] * world_size
    assert {len(hand) for hands in dealt for hand in hands} == {rows_of_a_hand}
    assert sorted(row for hands in dealt for hand in hands for row in hand) == list(
        range(len(images))
    )
    at_once = list(zip(*dealt, strict=True))
    if (
        rows_of_a_hand == 1
    ):  # no row computed earlier has fewer images than one computed later
        for now, then in pairwise(at_once):
            assert min(images[hand[0]] for hand in now) >= max(
                images[hand[0]] for hand in then
            )


def test_eight_ranks_hold_nearly_equal_numbers_of_images() -> None:
    """45/45/10, 256 rows a step, one at a time; the bar is 10%. Measured over seeds 0
    to 3: rows at once spread by 2.6% to 2.9% of the mean, whole steps by 0.2% to 1.6%.
    """
    at_once = []
    in_all = []
    for seed in range(2):
        tokens, images = mm1_pool((0.45, 0.45, 0.10), 256, seed)
        planned = plan(
            tokens, images, sequence_length=4096, max_images=16, num_rows=256
        )
        of_row = [
            sum(int(images[document]) for document, _, _ in row) for row in planned.rows
        ]
        hands = [deal(of_row, 256, rank, 8) for rank in range(8)]
        counts = np.array(
            [
                [sum(of_row[row] for row in hand) for hand in of_rank]
                for of_rank in hands
            ]
        )
        at_once.append((np.ptp(counts, axis=0) / counts.mean()).mean())
        in_all.append(np.ptp(counts.sum(1)) / counts.sum(1).mean())
    assert max(at_once) < 0.05
    assert max(in_all) < 0.03
