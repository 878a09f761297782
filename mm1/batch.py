"""What crosses from data to model, and the legend of every shape in the project.

    R  rows in the batch            L  tokens in a row          T  = R * L tokens, the rows laid end to end
    S  packed documents             M  pictures with a slot     K  tokens for each image
    N  images (sub-images count)    H W  pixels                 P  = h * w patches of an image
    D  decoder width                E  encoder width            V  vocabulary
    B  pairs, prompts or questions  C  channels of a feature map

A packed batch is one flat stream of tokens. Documents never look at one another:
`cu_seqlens` are their cumulative lengths, as variable-length attention kernels want
them.

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
"""The target of a token that is not learnt from."""
NO_SOURCE = -1
"""The source of padding."""

AnyBatch = TypeVar("AnyBatch", bound="_Batch")


def move(
    batch: AnyBatch, device: torch.device | str, *, non_blocking: bool = False
) -> AnyBatch:
    """The same batch with its tensors on `device`."""
    moved = {
        name: tensor.to(device, non_blocking=non_blocking)
        for name, tensor in batch.tensors().items()
    }
    return replace(batch, **moved)  # type: ignore[type-var]


class _Batch:
    """What all batches can do."""

    __slots__ = ()

    def tensors(self) -> dict[str, Tensor]:
        names = [f.name for f in fields(self)]  # type: ignore[arg-type]
        return {
            name: value
            for name in names
            if isinstance(value := getattr(self, name), Tensor)
        }

    def pin_memory(self) -> "_Batch":
        """In page-locked memory, from where copies to a GPU do not wait; torch's loader
        calls it."""
        pinned = {name: t.pin_memory() for name, t in self.tensors().items()}
        return replace(self, **pinned)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False, slots=True)
class PackedBatch(_Batch):
    """Rows of packed, isolated documents with their images: multimodal and text-only
    training, prompts."""

    tokens: Int[Tensor, " T"]
    targets: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    sources: Int[Tensor, " T"]
    """Index into `source_names` of the data set that a token comes from; NO_SOURCE for
    padding."""
    cu_seqlens: Int[Tensor, " ends"]
    """S + 1 cumulative lengths, int32: the first is 0, the last is T; padding is a
    document too."""
    images: UInt8[Tensor, "N 3 H W"]
    """At least one: a batch without pictures carries a blank image so that no rank
    skips the encoder."""
    slots: Int[Tensor, "M K"]
    """Where the tokens of the first M images go in the flat stream; M = 0 when only the
    blank image is there."""
    max_seqlen: int
    """An upper bound of the documents' lengths."""
    num_targets: int
    num_padding: int
    num_pairs: int
    """Query-key pairs under the causal document mask: what attention must compute."""
    source_names: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True)
class PairBatch(_Batch):
    """Images with one caption each: contrastive pre-training. Captions are padded after
    their end."""

    images: UInt8[Tensor, "B 3 H W"]
    tokens: Int[Tensor, "B L"]
    lengths: Int[Tensor, " B"]
    """Tokens of each caption with its end token; the text feature is read at the last
    of them."""
    caption_ids: Int[Tensor, " B"]
    """Equal for equal captions (a hash of the text), so that duplicates are not taken
    for negatives."""

    @property
    def num_targets(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False, slots=True)
class ImageBatch(_Batch):
    """Images alone: reconstructive pre-training and encoding."""

    images: UInt8[Tensor, "B 3 H W"]

    @property
    def num_targets(self) -> int:
        return len(self.images)


Batch = PackedBatch | PairBatch | ImageBatch

Pixels = Float[Tensor, "N 3 H W"]
"""Images after normalisation, in the compute dtype."""
