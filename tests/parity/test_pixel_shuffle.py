"""Pixel shuffle computes what Idefics3's connector in transformers does, with its
weights."""

import pytest
import torch
from transformers import Idefics3Config
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector

from mm1.nn.connectors.pixel_shuffle import PixelShuffle


@pytest.mark.parametrize(
    ("side", "scale_factor"), [(6, 2), (6, 3), (4, 1), (8, 4)]
)
def test_tokens_are_those_of_idefics3(side: int, scale_factor: int) -> None:
    torch.manual_seed(0)
    theirs = Idefics3Connector(
        Idefics3Config(
            vision_config={"hidden_size": 16},
            text_config={
                "model_type": "llama",
                "hidden_size": 24,
                "num_attention_heads": 2,
            },
            scale_factor=scale_factor,
        )
    )
    ours = PixelShuffle.Config(scale_factor=scale_factor).build(
        grid=(side, side), input_dim=16, output_dim=24
    )
    state = theirs.state_dict()
    ours.load_state_dict(
        {"output.weight": state["modality_projection.proj.weight"]}, strict=True
    )
    patches = torch.randn(2, side * side, 16)
    assert torch.equal(ours(patches), theirs(patches))
