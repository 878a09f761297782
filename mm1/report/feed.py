"""The first rows of a recipe's or a run's feed, as the pages want them."""

import io
from collections import deque
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any

import torch
from PIL import Image as Pillow

from mm1.config import ConfigError
from mm1.data.account import Excerpt
from mm1.data.packed import Packed
from mm1.data.render import Sequence
from mm1.data.tokenizer import Tokenizer
from mm1.infer.renderer import make_renderer
from mm1.report.view import ViewDocument, ViewImage, ViewRow, ViewText
from mm1.train.run import Run


def open_feed(config: Run.Config) -> Packed:
    """The config's feed, with what it must know of the model, which is not built.

    Raises:
        ConfigError: the recipe's feed does not pack rows.
    """
    if not isinstance(config.feed, Packed.Config):
        raise ConfigError(f"{type(config.feed).__qualname__} does not pack rows; there is nothing to show")
    tokenizer = Tokenizer.Config(path=config.tokenizer.path or config.feed.tokenizer()).build()
    with torch.device("meta"):
        model = config.model.build(vocab_size=tokenizer.vocab_size)
    return Packed(config.feed, renderer=make_renderer(model, tokenizer, config.feed), seed=config.seed)


def picture_of_packing(config: Run.Config, num_rows: int = 24) -> dict[str, Any]:
    """`packing.json`: what lies where in the first rows."""
    feed = open_feed(config)
    return {
        "row_length": feed.config.row_length,
        "max_images": feed.config.max_images,
        "rows": [_boxes(feed, row) for row in _first_rows(feed, num_rows)],
    }


def view_rows(config: Run.Config, num_rows: int) -> list[ViewRow]:
    """The first rows with their text and pictures."""
    feed = open_feed(config)
    return [
        ViewRow(tuple(_document(feed, e) for e in row), feed.config.row_length, feed.config.max_images)
        for row in _first_rows(feed, num_rows)
    ]


def _first_rows(feed: Packed, num_rows: int) -> list[tuple[Excerpt, ...]]:
    return list(islice((row for rows, _, _ in feed.windows(None) for row in rows), num_rows))


def _boxes(feed: Packed, row: tuple[Excerpt, ...]) -> list[dict[str, Any]]:
    boxes, at = [], 0
    for e in row:
        name, length = feed.names[e.source], e.stop - e.start
        boxes.append({"source": name, "start": at, "stop": at + length, "images": e.images, "padding": False})
        at += length
    if at < feed.config.row_length:
        boxes.append({"source": "", "start": at, "stop": feed.config.row_length, "images": 0, "padding": True})
    return boxes


def _document(feed: Packed, e: Excerpt) -> ViewDocument:
    name = feed.names[e.source]
    shards = feed.sources[name].shards
    sequence = feed.renderer(shards.document(e.document))
    return ViewDocument(
        source=name,
        key=shards.key(e.document),
        pieces=_pieces(feed, sequence, e.start, e.stop),
        start=e.start,
        stop=e.stop,
        length=len(sequence.tokens),
        num_targets=int(sequence.learn[e.start + 1 : e.stop + 1].sum()),
    )


def _pieces(feed: Packed, sequence: Sequence, start: int, stop: int) -> tuple[ViewText | ViewImage, ...]:
    tokenizer, pieces, views = feed.renderer.tokenizer, [], deque(_views(feed, sequence, start, stop))
    tokens, learn = sequence.tokens[start:stop].tolist(), sequence.learn[start:stop].tolist()
    for (is_image, learnt), run in groupby(
        zip(tokens, learn, strict=True), key=lambda pair: (pair[0] == tokenizer.image, pair[1])
    ):
        ids = [token for token, _ in run]
        if not is_image:
            pieces.append(ViewText(_readable(tokenizer, ids), learnt))
            continue
        shown = [views.popleft() for _ in range(len(ids) // feed.renderer.tokens_per_image)]
        for _, group in groupby(shown, key=lambda pair: pair[0]):  # pictures may follow one another directly
            pieces.append(ViewImage(tuple(png for _, png in group)))
    return tuple(pieces)


def _views(feed: Packed, sequence: Sequence, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """The views of an excerpt in the order of their tokens, each with the number of its picture."""
    for number, image, grid in sequence.pictures(start, stop):
        for view in feed.renderer.pixels(image, grid):
            yield number, _png(view)


def _readable(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text with the tokens that begin and end documents written out."""
    marks = {tokenizer.begin, tokenizer.end}
    runs = groupby(ids, key=lambda token: token if token in marks else None)
    words = (
        tokenizer.decode(list(run)) if mark is None else tokenizer.name(mark) * len(list(run)) for mark, run in runs
    )
    return "".join(words)


def _png(view: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(view.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
