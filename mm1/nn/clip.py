"""Contrastive pre-training of the image encoder (CLIP, Radford et al. 2021, arXiv:2103.00020; MM1, section 3.2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mm1.batch import PairBatch
from mm1.nn.attention import Everything
from mm1.nn.block import Activation, clip_block
from mm1.nn.linear import Embedding, Linear, num_weights
from mm1.nn.losses import contrastive
from mm1.nn.model import Losses, Mean, Model, Module
from mm1.nn.vit import ViT

LARGEST_SCALE = 100.0
"""Of the similarities, as in CLIP: a sharper softmax is unstable."""


class TextTower(Module):
    """A causal transformer over captions, read at their last token."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        max_length: int = 77
        depth: int = 12
        dim: int = 768
        num_heads: int = 12
        activation: Activation = "gelu"

        def build(self, *, vocab_size: int) -> "TextTower":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        c = config
        self.dim = c.dim
        self.embedding = Embedding(vocab_size, c.dim)
        self.position = nn.Parameter(torch.empty(c.max_length, c.dim))
        self.blocks = nn.ModuleList(
            clip_block(c.dim, c.num_heads, 4 * c.dim, activation=c.activation, depth=c.depth) for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.position, std=0.01)

    def forward(self, tokens: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """Raises ValueError for captions longer than `max_length`; what follows a caption's end is never looked at."""
        num_captions, length = tokens.shape
        if length > len(self.position):
            raise ValueError(f"the text tower reads captions of up to {len(self.position)} tokens, got {length}")
        x, context = self.embedding(tokens) + self.position[:length], Everything(causal=True)
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x[torch.arange(num_captions, device=x.device), lengths - 1])

    def flops(self, num_captions: int, length: int) -> int:
        """Operations of forward and backward; half of the attention lies above the diagonal and is not counted."""
        attention = 6 * num_captions * length * (length + 1) * self.dim * len(self.blocks)
        return 6 * num_captions * length * num_weights(self.blocks) + attention


class Projection(nn.Module):
    """The two maps into the common space, and the temperature."""

    def __init__(self, image_dim: int, text_dim: int, dim: int) -> None:
        super().__init__()
        self.image, self.text = Linear(image_dim, dim), Linear(text_dim, dim)
        self.log_scale = nn.Parameter(torch.empty(1))  # not a scalar: FSDP2 shards the first axis
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_scale, math.log(1 / 0.07))

    @property
    def scale(self) -> Float[Tensor, "1"]:
        return self.log_scale.float().exp().clamp(max=LARGEST_SCALE)


class CLIP(Model):
    """Images and their captions, brought together in one space."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        encoder: ViT.Config = field(default_factory=ViT.Config)
        text: TextTower.Config = field(default_factory=TextTower.Config)
        dim: int = 768
        """Width of the common space."""

        def build(self, *, vocab_size: int) -> "CLIP":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        self.encoder, self.text = config.encoder.build(), config.text.build(vocab_size=vocab_size)
        self.projection = Projection(self.encoder.dim, self.text.dim, config.dim)
        self.image_size = self.encoder.image_size
        self.resize, self.interpolation = config.encoder.resize, config.encoder.interpolation

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "text": self.text, "projection": self.projection}

    def units(self) -> Sequence[nn.Module]:
        return [*self.encoder.blocks, *self.text.blocks]

    def flops(self, batch: PairBatch) -> dict[str, int]:
        num_pairs, length = batch.tokens.shape
        return {
            "encoder": num_pairs * self.encoder.flops(),
            "text": self.text.flops(num_pairs, length),
            "projection": 6 * num_pairs * num_weights(self.projection),
        }

    def forward(self, batch: PairBatch) -> Losses:
        images, texts = self._images(batch.images), self._texts(batch.tokens, batch.lengths)
        objective, hits = contrastive(images, texts, self.projection.scale, batch.caption_ids)
        count = torch.full_like(hits, len(images))
        return Losses(objective, {"loss": Mean(objective.detach(), count), "accuracy": Mean(hits, count)})

    def encode_images(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        """Features of unit length; compared with those of texts by a dot product."""
        return self._images(images)

    def encode_texts(self, tokens: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        """Features of unit length."""
        return self._texts(tokens, lengths)

    # FSDP gathers and frees weights around each public entry point, so these must not call one another.

    def _images(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        """The class token's feature, or the mean over all patches where there is none."""
        tokens = self.encoder.tokens(images)
        pooled = tokens.mean(1) if self.encoder.class_token is None else tokens[:, 0]
        return F.normalize(self.projection.image(pooled), dim=-1)

    def _texts(self, tokens: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B E"]:
        return F.normalize(self.projection.text(self.text(tokens, lengths)), dim=-1)
