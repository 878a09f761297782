"""Rendered sequences -> one `PackedBatch`: rows end to end, targets shifted inside each document, pictures decoded."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mm1.batch import IGNORE, PackedBatch
from mm1.data.images import ImageError
from mm1.data.render import Renderer, Sequence


@dataclass(frozen=True, eq=False, slots=True)
class Span:
    """Tokens `start` to `stop` of a rendered document, as one isolated document of a row."""

    sequence: Sequence
    start: int
    stop: int
    source: int = 0
    key: str = ""

    @classmethod
    def whole(cls, sequence: Sequence) -> "Span":
        return cls(sequence, 0, len(sequence.tokens))


def collate(
    rows: Items[Items[Span]],
    renderer: Renderer,
    *,
    row_length: int | None = None,
    source_names: tuple[str, ...] = ("data",),
) -> PackedBatch:
    """Lays rows of spans end to end, each padded to `row_length` (None: rows are as long as they are).

    The last token of a cut piece still has its target, the next token of the document: cutting loses no target.

    Raises:
        ImageError: a picture cannot be decoded; the message names the document.
    """
    lengths = [sum(span.stop - span.start for span in row) for row in rows]
    total = sum(lengths) if row_length is None else row_length * len(rows)
    tokens = np.full(total, renderer.tokenizer.pad, dtype=np.int64)
    targets, positions, sources = np.full(total, IGNORE, dtype=np.int64), np.zeros_like(tokens), np.zeros_like(tokens)
    boundaries, at, padding = [0], 0, 0
    for row, length in zip(rows, lengths, strict=True):
        for span in row:
            n = span.stop - span.start
            here = slice(at, at + n)
            tokens[here] = span.sequence.tokens[span.start : span.stop]
            following = slice(span.start + 1, span.stop + 1)
            learnt = np.where(span.sequence.learn[following], span.sequence.tokens[following], IGNORE)
            targets[at : at + len(learnt)] = learnt
            positions[here] = np.arange(n)
            sources[here] = span.source
            at += n
            boundaries.append(at)
        if row_length is not None and length < row_length:
            gap = row_length - length
            positions[at : at + gap] = np.arange(gap)
            at, padding = at + gap, padding + gap
            boundaries.append(at)
    images = _images([span for row in rows for span in row], renderer)
    sizes = np.diff(boundaries)
    is_image = tokens == renderer.tokenizer.image
    slots = np.flatnonzero(is_image).reshape(-1, renderer.tokens_per_image) if renderer.tokens_per_image else None
    return PackedBatch(
        tokens=torch.from_numpy(tokens),
        targets=torch.from_numpy(targets),
        positions=torch.from_numpy(positions),
        sources=torch.from_numpy(sources),
        boundaries=torch.tensor(boundaries, dtype=torch.int32),
        images=images,
        slots=torch.zeros(0, 1, dtype=torch.int64) if slots is None else torch.from_numpy(slots),
        longest=int(sizes.max(initial=1)),
        num_targets=int((targets != IGNORE).sum()),
        num_padding=padding,
        num_pairs=int((sizes * (sizes + 1) // 2).sum()),
        source_names=source_names,
    )


def _images(spans: Items[Span], renderer: Renderer) -> UInt8[Tensor, "N 3 H W"]:
    if renderer.views is None:
        return torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    views: list[Tensor] = []
    for span in spans:
        for number, image in enumerate(span.sequence.images):
            try:
                views.append(renderer.views(image))
            except ImageError as error:
                raise ImageError(f"{span.key or 'prompt'}, picture {number + 1}: {error}") from error
    blank = torch.zeros(1, 3, *renderer.views.size, dtype=torch.uint8)
    return torch.cat(views) if views else blank
