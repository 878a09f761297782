"""Planned, rendered and collated lengths of documents agree, for every way to split
images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer, text_length
from mm1.data.tokenizer import Tokenizer
from mm1.loader.collate import RenderedSegment, collate

TOKENS = 3
SIDES = (1, 3, 4, 7, 8, 13, 40)
PICTURES = {(w, h): picture(w, h) for w in SIDES for h in SIDES}
WAYS = {
    "whole": ImageProcessor((4, 4)),
    "square": ImageProcessor((4, 4), max_tiles=9),
    "square, padded": ImageProcessor(
        (4, 4), resize="pad", max_tiles=4, index_tokens=True
    ),
    "square, last alone": ImageProcessor((4, 4), max_tiles=4, split_last=1),
    "dynamic": ImageProcessor(
        (4, 4), split="dynamic", min_tiles=4, max_tiles=9
    ),
    "dynamic, padded": ImageProcessor(
        (4, 4),
        resize="pad",
        split="dynamic",
        min_tiles=1,
        max_tiles=6,
        index_tokens=True,
    ),
    "dynamic, last two": ImageProcessor(
        (4, 4),
        split="dynamic",
        min_tiles=4,
        max_tiles=6,
        split_last=2,
        index_tokens=True,
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tiny.tokenizer(tmp_path_factory.mktemp("t"))


def renderer(tokenizer: Tokenizer, processor: ImageProcessor) -> Renderer:
    return Renderer(tokenizer, processor, tokens_per_image=TOKENS)


PARTS: dict[Any, Text | Image] = {
    **{
        (word, end): Text(word, end=end)
        for word in ("red cat", " two", "(1,1,1)")
        for end in (False, True)
    },
    **PICTURES,
}


@pytest.mark.parametrize("way", WAYS)
@given(
    made=st.lists(
        st.lists(st.sampled_from(list(PARTS)), max_size=6), min_size=1
    )
)
@settings(max_examples=15, deadline=None)
def test_planned_rendered_and_collated_agree(
    tokenizer: Tokenizer, way: str, made: list[list[Any]]
) -> None:
    render = renderer(tokenizer, WAYS[way])
    documents = [
        Document(tuple(PARTS[name] for name in names)) for names in made
    ]
    counts = [
        [
            len(tokenizer.encode(p.content))
            for p in d.parts
            if isinstance(p, Text)
        ]
        for d in documents
    ]
    images = [image for document in documents for image in document.images]
    num_tokens, num_sub_images = render.lengths(
        np.array(
            [
                text_length(d, each)
                for d, each in zip(documents, counts, strict=True)
            ]
        ),
        np.cumsum([0] + [len(document.images) for document in documents]),
        np.array([image.width for image in images], dtype=np.int64),
        np.array([image.height for image in images], dtype=np.int64),
    )
    rendered = [render(document) for document in documents]
    assert num_tokens.tolist() == [len(each.tokens) for each in rendered]
    for each, num in zip(rendered, num_sub_images.tolist(), strict=True):
        batch = collate([[RenderedSegment.whole(each)]], render)
        assert len(batch.slots) == num
        assert len(batch.images) == max(1, num)
        assert (batch.tokens[batch.slots] == tokenizer.image).all()
        assert (batch.slots.diff(dim=1) == 1).all()  # consecutive


def test_index_tokens_precede_each_sub_image_and_are_not_targets(
    tokenizer: Tokenizer,
) -> None:
    render = renderer(tokenizer, WAYS["dynamic, padded"])
    document = Document(
        (
            Text("cat"),
            PICTURES[8, 4],
            Text("two"),
            PICTURES[4, 4],
            Text("dog", end=True),
        )
    )
    rendered = render(document)
    sub_image = [tokenizer.image] * TOKENS
    expected = tokenizer.encode("cat")
    for index in ("(1,1,1)", "(1,1,2)", "(1,0,0)"):
        expected += [*tokenizer.encode(index), *sub_image]
    expected += [
        *tokenizer.encode("two"),
        *tokenizer.encode("(2,0,0)"),
        *sub_image,
        *tokenizer.encode("dog"),
    ]
    assert rendered.tokens.tolist() == [*expected, tokenizer.end]
    num_targets = (
        sum(len(tokenizer.encode(word)) for word in ("cat", "two", "dog")) + 1
    )
    assert rendered.loss_mask.sum() == num_targets
    assert rendered.grids == ((1, 2), (1, 1))


def test_dynamic_splits_no_image_of_a_document_with_many(
    tokenizer: Tokenizer,
) -> None:
    render = renderer(tokenizer, WAYS["dynamic"])
    images = [PICTURES[40, 40]] * 3
    assert render(Document(tuple(images[:2]))).grids == ((3, 3), (3, 3))
    assert render(Document(tuple(images))).grids == ((1, 1),) * 3


def test_a_tokenizer_that_cannot_encode_an_index_is_named(
    tmp_path: Path,
) -> None:
    words = tiny.tokenizer(tmp_path, "word")
    with pytest.raises(
        ConfigError, match=r"loader\.index_tokens.*cannot encode '\(1,1,1\)'"
    ):
        renderer(words, WAYS["dynamic, padded"])(Document((Image(b"", 8, 4),)))
