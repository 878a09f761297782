"""The first packed rows of a config's loader, for reports and for `mm1 view`."""

import io
from collections import deque
from collections.abc import Iterator
from itertools import groupby, islice
from typing import Any

import torch
from PIL import Image as Pillow

from mm1.config import ConfigError
from mm1.data.render import RenderedDocument
from mm1.data.tokenizer import Tokenizer
from mm1.infer.trained_model import make_renderer
from mm1.loader.mixture_state import DocumentSegment
from mm1.loader.packed import PackedLoader
from mm1.report.row_fill import PackedPiece, RowLimits, why_not_full
from mm1.report.view import ViewDocument, ViewImage, ViewRow, ViewText
from mm1.train.trainer import Trainer


def open_loader(config: Trainer.Config) -> PackedLoader:
    """The config's loader; of the model only shapes are built, on the meta device.

    Raises:
        ConfigError: the loader does not pack documents into rows.
    """
    if not isinstance(config.loader, PackedLoader.Config):
        raise ConfigError(
            f"{type(config.loader).__qualname__} does not pack rows; there is nothing"
            " to show"
        )
    tokenizer = Tokenizer.Config(
        path=config.tokenizer.path or config.loader.tokenizer()
    ).build()
    with torch.device("meta"):
        model = config.model.build(vocab_size=tokenizer.vocab_size)
    return PackedLoader(
        config.loader,
        renderer=make_renderer(model, tokenizer, config.loader),
        seed=config.seed,
    )


def packing_layout(
    config: Trainer.Config, num_rows: int = 24
) -> dict[str, Any]:
    """The content of packing.json: which document is where in the first rows."""
    loader = open_loader(config)
    return {
        "sequence_length": loader.config.sequence_length,
        "max_images": loader.config.max_images,
        "rows": [_boxes(loader, row) for row in _first_rows(loader, num_rows)],
    }


def view_rows(config: Trainer.Config, num_rows: int) -> list[ViewRow]:
    """The first rows with their text and images."""
    loader = open_loader(config)
    return [
        ViewRow(
            tuple(_document(loader, e) for e in row),
            loader.config.sequence_length,
            loader.config.max_images,
        )
        for row in _first_rows(loader, num_rows)
    ]


def packing_faults(config: Trainer.Config) -> list[str]:
    """Why the rows of the first packing window are not full, where they are not."""
    loader = open_loader(config)
    window = loader.config.packing_window
    rows = [
        [PackedPiece(e.stop - e.start, e.images) for e in row]
        for row in _first_rows(loader, window)
    ]
    limits = RowLimits(
        loader.config.sequence_length, loader.mixture.max_images, window
    )
    return why_not_full(rows, limits)


def _first_rows(
    loader: PackedLoader, num_rows: int
) -> list[tuple[DocumentSegment, ...]]:
    return list(
        islice(
            (row for rows, _, _ in loader.plan_steps(None) for row in rows),
            num_rows,
        )
    )


def _boxes(
    loader: PackedLoader, row: tuple[DocumentSegment, ...]
) -> list[dict[str, Any]]:
    boxes = []
    at = 0
    for e in row:
        name = loader.names[e.source]
        length = e.stop - e.start
        boxes.append(
            {
                "source": name,
                "start": at,
                "stop": at + length,
                "images": e.images,
                "padding": False,
            }
        )
        at += length
    if at < loader.config.sequence_length:
        boxes.append(
            {
                "source": "",
                "start": at,
                "stop": loader.config.sequence_length,
                "images": 0,
                "padding": True,
            }
        )
    return boxes


def _document(loader: PackedLoader, e: DocumentSegment) -> ViewDocument:
    name = loader.names[e.source]
    shards = loader.sources[name].shards
    sequence = loader.renderer(shards.document(e.document))
    return ViewDocument(
        source=name,
        key=shards.key(e.document),
        pieces=_pieces(loader, sequence, e.start, e.stop),
        start=e.start,
        stop=e.stop,
        length=len(sequence.tokens),
        num_targets=int(sequence.loss_mask[e.start + 1 : e.stop + 1].sum()),
    )


def _pieces(
    loader: PackedLoader, sequence: RenderedDocument, start: int, stop: int
) -> tuple[ViewText | ViewImage, ...]:
    tokenizer = loader.renderer.tokenizer
    pieces = []
    sub_images = deque(_sub_images(loader, sequence, start, stop))
    tokens = sequence.tokens[start:stop].tolist()
    learn = sequence.loss_mask[start:stop].tolist()
    for (is_image, learnt), run in groupby(
        zip(tokens, learn, strict=True),
        key=lambda pair: (pair[0] == tokenizer.image, pair[1]),
    ):
        ids = [token for token, _ in run]
        if not is_image:
            pieces.append(ViewText(_readable(tokenizer, ids), learnt))
            continue
        shown = [
            sub_images.popleft()
            for _ in range(len(ids) // loader.renderer.tokens_per_image)
        ]
        # images may follow one another without text between them
        for _, group in groupby(shown, key=lambda pair: pair[0]):
            pieces.append(ViewImage(tuple(png for _, png in group)))
    return tuple(pieces)


def _sub_images(
    loader: PackedLoader, sequence: RenderedDocument, start: int, stop: int
) -> Iterator[tuple[int, bytes]]:
    """(image number, PNG) of each sub-image of an excerpt, in the order of their
    tokens."""
    for number, image, grid in sequence.images_between(start, stop):
        for pixels in loader.renderer.sub_images(image, grid):
            yield number, _png(pixels)


def _readable(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text with the begin and end tokens written out."""
    marks = {tokenizer.begin, tokenizer.end}
    runs = groupby(ids, key=lambda token: token if token in marks else None)
    words = (
        (
            tokenizer.decode(list(run))
            if mark is None
            else tokenizer.name(mark) * len(list(run))
        )
        for mark, run in runs
    )
    return "".join(words)


def _png(pixels: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()
