"""Planned, rendered and collated lengths of documents agree, for every way to split
images."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import picture
from raw_files import jpeg, write_pages

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor
from mm1.data.prepared import lengths
from mm1.data.prepared.lengths import DocumentLengths
from mm1.data.render import Renderer, text_length
from mm1.data.tokenizer import Tokenizer
from mm1.loader.collate import RenderedSegment, collate
from mm1.overrides import default_config
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source

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


@pytest.mark.parametrize(
    "way", ["whole", "square", "dynamic, padded", "no encoder"]
)
def test_lengths_of_a_folder_are_those_of_rendering_one_by_one(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, repeated, and in blocks for the totals."""
    monkeypatch.setattr(lengths, "BLOCK", 4)
    pages = [
        {
            "images": [jpeg(i + n, (3 + 4 * n, 8)) for n in range(i % 4)]
            + [None],
            "texts": [None] * (i % 4) + [f"cat number {i}"],
        }
        for i in range(11)
    ]
    write_pages(tmp_path / "a.parquet", pages)
    made = tiny.tokenizer(tmp_path)
    prepare(
        Preparation.Config(source=default_config(Source, "interleaved")),
        [tmp_path / "a.parquet"],
        tmp_path / "out",
        tmp_path / "tokenizer.json",
    )
    render = renderer(made, WAYS[way]) if way in WAYS else Renderer(made, None)
    source = DocumentLengths(str(tmp_path / "out"), render)
    expected = []
    for i in range(source.num_documents):
        document = source.shards.document(i)
        if render.image_processor is None:
            texts = tuple(p for p in document.parts if isinstance(p, Text))
            num_tokens = len(render(Document(texts)).tokens)
            expected.append([num_tokens, len(document.images)])
        else:
            rendered = render(document)
            batch = collate([[RenderedSegment.whole(rendered)]], render)
            expected.append([len(rendered.tokens), len(batch.slots)])
    ids = np.array([7, 0, 10, 7, 3, 3, 9])
    found = np.stack(source.lengths(ids), axis=1)
    assert found.tolist() == [expected[i] for i in ids]
    tokens, images = np.sum(expected, axis=0).tolist()
    assert source.describe() == {
        "documents": 11,
        "tokens": tokens,
        "images": images,
    }
    unread = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 5000 + len(pickle.dumps(render))
    assert np.stack(unread.lengths(ids), axis=1).tolist() == found.tolist()
