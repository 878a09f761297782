from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from nn.batches import ENCODER, reset_parameters, without_gradient
from torch.utils.flop_counter import FlopCounterMode

from mm1.config import ConfigError
from mm1.nn.model import adapt
from mm1.nn.vit import ViT


def images(num: int = 2, height: int = 8, width: int = 12) -> torch.Tensor:
    return torch.randint(256, (num, 3, height, width), dtype=torch.uint8)


def test_gives_a_feature_for_each_patch_of_a_grid_that_need_not_be_square() -> (
    None
):
    vit = ENCODER.build()
    assert vit.grid == (4, 6)
    assert vit(images()).shape == (2, 24, 16)


def test_the_class_token_is_no_feature_of_the_grid() -> None:
    vit = replace(ENCODER, class_token=True).build()
    assert vit(images()).shape == (2, 24, 16)
    assert vit.tokens(images()).shape == (2, 25, 16)


def test_patches_are_a_strided_convolution_of_normalised_pixels() -> None:
    vit = ENCODER.build()
    x = images()
    mean, std = (
        torch.tensor(c)[:, None, None]
        for c in (vit.config.mean, vit.config.std)
    )
    weight = vit.patchify.weight.view(16, 3, 2, 2)
    expected = (
        F.conv2d((x / 255 - mean) / std, weight, vit.patchify.bias, stride=2)
        .flatten(2)
        .transpose(1, 2)
    )
    torch.testing.assert_close(vit.patchify(vit.patches(x)), expected)


def test_images_do_not_mix() -> None:
    vit = ENCODER.build()
    x = images(3)
    # Matrix products of other sizes may sum in another order; measured 0 here.
    torch.testing.assert_close(vit(x)[1:2], vit(x[1:2]), atol=5e-6, rtol=0)


OPTIONS = [
    {},
    {
        "class_token": True,
        "pre_norm": True,
        "patch_bias": False,
        "activation": "quick_gelu",
    },
    {
        "class_token": True,
        "num_registers": 2,
        "layer_scale": 0.1,
        "feed_forward": "swiglu",
        "norm_eps": 1e-6,
    },
    {
        "norm": "rms",
        "bias": False,
        "patch_norm": True,
        "feed_forward": "swiglu",
        "mlp_ratio": 2.75,
    },
    {"activation": "gelu_tanh", "positions": "fixed"},
]
"""The shapes of ViT, CLIP, DINOv2, AIMv2 and (but for its fixed positions) SigLIP."""


@pytest.mark.parametrize("options", OPTIONS)
def test_every_parameter_learns(options: dict) -> None:
    vit = replace(ENCODER, **options).build()
    vit.tokens(images()).pow(3).sum().backward()
    assert without_gradient(vit) == (
        ["position"] if options.get("positions") == "fixed" else []
    )


def test_registers_are_no_features_and_stand_behind_the_class_token() -> None:
    torch.manual_seed(0)
    vit = replace(ENCODER, class_token=True, num_registers=3).build()
    x = images()
    tokens = vit.tokens(x)
    assert tokens.shape == (2, 28, 16)
    assert torch.equal(vit(x), tokens[:, 4:])
    # blocks that hardly change what they read show its order
    vit = replace(vit.config, layer_scale=1e-6).build()
    assert vit.class_token is not None
    assert vit.registers is not None
    first = torch.cat((vit.class_token[None], vit.registers))
    torch.testing.assert_close(
        vit.tokens(x)[:, :4],
        vit.norm(first).expand(2, -1, -1),
        atol=1e-3,
        rtol=0,
    )


def test_layer_scale_starts_the_blocks_near_the_identity() -> None:
    torch.manual_seed(0)
    vit = replace(ENCODER, layer_scale=1e-6).build()
    x = images()
    embedded = vit.patchify(vit.patches(x)) + vit.position.flatten(0, 1)
    torch.testing.assert_close(
        vit(x), vit.norm(embedded), atol=1e-4, rtol=0
    )  # measured 2.5e-6


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_builds_on_meta_and_initialises_after(
    options: dict,
) -> None:
    with torch.device("meta"):
        vit = replace(ENCODER, **options).build()
    vit.to_empty(device="cpu")
    for parameter in vit.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    reset_parameters(vit)
    assert vit.tokens(images()).isfinite().all()


def test_names_both_sizes_when_an_image_has_the_wrong_one() -> None:
    with pytest.raises(
        ValueError, match=r"built for images of 8 x 12 pixels .*, got 12 x 8"
    ):
        ENCODER.build()(images(height=12, width=8))


def test_patches_must_tile_the_image() -> None:
    with pytest.raises(
        ConfigError,
        match=r"of 14 pixels do not tile .* of 32 x 32 pixels; use 28 x 28 or 42 x 42",
    ):
        ViT.Config(image_size=32).build()


def test_builds_on_meta_and_initialises_after() -> None:
    config = replace(ENCODER, positions="sincos", class_token=True)
    with torch.device("meta"):
        vit = config.build()
    assert all(p.is_meta for p in vit.parameters())
    vit.to_empty(device="cpu")
    reset_parameters(vit)
    assert torch.equal(vit.position, config.build().position)
    assert vit(images()).isfinite().all()


def test_runs_in_bfloat16_close_to_fp32() -> None:
    vit = ENCODER.build()
    x = images()
    exact = vit(x)
    # Normed features of unit size after 2 blocks of 8-bit mantissas; measured 0.02.
    torch.testing.assert_close(
        vit.bfloat16()(x).float(), exact, atol=0.08, rtol=0
    )


def test_weights_move_to_another_resolution() -> None:
    small = replace(ENCODER, class_token=True).build()
    large = replace(ENCODER, class_token=True, image_size=(16, 8)).build()
    large.load_state_dict(adapt(large, small.state_dict()))
    assert large.position.shape == (8, 4, 16)
    assert torch.equal(large.patchify.weight, small.patchify.weight)
    assert large(images(height=16, width=8)).isfinite().all()


@pytest.mark.parametrize(
    ("depth", "dim", "expected"), [(24, 1024, 302.0e6), (32, 1280, 629.1e6)]
)
def test_the_paper_s_encoders_have_their_published_size(
    depth: int, dim: int, expected: float
) -> None:
    with torch.device("meta"):
        vit = ViT.Config(depth=depth, dim=dim, num_heads=16).build()
    matrices = sum(p.numel() for p in vit.blocks.parameters() if p.ndim == 2)
    assert matrices == pytest.approx(expected, rel=1e-4)


def test_flops_count_every_matrix_product() -> None:
    vit = ENCODER.build()
    with FlopCounterMode(display=False) as counter:
        vit(images(1)).sum().backward()
    # The first linear map's input is pixels, which need no gradient: we count it as if
    # they did.
    first = 2 * 24 * vit.patchify.weight.numel()
    assert vit.flops() == counter.get_total_flops() + first
