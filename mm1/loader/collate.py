"""Rows of document segments -> one `PackedBatch`: documents are read and rendered, rows
laid end to end, targets shifted inside each document, images decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from mm1.batch import IGNORE, NO_SOURCE, PackedBatch
from mm1.data.image_processing import ImageError
from mm1.data.prepared.shards import Shards
from mm1.data.render import RenderedDocument, Renderer
from mm1.loader.mixture_state import DocumentSegment, Row
from mm1.loader.shared_memory import empty_images
from mm1.storage.remote_path import as_path


@dataclass(frozen=True, eq=False, slots=True)
class RenderedSegment:
    """Tokens `start` to `stop` of a rendered document: one isolated document of a
    row."""

    rendered: RenderedDocument
    start: int
    stop: int
    source: int = 0
    key: str = ""
    """Where the document comes from, for error messages."""

    @classmethod
    def whole(cls, rendered: RenderedDocument) -> "RenderedSegment":
        return cls(rendered, 0, len(rendered.tokens))


class PackedDataset(Dataset):
    """Map-style dataset over batches: an index is a list of rows. Workers open the
    shards for themselves."""

    def __init__(
        self,
        renderer: Renderer,
        folders: dict[str, str],
        *,
        sequence_length: int,
        isolate: bool,
        restart_positions: bool = True,
        image_multiple: int = 1,
        split: str = "train",
    ) -> None:
        """`folders`: name of each source -> its prepared folder."""
        self.renderer = renderer
        self.names = tuple(folders)
        self.folders = list(folders.values())
        self.sequence_length = sequence_length
        self.isolate = isolate
        self.restart_positions = restart_positions
        self.image_multiple = image_multiple
        self.split = split
        self.shards: list[Shards] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"shards": []}

    def __getitem__(self, rows: list[Row]) -> PackedBatch:
        self.shards = self.shards or [
            Shards(as_path(folder), self.split, prefetch=self.split == "train")
            for folder in self.folders
        ]
        return collate(
            [[self._render(segment) for segment in row] for row in rows]
            or [[]],
            self.renderer,
            sequence_length=self.sequence_length,
            source_names=self.names,
            isolate=self.isolate,
            restart_positions=self.restart_positions,
            image_multiple=self.image_multiple,
        )

    def _render(self, segment: DocumentSegment) -> RenderedSegment:
        key, document = self.shards[segment.source].read(segment.document)
        return RenderedSegment(
            self.renderer(document),
            segment.start,
            segment.stop,
            segment.source,
            f"{self.names[segment.source]} {key}",
        )


def collate(
    rows: Sequence[Sequence[RenderedSegment]],
    renderer: Renderer,
    *,
    sequence_length: int | None = None,
    source_names: tuple[str, ...] = ("data",),
    isolate: bool = True,
    restart_positions: bool = True,
    image_multiple: int = 1,
) -> PackedBatch:
    """Lays rows of segments end to end, each padded to `sequence_length` (None: no
    padding).

    Without `isolate` a row is one document to attention: each document sees those
    before it. Targets stay the same, and positions restart, unless `restart_positions`
    is false: so only the mask differs.

    The last token of a cut segment still has its target, the next token of the
    document: cutting loses no target.

    Blank images, which no token shows, make up a multiple of `image_multiple`.

    Raises:
        ImageError: an image cannot be decoded; the message names the document.
    """
    stream = _lay_out(
        rows,
        renderer.tokenizer.pad,
        sequence_length=sequence_length,
        isolate=isolate,
        restart_positions=restart_positions,
    )
    k = renderer.tokens_per_image
    sizes = np.diff(stream.cu_seqlens)
    slots = np.flatnonzero(stream.tokens == renderer.tokenizer.image)
    slots = slots.reshape(-1, k) if k else np.zeros((0, 1), np.int64)
    return PackedBatch(
        tokens=torch.from_numpy(stream.tokens),
        targets=torch.from_numpy(stream.targets),
        positions=torch.from_numpy(stream.positions),
        sources=torch.from_numpy(stream.sources),
        cu_seqlens=torch.tensor(stream.cu_seqlens, dtype=torch.int32),
        images=_images(
            [segment for row in rows for segment in row],
            renderer,
            image_multiple,
        ),
        slots=torch.from_numpy(slots),
        max_seqlen=sequence_length or int(sizes.max(initial=1)),
        num_targets=int((stream.targets != IGNORE).sum()),
        num_padding=stream.num_padding,
        num_pairs=int((sizes * (sizes + 1) // 2).sum()),
        source_names=source_names,
    )


class _TokenStream:
    """The flat arrays of a batch while documents are laid into them."""

    def __init__(self, length: int, pad: int) -> None:
        self.tokens = np.full(length, pad, dtype=np.int64)
        self.targets = np.full(length, IGNORE, dtype=np.int64)
        self.positions = np.zeros(length, dtype=np.int64)
        self.sources = np.full(length, NO_SOURCE, dtype=np.int64)
        self.cu_seqlens = [0]
        self.num_padding = 0

    def add(self, segment: RenderedSegment) -> None:
        start = self.cu_seqlens[-1]
        stop = self.cu_seqlens[-1] + segment.stop - segment.start
        rendered = segment.rendered
        shifted = slice(segment.start + 1, segment.stop + 1)
        targets = np.where(
            rendered.loss_mask[shifted], rendered.tokens[shifted], IGNORE
        )
        self.tokens[start:stop] = rendered.tokens[segment.start : segment.stop]
        self.targets[start : start + len(targets)] = targets
        self.positions[start:stop] = np.arange(stop - start)
        self.sources[start:stop] = segment.source
        self.cu_seqlens.append(stop)

    def pad(self, length: int) -> None:
        """Padding is a document of its own, without targets."""
        start = self.cu_seqlens[-1]
        self.positions[start : start + length] = np.arange(length)
        self.cu_seqlens.append(start + length)
        self.num_padding += length


def _lay_out(
    rows: Sequence[Sequence[RenderedSegment]],
    pad: int,
    *,
    sequence_length: int | None,
    isolate: bool,
    restart_positions: bool,
) -> _TokenStream:
    lengths = [
        sum(segment.stop - segment.start for segment in row) for row in rows
    ]
    total = (
        sum(lengths) if sequence_length is None else sequence_length * len(rows)
    )
    stream = _TokenStream(total, pad)
    for row, length in zip(rows, lengths, strict=True):
        first = len(stream.cu_seqlens)
        start = stream.cu_seqlens[-1]
        for segment in row:
            stream.add(segment)
        if not restart_positions:
            stream.positions[start : start + length] = np.arange(length)
        if not isolate:
            del stream.cu_seqlens[first:-1]
        if sequence_length is not None and length < sequence_length:
            stream.pad(sequence_length - length)
    return stream


def _images(
    segments: Sequence[RenderedSegment], renderer: Renderer, multiple: int
) -> UInt8[Tensor, "N 3 H W"]:
    """The sub-images of the segments' images, then blank ones up to a multiple of
    `multiple`, at least one in all."""
    processor = renderer.image_processor
    if processor is None:
        return torch.zeros(0, 3, 1, 1, dtype=torch.uint8)
    images = [
        (segment, *numbered)
        for segment in segments
        for numbered in segment.rendered.images_between(
            segment.start, segment.stop
        )
    ]
    num_sub_images = [
        len(processor.positions(grid)) for _, _, _, grid in images
    ]
    total = sum(num_sub_images)
    padded = max(1, -(-total // multiple)) * multiple
    pixels = empty_images(padded, processor.size)
    pixels[total:].zero_()
    for destination, (segment, number, image, grid) in zip(
        pixels[:total].split(num_sub_images) if images else (),
        images,
        strict=True,
    ):
        try:
            destination.copy_(renderer.sub_images(image, grid))
        except ImageError as error:
            origin = segment.key or "prompt"
            raise ImageError(f"{origin}, image {number}: {error}") from error
    return pixels
