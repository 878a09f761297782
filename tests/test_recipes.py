"""Every recipe, spelled out in full in `golden/`, so that a review sees what a change
changes.

`python -m pytest tests/test_recipes.py --update-golden` writes them anew.
"""

from pathlib import Path

import pytest
import torch

from mm1 import config as configs
from mm1.catalog import Recipe, all_recipes, recipe
from mm1.config import ConfigError
from mm1.recipes.sizes import (
    DECODERS,
    ENCODERS,
    decoder_config,
    decoder_size,
    encoder_config,
    law_peak_lr,
)

GOLDEN = Path(__file__).parent / "golden"

every_recipe = pytest.mark.parametrize(
    "make", all_recipes().values(), ids=all_recipes().keys()
)


@every_recipe
def test_matches_golden(make: Recipe, request: pytest.FixtureRequest) -> None:
    path = GOLDEN / f"{make.__name__}.txt"
    now = configs.to_text(make())
    if request.config.getoption("--update-golden"):
        path.write_text(now)
    assert path.read_text() == now


def test_no_golden_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(all_recipes())


@every_recipe
def test_survives_json(make: Recipe) -> None:
    assert configs.from_json(configs.to_json(make())) == make()


@every_recipe
def test_says_what_it_is(make: Recipe) -> None:
    assert (make.__doc__ or "").strip().endswith((".", "`."))


@every_recipe
def test_its_model_can_be_built(make: Recipe) -> None:
    with torch.device("meta"):
        model = make().model.build(vocab_size=1000)
    assert all(p.is_meta for p in model.parameters())


def test_a_recipe_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'pretrain_3b'"):
        recipe("pretrain_3")


@pytest.mark.parametrize(
    ("size", "rate"), [(3e9, 6e-5), (7e9, 4e-5), (30e9, 2e-5)]
)
def test_the_law_gives_the_papers_rates(size: float, rate: float) -> None:
    """MM1's peaks for its three sizes, which the paper rounds to one digit."""
    assert float(f"{law_peak_lr(size):.0e}") == rate


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_have_the_size_in_their_name(name: str) -> None:
    """Rounding the feed-forward up to a multiple of 256 adds most where it is narrow:
    8.4% for 9M."""
    unit = {"M": 1e6, "B": 1e9}[name[-1]]
    assert decoder_size(name) == pytest.approx(
        float(name[:-1]) * unit, rel=0.05
    )
    with torch.device("meta"):
        model = decoder_config(name).build(vocab_size=32_768)
    blocks = sum(p.numel() for p in model.blocks.parameters())
    assert blocks == pytest.approx(decoder_size(name), rel=0.09)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("S/16", 21.3), ("B/16", 85.1), ("L/14", 302.3), ("H/14", 629.7)],
)
def test_encoders_have_their_published_size(name: str, millions: float) -> None:
    """12 * depth * dim^2 and what norms and biases add; positions and patches are left
    out."""
    size = ENCODERS[name][3] * 16
    with torch.device("meta"):
        model = encoder_config(name, size).build()
    assert sum(
        p.numel() for p in model.blocks.parameters()
    ) / 1e6 == pytest.approx(millions, rel=0.002)
