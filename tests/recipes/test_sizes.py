"""How many parameters every preset has, as a table to read and to compare with:
`golden_params.txt`.

`python -m pytest tests/recipes/test_sizes.py --update-golden` writes it anew.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mm1.nn.experts import MoE
from mm1.recipes.sizes import (
    AIM_ENCODERS,
    DECODERS,
    ENCODERS,
    MOE_DECODERS,
    aim_encoder_config,
    decoder_config,
    encoder_config,
)

TABLE = Path(__file__).parents[1] / "golden_params.txt"
VOCABULARY = 32_768
HEADER = "                 parameters       active for a token"


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def idle(module: nn.Module) -> int:
    """Parameters of the experts that a token does not use."""
    layers = [m for m in module.modules() if isinstance(m, MoE)]
    return sum(
        (m.config.num_experts - m.config.top_k) * 3 * m.dim * m.hidden_dim
        for m in layers
    )


def lines() -> Iterator[str]:
    with torch.device("meta"):
        yield (
            f"decoders, without the table of embeddings (with one of {VOCABULARY:,}"
            f" words: + {VOCABULARY:,} x width)"
        )
        yield HEADER
        for name in (*DECODERS, *MOE_DECODERS):
            built = decoder_config(name).build(vocab_size=VOCABULARY)
            total = count(built) - count(built.embedding)
            yield f"{name:10}{total:>17,}{total - idle(built):>25,}"
        yield (
            "encoders, with patches and positions at 224 px (S/16, B/16), 336 px"
            " (L/14), 378 px (H/14)"
        )
        for name, size in zip(ENCODERS, (224, 224, 336, 378), strict=True):
            yield f"{name:10}{count(encoder_config(name, size).build()):>17,}"
        yield "encoders of AIM, at 224 px; their positions are fixed, and count"
        for name in AIM_ENCODERS:
            yield f"AIM-{name:6}{count(aim_encoder_config(name).build()):>17,}"


def test_every_preset_has_the_parameters_of_the_table(
    request: pytest.FixtureRequest,
) -> None:
    now = "".join(f"{line}\n" for line in lines())
    if request.config.getoption("--update-golden"):
        TABLE.write_text(now)
    assert TABLE.read_text() == now


def test_the_3b_mixture_holds_64_billion() -> None:
    """64.78B from the shape alone: attention and feed-forward of 26 blocks, 13 of them
    with 64 feed-forwards."""
    depth = 26
    dim = 3072
    hidden = 8192
    experts = 64
    by_hand = depth * 4 * dim**2 + (13 + 13 * experts) * 3 * dim * hidden
    assert by_hand == pytest.approx(64.78e9, rel=1e-4)
    with torch.device("meta"):
        built = decoder_config("3B-MoE").build(vocab_size=8)
    blocks = sum(count(block) for block in built.blocks)
    # Routers and norms add the rest: 13 x 64 x 3,072 and 53 x 3,072.
    assert blocks == by_hand + 13 * experts * dim + 2 * depth * dim
