"""Reconstructive pre-training of the image encoder (AIM, El-Nouby et al. 2024,
arXiv:2401.08541; MM1, section 3.2).

The encoder reads an image's patches in raster order, with bidirectional attention in a
prefix of random length and causal attention after it. A head predicts the next patch
from each; predictions of patches in the prefix have no loss:

    patches         1   2   3   4   5   6        prefix of 3
    predicts        2   3   4   5   6   .
    loss            .   .   x   x   x   .

Downstream, attention is bidirectional over all patches and the head is dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mm1.batch import ImageBatch
from mm1.config import ConfigError
from mm1.nn.attention import PrefixAttention
from mm1.nn.block import MLP
from mm1.nn.linear import Linear, num_weights
from mm1.nn.losses import patch_regression_loss, patch_targets
from mm1.nn.model import Losses, MeanMetric, Model, Module
from mm1.nn.vit import ViT
from mm1.ranges import NonNegativeInt, PositiveInt


class HeadBlock(nn.Module):
    """x + mlp(norm(x)) of each patch alone."""

    def __init__(self, dim: int, *, norm_eps: float, gain: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, 4 * dim, activation="gelu", gain=gain, bias=False)

    def forward(
        self, x: Float[Tensor, "*batch D"]
    ) -> Float[Tensor, "*batch D"]:
        return x + self.mlp(self.norm(x))


class PixelHead(Module):
    """Maps features to the pixels of the next patch.

    It is large so that the encoder does not spend its last layers on pixels (AIM,
    section 3.2). Width, MLP ratio, the lack of biases and the positions added to its
    input are the paper's; residual sums and norms are our choice.
    """

    def __init__(
        self,
        input_dim: int,
        num_pixels: int,
        *,
        depth: int,
        dim: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.input = Linear(input_dim, dim)
        self.blocks = nn.ModuleList(
            HeadBlock(dim, norm_eps=norm_eps, gain=depth**-0.5)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.output = Linear(dim, num_pixels)

    def forward(
        self, x: Float[Tensor, "*batch E"]
    ) -> Float[Tensor, "*batch pixels"]:
        x = self.input(x)
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))


class AIM(Model):
    """Autoregressive prediction of image patches."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        encoder: ViT.Config = field(default_factory=ViT.Config)
        """Without class token and registers."""
        head_depth: NonNegativeInt = 12
        """Blocks of the head that predicts patches."""
        head_dim: PositiveInt = 2048
        """Width of the head; its MLPs are four times as wide inside."""

        def build(self, *, vocab_size: int) -> "AIM":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        c = config.encoder
        self.encoder = c.build()
        if self.encoder.num_prefix_tokens:
            raise ConfigError(
                "AIM predicts patches from patches alone: set encoder.class_token=False"
                " and encoder.num_registers=0"
            )
        if (num_patches := self.encoder.grid[0] * self.encoder.grid[1]) < 2:
            raise ConfigError(
                f"encoder.image_size={c.image_size} gives {num_patches} patch, so there"
                " is no next patch to predict"
            )
        self.num_patches = num_patches
        num_pixels = 3 * c.patch_size**2
        self.head = PixelHead(
            c.dim,
            num_pixels,
            depth=config.head_depth,
            dim=config.head_dim,
            norm_eps=c.norm_eps,
        )
        self.image_input = self.encoder.image_input

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "head": self.head}

    def units(self) -> Sequence[nn.Module]:
        return [*self.encoder.blocks, *self.head.blocks]

    @cached_property
    def _head_weights(self) -> int:
        return num_weights(self.head)

    def flops(self, batch: ImageBatch) -> dict[str, int]:
        """Counts all pairs of patches, since the dense mask computes them all."""
        num_images = len(batch.images)
        head = 6 * num_images * (self.num_patches - 1) * self._head_weights
        return {"encoder": num_images * self.encoder.flops(), "head": head}

    def forward(self, batch: ImageBatch) -> Losses:
        """The squared error of the patches after each prefix.

        `num_targets` counts images, before prefixes are drawn. So the objective is the
        sum over patches divided by the expected number of patches after a prefix, half
        of all; the metric `loss` is the exact mean.
        """
        prefixes = self.prefixes(batch.images)
        predictions = self.predict(batch.images, prefixes)
        total, count = patch_regression_loss(
            predictions,
            patch_targets(self.encoder.patches(batch.images)),
            prefixes,
        )
        return Losses(
            total / (self.num_patches / 2),
            {"loss": MeanMetric(total.detach(), count)},
        )

    def encode_patches(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N P E"]:
        """Features for a connector or a probe, from bidirectional attention."""
        return self.encoder(images)

    def prefixes(self, images: UInt8[Tensor, "N 3 H W"]) -> Int[Tensor, " N"]:
        """The length of each image's prefix, uniform in 1 ... P - 1.

        In training it is drawn from torch's generator, which the loop seeds in each
        step. In evaluation it is a hash of the pixels, so it does not depend on batch
        or rank.
        """
        if self.training:
            return torch.randint(
                1, self.num_patches, (len(images),), device=images.device
            )
        return 1 + images.sum((1, 2, 3)) % (self.num_patches - 1)

    def predict(
        self, images: UInt8[Tensor, "N 3 H W"], prefixes: Int[Tensor, " N"]
    ) -> Float[Tensor, "N steps pixels"]:
        """The normalised pixels of patches 2 ... P, each from the patches before it and
        the prefix."""
        features = self.encoder.tokens(
            images, PrefixAttention(prefixes, self.num_patches)
        )
        return self.head(
            (features + self.encoder.position.flatten(0, 1))[:, :-1]
        )
