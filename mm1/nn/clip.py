"""Contrastive pre-training of the image encoder (CLIP, Radford et al. 2021,
arXiv:2103.00020; MM1, section 3.2).

With `loss="sigmoid"` and its towers' options it is SigLIP (Zhai et al. 2023,
arXiv:2303.15343).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mm1 import dist
from mm1.batch import PairBatch
from mm1.config import ConfigError
from mm1.nn.contrastive import (
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)
from mm1.nn.linear import Linear, num_weights
from mm1.nn.model import Losses, MeanMetric, Model
from mm1.nn.pooling import AttentionPoolingHead
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.ranges import PositiveInt

Loss = Literal["softmax", "sigmoid"]

MAX_SCALE = 100.0
"""Bound of CLIP's scale: a sharper softmax is unstable. SigLIP's is not bounded."""
INITIAL_SCALE: dict[Loss, float] = {"softmax": 1 / 0.07, "sigmoid": 10.0}
INITIAL_BIAS = -10.0
"""Of the sigmoid's scores: nearly all pairs are negatives, so the loss starts low."""


class Projection(nn.Module):
    """Linear maps into the shared space, and the scale (and, for the sigmoid, bias) of
    similarities."""

    def __init__(
        self,
        image_dim: int,
        text_dim: int,
        dim: int | None,
        *,
        text_bias: bool,
        loss: Loss,
    ) -> None:
        """`dim` None keeps image features as they are and maps texts to their width."""
        super().__init__()
        self.loss: Loss = loss
        self.image = nn.Identity() if dim is None else Linear(image_dim, dim)
        self.text = Linear(text_dim, dim or image_dim, bias=text_bias)
        # Not a scalar, because FSDP2 shards the first axis.
        self.log_scale = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1)) if loss == "sigmoid" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.log_scale, math.log(INITIAL_SCALE[self.loss]))
        if self.bias is not None:
            nn.init.constant_(self.bias, INITIAL_BIAS)

    @property
    def scale(self) -> Float[Tensor, "1"]:
        log_scale = self.log_scale.float()
        if self.loss == "softmax":
            log_scale = _ClampMax.apply(log_scale, math.log(MAX_SCALE))
        return log_scale.exp()


class _ClampMax(torch.autograd.Function):
    """min(x, limit). Beyond the limit, only gradients that lead back pass; without any,
    x would be stuck."""

    @staticmethod
    def forward(ctx, x, limit):
        ctx.beyond = x > limit
        return x.clamp(max=limit)

    @staticmethod
    def backward(ctx, *grad_outputs):
        (gradient,) = grad_outputs
        # Summed, since one rank's part may point the other way.
        leads_back = dist.sum_over_ranks(gradient.clone()) > 0
        return gradient.where(leads_back | ~ctx.beyond, 0.0), None


class CLIP(Model):
    """Images and their captions in one embedding space."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        encoder: ViT.Config = field(default_factory=ViT.Config)
        text: TextTower.Config = field(default_factory=TextTower.Config)
        dim: PositiveInt | None = 768
        """Width of the shared space; None: the encoder's, without a projection of image
        features, as in SigLIP."""
        pooling: Literal["class", "mean", "attention"] | None = None
        """The feature of an image: the class token, the mean over patches, or attention
        pooling as in SigLIP; None: the class token if there is one, else the mean."""
        loss: Loss = "softmax"
        """CLIP's softmax over a batch, or SigLIP's sigmoid of each pair."""

        def build(self, *, vocab_size: int) -> "CLIP":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        c = self.config = config
        if c.pooling == "class" and not c.encoder.class_token:
            raise ConfigError("pooling='class' needs encoder.class_token=True")
        self.encoder = c.encoder.build()
        self.text = c.text.build(vocab_size=vocab_size)
        self.pooling = (
            AttentionPoolingHead(c.encoder)
            if c.pooling == "attention"
            else None
        )
        text_bias = c.text.output_bias
        self.projection = Projection(
            self.encoder.dim,
            self.text.dim,
            c.dim,
            text_bias=text_bias,
            loss=c.loss,
        )
        self.image_input = self.encoder.image_input

    def parts(self) -> dict[str, nn.Module]:
        pooling = {} if self.pooling is None else {"pooling": self.pooling}
        return {
            "encoder": self.encoder,
            "text": self.text,
            **pooling,
            "projection": self.projection,
        }

    def units(self) -> Sequence[nn.Module]:
        return [*self.encoder.blocks, *self.text.blocks]

    def flops(self, batch: PairBatch) -> dict[str, int]:
        num_pairs, length = batch.tokens.shape
        h, w = self.encoder.grid
        pooling = (
            {}
            if self.pooling is None
            else {"pooling": num_pairs * self.pooling.flops(h * w)}
        )
        return {
            "encoder": num_pairs * self.encoder.flops(),
            "text": self.text.flops(num_pairs, length),
            **pooling,
            "projection": 6 * num_pairs * num_weights(self.projection),
        }

    def forward(self, batch: PairBatch) -> Losses:
        images = self._images(batch.images)
        texts = self._texts(batch.tokens, batch.lengths)
        scale = self.projection.scale
        bias = self.projection.bias
        if bias is None:
            objective, hits = softmax_contrastive_loss(
                images, texts, scale, batch.caption_ids
            )
        else:
            objective, hits = sigmoid_contrastive_loss(
                images, texts, scale, bias, batch.caption_ids
            )
        count = torch.full_like(hits, batch.num_targets)
        means = {"loss": objective, "accuracy": hits, "scale": scale[0] * count}
        return Losses(
            objective,
            {
                name: MeanMetric(total.detach(), count)
                for name, total in means.items()
            },
        )

    def encode_images(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N E"]:
        """Features of unit length; their dot products with texts' are similarities."""
        return self._images(images)

    def encode_texts(
        self, tokens: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B E"]:
        """Features of unit length."""
        return self._texts(tokens, lengths)

    def encode_patches(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N P E"]:
        """Features for a connector: the encoder's, before pooling."""
        return self.encoder(images)

    # FSDP gathers and frees weights around each public method, so those must not call
    # one another.

    def _images(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        tokens = self.encoder.tokens(images)
        patches = tokens[:, self.encoder.num_prefix_tokens :]
        if self.pooling is not None:
            pooled = self.pooling(patches)
        elif (
            self.encoder.class_token is not None
            and self.config.pooling != "mean"
        ):
            pooled = tokens[:, 0]
        else:
            pooled = patches.mean(1)
        return F.normalize(self.projection.image(pooled), dim=-1)

    def _texts(
        self, tokens: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B E"]:
        return F.normalize(
            self.projection.text(self.text(tokens, lengths)), dim=-1
        )
