"""What a training step could take at best, part by part, on one GPU.

Two kinds of work are added up, as if nothing overlapped: arithmetic, at the rates that
products and attention kernels sustain, and bytes that must cross the device's memory
outside of them, at the rate of a copy. Bytes are counted by hand (`Traffic`), as
tensors of one value a token and channel, and hold to about a quarter. The launching of
kernels costs nothing here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import nn

from mm1.batch import PackedBatch
from mm1.nn.connectors import Connector
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.model import Model
from mm1.nn.vit import ViT

BF16 = 2
"""Bytes of an activation."""
TILE = 128
"""Queries and keys that an attention kernel takes at once; a tile on the diagonal is
computed whole."""
BACKWARD_PRODUCTS = 2.5
"""Work of a fused attention's backward pass over its forward's: it computes the scores
again."""


@dataclass(frozen=True)
class Rates:
    """What one H200 is taken to sustain in bf16: FLOP/s, and bytes/s read or written.

    Attention's are of the forward and of the backward pass.
    """

    decoder_products: float = 690e12
    encoder_products: float = 620e12
    connector_products: float = 500e12
    decoder_attention: tuple[float, float] = (330e12, 250e12)
    encoder_attention: tuple[float, float] = (400e12, 300e12)
    bandwidth: float = 4.3e12


class Traffic(NamedTuple):
    """Tensors read and written by what is neither product nor attention, of one block:
    in each pass, of the block's width and of its feed-forward's."""

    forward: float
    forward_hidden: float
    backward: float
    backward_hidden: float


# Norms read and write, rotations take queries and keys, residuals are added; compiled,
# a residual, the norm after it and what it feeds are one pass over memory.
DECODER = {True: Traffic(12, 3, 20, 7), False: Traffic(26, 5, 40, 16)}
"""Compiled or not."""
ENCODER = {True: Traffic(9, 2, 24, 4), False: Traffic(12, 2, 33, 5)}
CONNECTOR = {True: Traffic(14, 0, 30, 0), False: Traffic(24, 0, 50, 0)}
"""Of one residual block of the C-Abstractor."""
LOSS_BYTES = 46
"""For each target and entry of the vocabulary: logits, softmax and its gradient."""
CAST_BYTES = 10
"""For each parameter and micro-batch: its bf16 gradient is added to one in fp32."""
REDUCE_BYTES = 24
"""For each parameter and step: cast to bf16, gradients brought to the optimizer."""
ADAMW_BYTES = 40
"""For each parameter and step: AdamW, and the norm and scaling of gradients."""


@dataclass(frozen=True)
class MicroBatchWork:
    """Of one micro-batch."""

    documents: tuple[int, ...]
    """Their lengths, padding among them."""
    num_targets: int
    num_images: int
    num_blank: int = 0
    """Images without tokens, which make up a multiple for the encoder."""

    @classmethod
    def of(cls, batch: PackedBatch) -> "MicroBatchWork":
        lengths = np.diff(batch.cu_seqlens.cpu().numpy())
        images = len(batch.slots)
        return cls(
            tuple(lengths.tolist()),
            batch.num_targets,
            images,
            len(batch.images) - images,
        )

    @property
    def num_encoded(self) -> int:
        """Images that encoder and connector compute."""
        return self.num_images + self.num_blank

    @property
    def num_tokens(self) -> int:
        return sum(self.documents)

    @property
    def num_pairs(self) -> int:
        """Query-key pairs that are seen."""
        return sum(n * (n + 1) // 2 for n in self.documents)

    @property
    def num_tile_pairs(self) -> int:
        """Query-key pairs that a kernel computes."""
        tiles = [-(-n // TILE) for n in self.documents]
        return TILE**2 * sum(n * (n + 1) // 2 for n in tiles)


class Roofline:
    """Seconds by part of a step of one model."""

    def __init__(
        self, model: Model, rates: Rates, *, compiled: bool, recomputed: bool
    ) -> None:
        self.parts = model.parts()
        self.rates = rates
        self.compiled = compiled
        self.passes = 2 if recomputed else 1
        """Forward passes."""
        self.num_params = sum(p.numel() for p in model.parameters())

    def step(self, micro_batches: Sequence[MicroBatchWork]) -> dict[str, float]:
        total: dict[str, float] = {
            "weights and gradients": self._moved(
                self.num_params
                * (CAST_BYTES * len(micro_batches) + REDUCE_BYTES)
            ),
            "optimizer": self.update(),
        }
        for work in micro_batches:
            for name, seconds in self.micro_batch(work).items():
                total[name] = total.get(name, 0.0) + seconds
        return total

    def casts(self, num_params: int) -> float:
        """Seconds of adding so many gradients to those in fp32, in each micro-batch."""
        return self._moved(num_params * CAST_BYTES)

    def block_products(self, work: MicroBatchWork) -> float:
        """Seconds of the products of the decoder's blocks, without the output map."""
        decoder = self.parts["decoder"]
        assert isinstance(decoder, Decoder)
        flops = decoder.flops(
            num_tokens=work.num_tokens, num_pairs=0, num_targets=0
        )
        return self._products(flops, self.rates.decoder_products)

    def update(self) -> float:
        """Seconds of the optimizer's update of all parameters."""
        return self._moved(self.num_params * ADAMW_BYTES)

    def micro_batch(self, work: MicroBatchWork) -> dict[str, float]:
        """Seconds of forward and backward by part, without weights and gradients."""
        seconds = self._decoder(work)
        if isinstance(encoder := self.parts.get("encoder"), ViT):
            seconds |= self._encoder(encoder, work.num_encoded)
        if "connector" in self.parts:
            seconds |= self._connector(work.num_encoded)
        return seconds

    def _decoder(self, work: MicroBatchWork) -> dict[str, float]:
        decoder = self.parts["decoder"]
        assert isinstance(decoder, Decoder)
        c = decoder.config
        flops = decoder.flops(
            num_tokens=work.num_tokens,
            num_pairs=0,
            num_targets=work.num_targets,
        )
        hidden_dim = c.hidden_dim or -(-8 * c.dim // (3 * 256)) * 256
        channels = c.num_heads * decoder.head_dim * c.depth
        return {
            "decoder products": self._products(
                flops, self.rates.decoder_products
            ),
            "decoder attention": self._attention(
                4 * work.num_tile_pairs * channels, self.rates.decoder_attention
            ),
            "decoder elementwise": c.depth
            * self._elementwise(
                DECODER,
                work.num_tokens * c.dim,
                work.num_tokens * hidden_dim * _feed_forwards(decoder),
            ),
            "loss": self._moved(
                LOSS_BYTES * work.num_targets * decoder.head.shape[0]
            ),
        }

    def _encoder(self, encoder: ViT, num_images: int) -> dict[str, float]:
        c = encoder.config
        patches = encoder.grid[0] * encoder.grid[1] + encoder.num_prefix_tokens
        pairs = num_images * patches**2
        attention = 4 * pairs * c.dim * c.depth
        tokens = num_images * patches
        return {
            "encoder products": self._products(
                num_images * encoder.flops() - 3 * attention,
                self.rates.encoder_products,
            ),
            "encoder attention": self._attention(
                attention, self.rates.encoder_attention
            ),
            "encoder elementwise": c.depth
            * self._elementwise(
                ENCODER, tokens * c.dim, tokens * c.dim * c.mlp_ratio
            ),
        }

    def _connector(self, num_images: int) -> dict[str, float]:
        connector = self.parts["connector"]
        assert isinstance(connector, Connector)
        seconds = {
            "connector products": self._products(
                num_images * connector.flops(), self.rates.connector_products
            )
        }
        if isinstance(connector, CAbstractor):
            patches = connector.grid[0] * connector.grid[1]
            first = connector.output[0]
            assert isinstance(first, nn.Linear)
            dim = first.in_features
            tokens = num_images * (patches + connector.num_tokens)
            seconds["connector elementwise"] = len(
                connector.before
            ) * self._elementwise(CONNECTOR, tokens * dim, 0)
        return seconds

    def _products(self, flops: float | int, rate: float) -> float:
        """`flops` of forward and backward, the forward being a third."""
        return flops * (self.passes + 2) / 3 / rate

    def _attention(
        self, flops: float | int, rates: tuple[float, float]
    ) -> float:
        """`flops` of the forward pass."""
        forward, backward = rates
        return flops * (self.passes / forward + BACKWARD_PRODUCTS / backward)

    def _elementwise(
        self,
        traffic: dict[bool, Traffic],
        width: float | int,
        hidden: float | int,
    ) -> float:
        t = traffic[self.compiled]
        forward = t.forward * width + t.forward_hidden * hidden
        backward = t.backward * width + t.backward_hidden * hidden
        return self._moved(BF16 * (self.passes * forward + backward))

    def _moved(self, num_bytes: float | int) -> float:
        return num_bytes / self.rates.bandwidth


def _feed_forwards(decoder: Decoder) -> float:
    """That a token passes in a block, in the mean: one, or its experts."""
    c = decoder.config
    if c.experts is None:
        return 1.0
    sparse = c.depth // c.experts.every
    return 1 + sparse * (c.experts.top_k - 1) / c.depth
