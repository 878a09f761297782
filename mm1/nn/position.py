"""Where a token or patch is: rotary embedding for streams of tokens, tables over (rows,
columns) for images."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class RotaryEmbedding(NamedTuple):
    """Cosines and sines of each token's angles, made once and used by every layer."""

    cos: Float[Tensor, "T 1 d"]
    sin: Float[Tensor, "T 1 d"]
    """Negative in the first half of the channels: see `apply_rotary`."""


Llama3Scaling = tuple[float, float, float, int]
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
    """RoPE's angles (Su et al. 2021, arXiv:2104.09864) for heads of width `dim`:
    computed in fp32, kept in `dtype`."""
    frequencies = base ** (
        -torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    )
    if llama3_scaling is not None:
        frequencies = llama3_frequencies(frequencies, llama3_scaling)
    angles = positions.float()[:, None, None] * frequencies
    cos = angles.cos()
    sin = angles.sin()
    return RotaryEmbedding(
        torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)
    )


def llama3_frequencies(
    frequencies: Float[Tensor, " half"], scaling: Llama3Scaling
) -> Float[Tensor, " half"]:
    """Speeds in radians a token, as Llama 3.1 slows them down for longer texts than it
    was first trained on.

    What turns at least `high` times in the original length stays, what turns at most
    `low` times is slowed by `factor`, and between the two the share of each goes
    linearly with the number of turns.
    """
    factor, low, high, original = scaling
    kept = ((frequencies * original / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor)


def apply_rotary(
    x: Float[Tensor, "T heads d"], by: RotaryEmbedding
) -> Float[Tensor, "T heads d"]:
    """Turns channel i together with channel i + d/2, the layout of published Llama and
    Qwen weights."""
    first, second = x.chunk(2, -1)
    return torch.addcmul(x * by.cos, torch.cat((second, first), -1), by.sin)


def sincos(grid: tuple[int, int], dim: int) -> Float[Tensor, "h w E"]:
    """Fixed 2-D sines and cosines: half of the channels tell the row, half the column
    (MAE, arXiv:2111.06377)."""
    if dim % 4:
        raise ValueError(
            f"2-D sin-cos positions need a width that 4 divides, got {dim}"
        )
    rows, columns = (_waves(torch.arange(size), dim // 2) for size in grid)
    h, w = grid
    return torch.cat(
        (rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)), -1
    )


def _waves(positions: Int[Tensor, " n"], dim: int) -> Float[Tensor, "n dim"]:
    angles = positions[:, None] * 10_000.0 ** (-torch.arange(dim // 2) / (dim // 2))
    return torch.cat((angles.sin(), angles.cos()), -1)


def interpolate(
    position: Float[Tensor, "old_h old_w E"], grid: tuple[int, int]
) -> Float[Tensor, "h w E"]:
    """A table over one patch grid as a table over another, bicubic; the same tensor
    where the grids are equal.

    Antialiased, so that a smaller grid averages the entries it merges instead of
    picking some of them.
    """
    if position.shape[:2] == grid:
        return position
    channels_first = position.float().permute(2, 0, 1)[None]
    resized = F.interpolate(channels_first, size=grid, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().to(position.dtype)
