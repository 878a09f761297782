"""Reconstructive pre-training of the image encoder (AIM, El-Nouby et al. 2024,
arXiv:2401.08541; MM1, section 3.2).

The encoder reads an image's patches in raster order: a prefix of random length whole,
the rest causally. Behind each patch, a head foretells the next one; what it says about
the prefix does not count:

    patches         1   2   3   4   5   6        prefix of 3
    predicts        2   3   4   5   6   .
    counts          .   .   x   x   x   .

At use the encoder sees all patches at once, as the prefix does, and the head is left
behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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


class HeadBlock(nn.Module):
    """x + mlp(norm(x)), for each patch by itself."""

    def __init__(self, dim: int, *, norm_eps: float, gain: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, 4 * dim, activation="gelu", gain=gain, bias=False)

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        return x + self.mlp(self.norm(x))


class PixelHead(Module):
    """Features -> the pixels of the next patch.

    It is heavy so that the encoder need not spend its last layers on pixels (AIM,
    section 3.2). Its width, the fourfold width inside, the lack of biases and the
    positions at its entrance are the paper's; sums and norms are our choice.
    """

    def __init__(
        self, input_dim: int, num_pixels: int, *, depth: int, dim: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.input = Linear(input_dim, dim)
        self.blocks = nn.ModuleList(
            HeadBlock(dim, norm_eps=norm_eps, gain=depth**-0.5) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps)
        self.output = Linear(dim, num_pixels)

    def forward(self, x: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch pixels"]:
        x = self.input(x)
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))


class AIM(Model):
    """Images, foretold patch by patch."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        encoder: ViT.Config = field(default_factory=ViT.Config)
        """Without a class token or registers: patches are foretold from patches
        alone."""
        head_depth: int = 12
        head_dim: int = 2048
        """Width between the head's blocks; four times as wide inside."""

        def build(self, *, vocab_size: int) -> "AIM":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        c = config.encoder
        self.encoder = c.build()
        if self.encoder.num_prefix_tokens:
            raise ConfigError(
                "AIM foretells patches from patches alone: encoder.class_token=False,"
                " num_registers=0"
            )
        if (num_patches := self.encoder.grid[0] * self.encoder.grid[1]) < 2:
            raise ConfigError(
                f"encoder.image_size={c.image_size} gives {num_patches} patch: there is"
                " no next one"
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

    def flops(self, batch: ImageBatch) -> dict[str, int]:
        """All pairs of patches are counted, as the dense mask computes them."""
        num_images = len(batch.images)
        head = 6 * num_images * (self.num_patches - 1) * num_weights(self.head)
        return {"encoder": num_images * self.encoder.flops(), "head": head}

    def forward(self, batch: ImageBatch) -> Losses:
        """The mean over all patches after the prefixes, whatever image, micro-batch or
        rank they are of.

        A batch's targets are counted in images before prefixes are drawn, so the sum is
        divided by the number of patches that an image is expected to have after its
        prefix, half of all; the figure `loss` is the exact mean.
        """
        prefixes = self.prefixes(batch.images)
        predictions = self.predict(batch.images, prefixes)
        total, count = patch_regression_loss(
            predictions, patch_targets(self.encoder.patches(batch.images)), prefixes
        )
        return Losses(
            total / (self.num_patches / 2), {"loss": MeanMetric(total.detach(), count)}
        )

    def encode_patches(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N P E"]:
        """What a connector or a probe sees: features of patches that have all seen one
        another."""
        return self.encoder(images)

    def prefixes(self, images: UInt8[Tensor, "N 3 H W"]) -> Int[Tensor, " N"]:
        """The length of each image's prefix, from 1 to P - 1 patches.

        In training they are drawn from torch's generator, which the loop seeds anew for
        each step. In evaluation they follow from the image's pixels: the same in any
        batch and on any rank, and spread alike.
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
        from the prefix."""
        features = self.encoder.tokens(
            images, PrefixAttention(prefixes, self.num_patches)
        )
        return self.head((features + self.encoder.position.flatten(0, 1))[:, :-1])
