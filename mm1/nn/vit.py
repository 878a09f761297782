"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), with the options that
published encoders need."""

from dataclasses import dataclass
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

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP, in red, green, blue of 0..1."""


class ViT(Module):
    """Images -> one feature for each patch, row by row.

    The stream inside is class token, registers, patches: whatever of the first two
    there is.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        image_size: int | tuple[int, int] = 336
        """Pixels: one side of a square, or (height, width)."""
        patch_size: int = 14
        depth: int = 24
        dim: int = 1024
        num_heads: int = 16
        mlp_ratio: float = 4.0
        """Width inside the feed-forward, as a multiple of `dim`."""
        feed_forward: Literal["mlp", "swiglu"] = "mlp"
        activation: Activation = "gelu"
        """Of the MLP."""
        norm: Literal["layer", "rms"] = "layer"
        norm_eps: float = 1e-5
        bias: bool = True
        """In attention and feed-forward."""
        patch_bias: bool = True
        """In the map of patches; CLIP's has none."""
        patch_norm: bool = False
        """A norm of the patches before positions are added, as in AIMv2."""
        pre_norm: bool = False
        """A norm before the first block, as in CLIP."""
        layer_scale: float | None = None
        """Where the blocks' layer scales start, as in DINOv2; None: no layer scales."""
        class_token: bool = False
        """One more token that looks at all patches; it is no part of the features for a
        connector."""
        num_registers: int = 0
        """Tokens without meaning, for the network's own use (Darcet et al. 2023,
        arXiv:2309.16588); no features."""
        positions: Literal["learnt", "sincos", "fixed"] = "learnt"
        """The table of positions starts at random, from 2-D sines and cosines, or stays
        at these ("fixed")."""
        mean: tuple[float, float, float] = CLIP_MEAN
        std: tuple[float, float, float] = CLIP_STD
        resize: Literal["squash", "crop", "pad"] = "squash"
        """How pictures of another shape become `image_size` (see
        `mm1.data.image_processing`)."""
        interpolation: Literal["bicubic", "bilinear"] = "bicubic"
        """Of that resizing; antialiased."""

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
            near = " and ".join(
                _pixels(size) for size in _near(self.image_size, c.patch_size)
            )
            given = f"encoder.image_size of {_pixels(self.image_size)} pixels"
            raise ConfigError(
                f"patches of {c.patch_size} pixels do not tile {given}; {near} would do"
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
        self.class_token = nn.Parameter(torch.empty(c.dim)) if c.class_token else None
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
        attention = Attention(c.dim, num_heads=c.num_heads, bias=c.bias, gain=gain)
        if c.feed_forward == "mlp":
            feed_forward = MLP(
                c.dim, hidden_dim, activation=c.activation, gain=gain, bias=c.bias
            )
        else:
            feed_forward = SwiGLU(c.dim, hidden_dim, gain=gain, bias=c.bias)
        start = c.layer_scale
        scale = nn.Identity if start is None else lambda: LayerScale(c.dim, start)
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
        """Tokens before the patches."""
        return int(self.config.class_token) + self.config.num_registers

    @property
    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N P E"]:
        """The normed features of the last layer.

        Raises:
            ValueError: the images are not of `image_size`.
        """
        return self.tokens(images)[:, self.num_prefix_tokens :]

    def tokens(
        self, images: UInt8[Tensor, "N 3 H W"], context: AttentionContext | None = None
    ) -> Float[Tensor, "N L E"]:
        """The features of the whole stream; `context` says who sees whom (None:
        everybody sees everything)."""
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

    def patches(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N P pixels"]:
        """Normalised pixels, by channel, row and column within each patch: a flattened
        convolution fits `patchify`.

        In fp32, whatever is computed in.
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

    def flops(self) -> int:
        """Operations of forward and backward for one image.

        6 for each weight and token, and 12 for each pair of tokens and channel of a
        block's attention.
        """
        num_tokens = self.grid[0] * self.grid[1] + self.num_prefix_tokens
        return (
            6 * num_tokens * num_weights(self)
            + 12 * num_tokens**2 * self.dim * self.config.depth
        )


def _pixels(size: tuple[int, int] | torch.Size) -> str:
    return f"{size[0]} x {size[1]}"


def _near(size: tuple[int, int], patch: int) -> list[tuple[int, int]]:
    """The next smaller and the next larger size that patches tile."""
    h, w = size
    step = patch
    smaller = (max(h // step, 1) * step, max(w // step, 1) * step)
    larger = (-(-h // step) * step, -(-w // step) * step)
    return sorted({smaller, larger})
