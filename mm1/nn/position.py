"""Positions: rotary embeddings for streams of tokens, tables over (rows, columns) for
image patches."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mm1.config import ConfigError
from mm1.ranges import PositiveFloat, PositiveInt


class RotaryEmbedding(NamedTuple):
    """Cosines and sines of each token's angles, computed once for all layers."""

    cos: Float[Tensor, "T 1 d"]
    sin: Float[Tensor, "T 1 d"]
    """Negated in the first half of the channels, as `apply_rotary` needs it."""


Llama3Scaling = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveInt]
"""(factor, low frequency factor, high frequency factor, original length): see
`slowed`."""


def rotary_embedding(
    positions: Int[Tensor, " T"],
    dim: int,
    *,
    base: float,
    dtype: torch.dtype,
    llama3_scaling: Llama3Scaling | None = None,
) -> RotaryEmbedding:
    """RoPE (Su et al. 2021, arXiv:2104.09864) for heads of width `dim`, computed in
    fp32 and returned in `dtype`."""
    frequencies = base ** (
        -torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32)
        / dim
    )
    if llama3_scaling is not None:
        frequencies = llama3_frequencies(frequencies, llama3_scaling)
    angles = positions.float()[:, None, None] * frequencies
    cos = angles.cos()
    sin = angles.sin()
    return RotaryEmbedding(
        torch.cat((cos, cos), -1).to(dtype),
        torch.cat((-sin, sin), -1).to(dtype),
    )


def llama3_frequencies(
    frequencies: Float[Tensor, " half"], scaling: Llama3Scaling
) -> Float[Tensor, " half"]:
    """Frequencies in radians per token, scaled for long contexts as in Llama 3.1.

    Frequencies with at least `high` turns in the original length are kept, those with
    at most `low` turns are divided by `factor`, with linear interpolation in between.
    """
    factor, low, high, original = scaling
    kept = (
        (frequencies * original / (2 * math.pi) - low) / (high - low)
    ).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def apply_rotary(
    x: Float[Tensor, "T heads d"], by: RotaryEmbedding
) -> Float[Tensor, "T heads d"]:
    """Rotate channels i and i + d/2 together, the layout of published Llama and Qwen
    weights."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * by.cos, torch.cat((second, first), -1), by.sin)


def sincos(grid: tuple[int, int], dim: int) -> Float[Tensor, "h w E"]:
    """Fixed 2-D sines and cosines: half of the channels for the row, half for the
    column (MAE, arXiv:2111.06377).

    Raises:
        ConfigError: `dim` is not a multiple of 4.
    """
    if dim % 4:
        raise ConfigError(
            f"2-D sin-cos positions need a width divisible by 4, got {dim}"
        )
    rows, columns = (_waves(torch.arange(size), dim // 2) for size in grid)
    h, w = grid
    return torch.cat(
        (rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)), -1
    )


def _waves(positions: Int[Tensor, " n"], dim: int) -> Float[Tensor, "n dim"]:
    angles = positions[:, None] * 10_000.0 ** (
        -torch.arange(dim // 2) / (dim // 2)
    )
    return torch.cat((angles.sin(), angles.cos()), -1)


def interpolate(
    position: Float[Tensor, "old_h old_w E"], grid: tuple[int, int]
) -> Float[Tensor, "h w E"]:
    """Resample a position table to another patch grid, bicubic; the same tensor if the
    grids are equal.

    Antialiased, so that a smaller grid averages the entries it merges.
    """
    if position.shape[:2] == grid:
        return position
    channels_first = position.float().permute(2, 0, 1)[None]
    resized = F.interpolate(
        channels_first, size=grid, mode="bicubic", antialias=True
    )
    return resized[0].permute(1, 2, 0).contiguous().to(position.dtype)
