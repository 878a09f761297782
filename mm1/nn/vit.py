"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), shaped so that CLIP's published weights fit."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mm1.nn.attention import Everything
from mm1.nn.block import Activation, clip_block
from mm1.nn.linear import Linear, num_weights
from mm1.nn.model import Module
from mm1.nn.position import interpolate, sincos

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP, in red, green, blue of 0..1."""


class ViT(Module):
    """Images -> one feature for each patch, row by row."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        image_size: int | tuple[int, int] = 336
        """Pixels: one side of a square, or (height, width)."""
        patch_size: int = 14
        depth: int = 24
        dim: int = 1024
        num_heads: int = 16
        mlp_ratio: float = 4.0
        class_token: bool = False
        """One more token that looks at all patches; it is no part of the features for a connector."""
        positions: Literal["learnt", "sincos"] = "learnt"
        """How the learnt table of positions starts: at random or from 2-D sines."""
        activation: Activation = "gelu"
        pre_norm: bool = False
        """A norm before the first block, as in CLIP."""
        mean: tuple[float, float, float] = CLIP_MEAN
        std: tuple[float, float, float] = CLIP_STD

        def build(self) -> "ViT":
            return self.make()

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, size = config, config.image_size
        self.config, self.dim, self.image_size = c, c.dim, (size, size) if isinstance(size, int) else size
        if any(side % c.patch_size for side in self.image_size):
            raise ValueError(f"patches of {c.patch_size} pixels do not tile an image of {_pixels(self.image_size)}")
        self.grid = (self.image_size[0] // c.patch_size, self.image_size[1] // c.patch_size)
        hidden_dim = round(c.mlp_ratio * c.dim)
        self.patchify = Linear(3 * c.patch_size**2, c.dim, bias=True)
        self.position = nn.Parameter(torch.empty(*self.grid, c.dim))
        self.class_token = nn.Parameter(torch.empty(c.dim)) if c.class_token else None
        self.pre_norm = nn.LayerNorm(c.dim) if c.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            clip_block(c.dim, c.num_heads, hidden_dim, activation=c.activation, depth=c.depth) for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.dim)
        self.register_buffer("scale", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.empty(3, 1, 1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.config.positions == "sincos":
            with torch.no_grad():
                self.position.copy_(sincos(self.grid, self.dim))
        else:
            nn.init.normal_(self.position, std=0.02)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=0.02)
        mean, std = torch.tensor(self.config.mean), torch.tensor(self.config.std)
        self.get_buffer("scale").copy_((1 / (255 * std))[:, None, None])
        self.get_buffer("shift").copy_((-mean / std)[:, None, None])

    @property
    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def forward(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N P E"]:
        """The normed features of the last layer.

        Raises:
            ValueError: the images are not of `image_size`.
        """
        x = self.tokens(images)
        return x if self.class_token is None else x[:, 1:]

    def tokens(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N L E"]:
        """The features, those of the class token first if there is one."""
        if images.shape[2:] != self.image_size:
            given, expected = _pixels(images.shape[2:]), _pixels(self.image_size)
            raise ValueError(f"the encoder is built for images of {expected} pixels (height x width), got {given}")
        x = self.patchify(self.patches(images)) + self.position.flatten(0, 1)
        if self.class_token is not None:
            x = torch.cat((self.class_token.expand(len(x), 1, -1), x), 1)
        x, context = self.pre_norm(x), Everything()
        for block in self.blocks:
            x = block(x, context)
        return self.norm(x)

    def patches(self, images: UInt8[Tensor, "N 3 H W"]) -> Float[Tensor, "N P pixels"]:
        """Normalised pixels, by channel, row and column within each patch: a flattened convolution fits `patchify`."""
        pixels = torch.addcmul(self.get_buffer("shift"), images.float(), self.get_buffer("scale")).to(
            self.position.dtype
        )
        (h, w), side = self.grid, self.config.patch_size
        cut = pixels.view(-1, 3, h, side, w, side).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(-1, h * w, 3 * side * side)

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state | {name: interpolate(t, self.grid) for name, t in state.items() if name == "position"}

    def flops(self) -> int:
        """Operations of forward and backward for one image.

        6 for each weight and token, and 12 for each pair of tokens and channel of a block's attention.
        """
        num_tokens = self.grid[0] * self.grid[1] + (self.class_token is not None)
        return 6 * num_tokens * num_weights(self) + 12 * num_tokens**2 * self.dim * self.config.depth


def _pixels(size: tuple[int, int] | torch.Size) -> str:
    return f"{size[0]} x {size[1]}"
