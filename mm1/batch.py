"""Batches, what a model takes in, and the legend of every shape in the project.

    R  rows (packed sequences)      L  tokens in a row      T  = R * L, all tokens
    S  packed documents             M  images with slots    K  tokens per image
    N  images (sub-images count)    H W  pixels             P  = h * w patches
    D  decoder width                E  encoder width        V  vocabulary size
    B  pairs, prompts or questions  C  channels of a feature map

A packed batch is one flat stream of tokens, its rows laid end to end. Documents do not
attend to one another: `cu_seqlens` are their cumulative lengths, as variable-length
attention kernels take them.

    tokens      <i> <i> a cat <end>   two dogs <end> <pad>
    targets      .   a cat <end> .    dogs <end>  .    .          (. = IGNORE)
    positions    0   1  2   3   4      0    1     2    0
    cu_seqlens   0                     5               8     9
"""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

IGNORE = -100
"""Target of a token without loss."""
NO_SOURCE = -1
"""Source of padding."""

AnyBatch = TypeVar("AnyBatch", bound="_Batch")


def move(
    batch: AnyBatch, device: torch.device | str, *, non_blocking: bool = False
) -> AnyBatch:
    """A copy of the batch with its tensors on `device`."""
    moved = {
        name: tensor.to(device, non_blocking=non_blocking)
        for name, tensor in batch.tensors().items()
    }
    return replace(batch, **moved)  # type: ignore[type-var]


class _Batch:
    """Methods of all batches."""

    __slots__ = ()

    def tensors(self) -> dict[str, Tensor]:
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return {
            name: value
            for name in names
            if isinstance(value := getattr(self, name), Tensor)
        }

    def pin_memory(self) -> "_Batch":
        """A copy in page-locked memory, for asynchronous copies to a GPU; called by
        DataLoader."""
        pinned = {name: t.pin_memory() for name, t in self.tensors().items()}
        return replace(self, **pinned)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False, slots=True)
class PackedBatch(_Batch):
    """Rows of packed, isolated documents with their images: for multimodal and
    text-only training, and prompts."""

    tokens: Int[Tensor, " T"]
    targets: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    sources: Int[Tensor, " T"]
    """Index into `source_names` of each token's data set; NO_SOURCE for padding."""
    cu_seqlens: Int[Tensor, " ends"]
    """S + 1 cumulative lengths, int32, from 0 to T; padding counts as a document."""
    images: UInt8[Tensor, "N 3 H W"]
    """At least one: a batch without images has a blank one, so that no rank skips the
    encoder."""
    slots: Int[Tensor, "M K"]
    """Positions in the flat stream of the tokens of each image; M = 0 if there is only
    the blank image."""
    max_seqlen: int
    """An upper bound on document lengths; in rows of a fixed length, that length."""
    num_targets: int
    num_padding: int
    num_pairs: int
    """Query-key pairs under the causal document mask: the work of attention."""
    source_names: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class PairBatch(_Batch):
    """Images with one caption each, for contrastive pre-training. Captions are padded
    at the end."""

    images: UInt8[Tensor, "B 3 H W"]
    tokens: Int[Tensor, "B L"]
    lengths: Int[Tensor, " B"]
    """Tokens of each caption, end token included; the text feature is taken at the
    last."""
    caption_ids: Int[Tensor, " B"]
    """A hash of each caption, so that duplicates are not taken for negatives."""

    @property
    def num_targets(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False, slots=True)
class ImageBatch(_Batch):
    """Images alone, for reconstructive pre-training and encoding."""

    images: UInt8[Tensor, "B 3 H W"]

    @property
    def num_targets(self) -> int:
        return len(self.images)


Batch = PackedBatch | PairBatch | ImageBatch

Pixels = Float[Tensor, "N 3 H W"]
"""Normalised images, in the compute dtype."""
