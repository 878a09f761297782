"""Rendered sequences -> one `PackedBatch`: rows end to end, targets shifted inside each
document, pictures decoded."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mm1.batch import IGNORE, NO_SOURCE, PackedBatch
from mm1.data.image_processing import ImageError
from mm1.data.render import RenderedDocument, Renderer
from mm1.loader.shared_memory import empty_images


@dataclass(frozen=True, eq=False, slots=True)
class Span:
    """Tokens `start` to `stop` of a rendered document, as one isolated document of a
    row."""

    sequence: RenderedDocument
    start: int
    stop: int
    source: int = 0
    key: str = ""

    @classmethod
    def whole(cls, sequence: RenderedDocument) -> "Span":
        return cls(sequence, 0, len(sequence.tokens))


def collate(
    rows: Items[Items[Span]],
    renderer: Renderer,
    *,
    sequence_length: int | None = None,
    source_names: tuple[str, ...] = ("data",),
    isolate: bool = True,
) -> PackedBatch:
    """Lays rows of spans end to end, each padded to `sequence_length` (None: rows are
    as long as they are).

    Without `isolate` a row is one document to attention: each sees those before it.
    Positions restart all the same, and no target changes, so that the mask alone
    differs.

    The last token of a cut piece still has its target, the next token of the document:
    cutting loses no target.

    Raises:
        ImageError: a picture cannot be decoded; the message names the document.
    """
    stream = _laid_out(
        rows, renderer.tokenizer.pad, sequence_length=sequence_length, isolate=isolate
    )
    k = renderer.tokens_per_image
    sizes = np.diff(stream.cu_seqlens)
    places = np.flatnonzero(stream.tokens == renderer.tokenizer.image)
    return PackedBatch(
        tokens=torch.from_numpy(stream.tokens),
        targets=torch.from_numpy(stream.targets),
        positions=torch.from_numpy(stream.positions),
        sources=torch.from_numpy(stream.sources),
        cu_seqlens=torch.tensor(stream.cu_seqlens, dtype=torch.int32),
        images=_images([span for row in rows for span in row], renderer),
        slots=torch.from_numpy(
            places.reshape(-1, k) if k else np.zeros((0, 1), np.int64)
        ),
        max_seqlen=int(sizes.max(initial=1)),
        num_targets=int((stream.targets != IGNORE).sum()),
        num_padding=stream.padding,
        num_pairs=int((sizes * (sizes + 1) // 2).sum()),
        source_names=source_names,
    )


class _Stream:
    """The flat arrays of a batch while documents are laid into them."""

    def __init__(self, length: int, pad: int) -> None:
        self.tokens = np.full(length, pad, dtype=np.int64)
        self.targets = np.full(length, IGNORE, dtype=np.int64)
        self.positions = np.zeros(length, dtype=np.int64)
        self.sources = np.full(length, NO_SOURCE, dtype=np.int64)
        self.cu_seqlens = [0]
        self.padding = 0

    def add(self, span: Span) -> None:
        start = self.cu_seqlens[-1]
        stop = self.cu_seqlens[-1] + span.stop - span.start
        following = slice(span.start + 1, span.stop + 1)
        learnt = np.where(
            span.sequence.loss_mask[following], span.sequence.tokens[following], IGNORE
        )
        self.tokens[start:stop] = span.sequence.tokens[span.start : span.stop]
        self.targets[start : start + len(learnt)] = learnt
        self.positions[start:stop] = np.arange(stop - start)
        self.sources[start:stop] = span.source
        self.cu_seqlens.append(stop)

    def pad(self, length: int) -> None:
        """Padding is a document of its own, without targets."""
        start = self.cu_seqlens[-1]
        self.positions[start : start + length] = np.arange(length)
        self.cu_seqlens.append(start + length)
        self.padding += length


def _laid_out(
    rows: Items[Items[Span]], pad: int, *, sequence_length: int | None, isolate: bool
) -> _Stream:
    lengths = [sum(span.stop - span.start for span in row) for row in rows]
    stream = _Stream(
        sum(lengths) if sequence_length is None else sequence_length * len(rows), pad
    )
    for row, length in zip(rows, lengths, strict=True):
        first = len(stream.cu_seqlens)
        for span in row:
            stream.add(span)
        if not isolate:
            del stream.cu_seqlens[first:-1]
        if sequence_length is not None and length < sequence_length:
            stream.pad(sequence_length - length)
    return stream


def _images(spans: Items[Span], renderer: Renderer) -> UInt8[Tensor, "N 3 H W"]:
    """The views of the spans' pictures; one blank where there are none."""
    if renderer.image_processor is None:
        return torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    pictures = [
        (span, *picture)
        for span in spans
        for picture in span.sequence.images_between(span.start, span.stop)
    ]
    counts = [
        len(renderer.image_processor.positions(grid)) for _, _, _, grid in pictures
    ]
    views = empty_images(max(1, sum(counts)), renderer.image_processor.size)
    if not pictures:
        return views.zero_()
    for place, (span, number, image, grid) in zip(
        views.split(counts), pictures, strict=True
    ):
        try:
            place.copy_(renderer.sub_images(image, grid))
        except ImageError as error:
            raise ImageError(
                f"{span.key or 'prompt'}, image {number}: {error}"
            ) from error
    return views
