"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929) with the options of
published encoders."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.nn.attention import Attention, AttentionContext, FullAttention
from mm1.nn.block import MLP, Activation, Block, LayerScale, SwiGLU
from mm1.nn.linear import Linear, num_weights
from mm1.nn.model import ImageInput, Module
from mm1.nn.position import interpolate, sincos
from mm1.ranges import (
    AnyFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI's CLIP: red, green, blue in 0..1."""


class ViT(Module):
    """Maps images to one feature per patch, row by row.

    Inside, the sequence is class token and registers, if any, then patches.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        image_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 336
        """Pixels: one side of a square, or (height, width)."""
        patch_size: PositiveInt = 14
        """Side of a square patch, in pixels."""
        depth: PositiveInt = 24
        """Blocks."""
        dim: PositiveInt = 1024
        """Width of a patch."""
        num_heads: PositiveInt = 16
        """Of the attention."""
        mlp_ratio: PositiveFloat = 4.0
        """Width inside the feed-forward as a multiple of `dim`."""
        feed_forward: Literal["mlp", "swiglu"] = "mlp"
        """Two maps, or three with a gate (SwiGLU)."""
        activation: Activation = "gelu"
        """Of the MLP."""
        norm: Literal["layer", "rms"] = "layer"
        """LayerNorm or RMSNorm."""
        norm_eps: NonNegativeFloat = 1e-5
        """Added to the variance in the norms."""
        bias: bool = True
        """In attention and feed-forward."""
        patch_bias: bool = True
        """A bias in the patch embedding; CLIP's has none."""
        patch_norm: bool = False
        """Norm of the patches before positions are added, as in AIMv2."""
        pre_norm: bool = False
        """Norm before the first block, as in CLIP."""
        layer_scale: NonNegativeFloat | None = None
        """Initial value of LayerScale, as in DINOv2; None: no LayerScale."""
        class_token: bool = False
        """A token before the patches; a connector does not see it."""
        num_registers: NonNegativeInt = 0
        """Register tokens (Darcet et al. 2023, arXiv:2309.16588); a connector does not
        see them."""
        positions: Literal["learnt", "sincos", "fixed"] = "learnt"
        """The position table is learnt from random values or from 2-D sines and
        cosines, or stays at these ("fixed")."""
        mean: tuple[AnyFloat, AnyFloat, AnyFloat] = CLIP_MEAN
        """Of red, green and blue, from 0 to 1: what pixels are normalised by."""
        std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = CLIP_STD
        """As `mean`."""
        resize: Literal["squash", "crop", "pad"] = "squash"
        """how images of another shape become `image_size` (see
        `mm1.data.image_processing`)."""
        interpolation: Literal["bicubic", "bilinear"] = "bicubic"
        """Of that resizing, which is antialiased."""

        def build(self) -> "ViT":
            return self.make()

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        size = config.image_size
        self.config = c
        self.dim = c.dim
        self.image_size = (size, size) if isinstance(size, int) else size
        self.image_input = ImageInput(
            self.image_size, c.resize, c.interpolation, c.mean
        )
        if any(side % c.patch_size for side in self.image_size):
            sizes = _sizes_that_tile(self.image_size, c.patch_size)
            raise ConfigError(
                f"patches of {c.patch_size} pixels do not tile encoder.image_size of"
                f" {_pixels(self.image_size)} pixels; use"
                f" {' or '.join(_pixels(size) for size in sizes)}"
            )
        self.grid = (
            self.image_size[0] // c.patch_size,
            self.image_size[1] // c.patch_size,
        )
        self.patchify = Linear(3 * c.patch_size**2, c.dim, bias=c.patch_bias)
        self.patch_norm = self._norm() if c.patch_norm else nn.Identity()
        self.position = nn.Parameter(
            torch.empty(*self.grid, c.dim), requires_grad=c.positions != "fixed"
        )
        self.class_token = (
            nn.Parameter(torch.empty(c.dim)) if c.class_token else None
        )
        self.registers = (
            nn.Parameter(torch.empty(c.num_registers, c.dim))
            if c.num_registers
            else None
        )
        self.pre_norm = self._norm() if c.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(self._block() for _ in range(c.depth))
        self.norm = self._norm()
        self.register_buffer("scale", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.empty(3, 1, 1), persistent=False)
        self.reset_parameters()

    def _norm(self) -> nn.Module:
        norm = nn.LayerNorm if self.config.norm == "layer" else nn.RMSNorm
        return norm(self.config.dim, eps=self.config.norm_eps)

    def _block(self) -> Block:
        c = self.config
        gain = (2 * self.config.depth) ** -0.5
        hidden_dim = round(self.config.mlp_ratio * self.dim)
        attention = Attention(
            c.dim, num_heads=c.num_heads, bias=c.bias, gain=gain
        )
        if c.feed_forward == "mlp":
            feed_forward = MLP(
                c.dim,
                hidden_dim,
                activation=c.activation,
                gain=gain,
                bias=c.bias,
            )
        else:
            feed_forward = SwiGLU(c.dim, hidden_dim, gain=gain, bias=c.bias)
        start = c.layer_scale
        scale = (
            nn.Identity if start is None else lambda: LayerScale(c.dim, start)
        )
        return Block(attention, feed_forward, self._norm, scale)

    def reset_parameters(self) -> None:
        if self.config.positions == "learnt":
            nn.init.normal_(self.position, std=0.02)
        else:
            with torch.no_grad():
                self.position.copy_(sincos(self.grid, self.dim))
        for tokens in (self.class_token, self.registers):
            if tokens is not None:
                nn.init.normal_(tokens, std=0.02)
        mean = torch.tensor(self.config.mean)
        std = torch.tensor(self.config.std)
        self.get_buffer("scale").copy_((1 / (255 * std))[:, None, None])
        self.get_buffer("shift").copy_((-mean / std)[:, None, None])

    @property
    def num_prefix_tokens(self) -> int:
        """Class token and registers."""
        return int(self.config.class_token) + self.config.num_registers

    @property
    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N P E"]:
        """The normed features of the patches.

        Raises:
            ValueError: the images are not of size `image_size`.
        """
        return self.tokens(images)[:, self.num_prefix_tokens :]

    def tokens(
        self,
        images: UInt8[Tensor, "N 3 H W"],
        context: AttentionContext | None = None,
    ) -> Float[Tensor, "N L E"]:
        """The features of the whole sequence; `context` None is bidirectional
        attention."""
        if images.shape[2:] != self.image_size:
            given = _pixels(images.shape[2:])
            expected = _pixels(self.image_size)
            raise ValueError(
                f"the encoder is built for images of {expected} pixels (height x"
                f" width), got {given}"
            )
        x = self.patch_norm(
            self.patchify(self.patches(images).to(self.position.dtype))
        ) + self.position.flatten(0, 1)
        extra = [
            t.view(-1, self.dim).expand(len(x), -1, -1)
            for t in (self.class_token, self.registers)
            if t is not None
        ]
        x = self.pre_norm(torch.cat([*extra, x], 1))
        context = context or FullAttention()
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x)

    def patches(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N P pixels"]:
        """Normalised pixels of each patch, always in fp32.

        Their order is channel, row, column, so that a patch convolution's flattened
        weight fits `patchify`.
        """
        shift = self.get_buffer("shift").float()
        scale = self.get_buffer("scale").float()
        pixels = torch.addcmul(shift, images.float(), scale)
        h, w = self.grid
        side = self.config.patch_size
        cut = pixels.view(-1, 3, h, side, w, side).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(-1, h * w, 3 * side * side)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state | {
            name: interpolate(t, self.grid)
            for name, t in state.items()
            if name == "position"
        }

    @cached_property
    def _num_weights(self) -> int:
        return num_weights(self)

    def flops(self) -> int:
        """Floating-point operations of forward and backward for one image.

        6 per weight and token, 12 per pair of tokens and channel of each attention.
        """
        num_tokens = self.grid[0] * self.grid[1] + self.num_prefix_tokens
        return (
            6 * num_tokens * self._num_weights
            + 12 * num_tokens**2 * self.dim * self.config.depth
        )


def _pixels(size: tuple[int, int] | torch.Size) -> str:
    return f"{size[0]} x {size[1]}"


def _sizes_that_tile(
    size: tuple[int, int], patch: int
) -> list[tuple[int, int]]:
    """The next smaller and the next larger size."""
    h, w = size
    smaller = (max(h // patch, 1) * patch, max(w // patch, 1) * patch)
    larger = (-(-h // patch) * patch, -(-w // patch) * patch)
    return sorted({smaller, larger})
