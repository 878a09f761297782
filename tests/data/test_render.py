"""Tokenizing, rendering and collating a document."""

import pickle
from pathlib import Path

import pytest
import torch
from pictures import picture

from mm1.batch import IGNORE, NO_SOURCE
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageError, ImageProcessor
from mm1.data.render import Renderer, text_length
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.loader.collate import RenderedSegment, collate


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(
        ["a cat two dogs sit"],
        tmp_path_factory.mktemp("t") / "t.json",
        kind="word",
        vocab_size=50,
    )


@pytest.fixture(scope="module")
def renderer(tokenizer: Tokenizer) -> Renderer:
    return Renderer(tokenizer, ImageProcessor((4, 4)), tokens_per_image=2)


# --- the vocabulary


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    made = train_tokenizer(
        ["some words"] * 9, tmp_path / "tokenizer.json", vocab_size=300
    )
    ids = made.encode("an <image> and <end><pad>")
    assert not {made.image, made.end, made.pad} & set(ids)
    assert made.decode(ids) == "an <image> and <end><pad>"
    assert pickle.loads(pickle.dumps(made)).encode("an <image>") == made.encode(
        "an <image>"
    )


def test_byte_pairs_encode_any_text(tmp_path: Path) -> None:
    made = train_tokenizer(
        ["plain"], tmp_path / "tokenizer.json", vocab_size=300
    )
    assert (
        made.decode(made.encode("naïve 漢字 🦊\x00\n")) == "naïve 漢字 🦊\x00\n"
    )


def test_a_tokenizer_without_special_tokens_is_refused(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "tokenizer.json").write_text(
        tokenizer.text.replace("<image>", "<picture>")
    )
    with pytest.raises(ValueError, match="<image>"):
        Tokenizer.Config(path=str(tmp_path)).build()
    with pytest.raises(FileNotFoundError, match="mm1 tokenizer"):
        Tokenizer.Config(path=str(tmp_path / "none.json")).build()


# --- documents


def test_the_layout_of_a_document(
    renderer: Renderer, tokenizer: Tokenizer
) -> None:
    sequence = renderer(Document((picture(), Text("a cat"))))
    image = tokenizer.image
    a, cat = tokenizer.encode("a cat")
    assert sequence.tokens.tolist() == [image, image, a, cat, tokenizer.end]
    assert sequence.loss_mask.tolist() == [False, False, True, True, True]


def test_questions_are_not_targets_and_answers_have_their_own_end(
    renderer: Renderer, tokenizer: Tokenizer
) -> None:
    asked = Document((Text("two", loss=False), Text("dogs", end=True)))
    assert renderer(asked).loss_mask.tolist() == [False, True, True]
    assert renderer(asked).tokens.tolist()[-1] == tokenizer.end
    assert (
        len(renderer(Document((Text("two", loss=False),)), end=False).tokens)
        == 1
    )


def test_the_end_after_a_part_without_loss_is_no_target(
    renderer: Renderer, tokenizer: Tokenizer
) -> None:
    asked = renderer(Document((Text("sit"), Text("two", loss=False))))
    assert asked.tokens.tolist()[-1] == tokenizer.end
    assert asked.loss_mask.tolist() == [True, False, False]
    shown = renderer(Document((Text("two", loss=False), picture())))
    assert shown.loss_mask.tolist() == [False, False, False, True]


def test_a_segment_shows_the_images_of_its_tokens_alone(
    renderer: Renderer,
) -> None:
    """Tokens 0 1 are the first image, 2 a word, 3 4 and 5 6 two images, 7 the end."""
    page = renderer(Document((picture(), Text("sit"), picture(), picture())))
    numbers = {
        (start, stop): [n for n, *_ in page.images_between(start, stop)]
        for start, stop in [(0, 8), (0, 3), (2, 5), (3, 8), (5, 7), (2, 3)]
    }
    assert numbers == {
        (0, 8): [1, 2, 3],
        (0, 3): [1],
        (2, 5): [2],
        (3, 8): [2, 3],
        (5, 7): [3],
        (2, 3): [],
    }


@pytest.mark.parametrize(
    "document",
    [
        Document((Text("a cat"),)),
        Document((picture(), Text("a cat"), Text("two", end=True))),
        Document((Text("sit", end=True), picture())),
    ],
)
def test_lengths_from_token_counts_are_those_rendered(
    document: Document, renderer: Renderer
) -> None:
    counts = [
        len(renderer.tokenizer.encode(p.content))
        for p in document.parts
        if isinstance(p, Text)
    ]
    assert len(renderer(document).tokens) == text_length(
        document, counts
    ) + 2 * len(document.images)


def test_an_image_for_a_model_without_an_encoder_is_an_error(
    tokenizer: Tokenizer,
) -> None:
    with pytest.raises(ValueError, match="without an image encoder"):
        Renderer(tokenizer, None)(Document((picture(),)))


# --- batches


def test_targets_never_cross_documents_and_images_are_no_targets(
    renderer: Renderer, tokenizer: Tokenizer
) -> None:
    one = renderer(Document((picture(), Text("a cat"))))
    two = renderer(Document((Text("two dogs"),)))
    batch = collate(
        [[RenderedSegment.whole(one), RenderedSegment.whole(two)]],
        renderer,
        sequence_length=10,
    )
    a, cat, _two, dogs = tokenizer.encode("a cat two dogs")
    end = tokenizer.end
    _ = IGNORE
    assert batch.targets.tolist() == [_, a, cat, end, _, dogs, end, _, _, _]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 5, 8, 10]
    assert batch.slots.tolist() == [[0, 1]]
    assert (
        batch.num_targets,
        batch.num_padding,
        batch.num_pairs,
        batch.max_seqlen,
    ) == (5, 2, 15 + 6 + 3, 10)


@pytest.mark.parametrize(("count", "padded"), [(0, 4), (1, 4), (4, 4), (5, 8)])
def test_blank_images_make_up_a_multiple(
    renderer: Renderer, count: int, padded: int
) -> None:
    """They come last and have no slots: the same tokens and pictures as without."""
    parts = [picture(4 + number) for number in range(count)]
    document = renderer(Document((*parts, Text("a cat"))))
    row = [[RenderedSegment.whole(document)]]
    plain = collate(row, renderer)
    batch = collate(row, renderer, image_multiple=4)
    assert len(batch.images) == padded
    assert torch.equal(batch.images[:count], plain.images[:count])
    assert not batch.images[count:].any()
    assert torch.equal(batch.slots, plain.slots)
    assert len(batch.slots) == count


def test_without_isolation_only_the_mask_differs(renderer: Renderer) -> None:
    spans = [
        RenderedSegment.whole(renderer(Document((Text(text),))))
        for text in ("a cat", "two dogs", "sit")
    ]
    rows = [spans[:2], spans[2:]]
    apart, together = (
        collate(rows, renderer, sequence_length=8, isolate=isolate)
        for isolate in (True, False)
    )
    assert apart.cu_seqlens.tolist() == [0, 3, 6, 8, 10, 16]
    assert together.cu_seqlens.tolist() == [
        0,
        6,
        8,
        10,
        16,
    ]  # padding stays by itself
    assert (together.max_seqlen, together.num_pairs) == (8, 21 + 3 + 3 + 21)
    for name in ("tokens", "targets", "positions", "sources"):
        assert torch.equal(getattr(apart, name), getattr(together, name))


@pytest.mark.parametrize("isolate", [True, False])
def test_positions_run_on_if_they_do_not_restart(
    renderer: Renderer, isolate: bool
) -> None:
    """Over the documents of a row, not over rows and not into the padding."""
    spans = [
        RenderedSegment.whole(renderer(Document((Text(text),))))
        for text in ("a cat", "two dogs", "sit")
    ]
    batch = collate(
        [spans[:2], spans[2:]],
        renderer,
        sequence_length=8,
        isolate=isolate,
        restart_positions=False,
    )
    assert batch.positions.tolist() == [*range(6), 0, 1, 0, 1, *range(6)]
    assert batch.num_padding == 2 + 6


def test_cutting_a_document_loses_no_target(
    renderer: Renderer, tokenizer: Tokenizer
) -> None:
    text = renderer(Document((Text("a cat two dogs"),)))
    batch = collate(
        [
            [RenderedSegment(text, 0, 2, source=2)],
            [RenderedSegment(text, 2, 5, source=1)],
        ],
        renderer,
        sequence_length=3,
    )
    # the rest is a document of its own
    assert batch.positions.tolist() == [0, 1, 0, 0, 1, 2]
    assert batch.sources.tolist() == [2, 2, NO_SOURCE, 1, 1, 1]
    assert batch.num_padding == 1
    a, cat, two, dogs = tokenizer.encode("a cat two dogs")
    del a
    assert batch.targets.tolist() == [
        cat,
        two,
        IGNORE,
        dogs,
        tokenizer.end,
        IGNORE,
    ]


def test_a_batch_without_images_has_a_blank_one_without_slots(
    renderer: Renderer,
) -> None:
    batch = collate(
        [[RenderedSegment.whole(renderer(Document((Text("sit"),))))]], renderer
    )
    assert batch.images.shape == (1, 3, 4, 4)
    assert batch.images.sum() == 0
    assert len(batch.slots) == 0


def test_a_damaged_image_is_named_with_its_document(renderer: Renderer) -> None:
    broken = Document((Image(b"nothing", 4, 4), Text("sit")))
    with pytest.raises(ImageError, match=r"page 7, image 1: .*not an image"):
        collate(
            [[RenderedSegment(renderer(broken), 0, 4, key="page 7")]], renderer
        )
