"""DINOv2, with and without registers, in transformers' format (Oquab et al. 2023,
arXiv:2304.07193).

Its class token has a row in the table of positions; ours has it added into the token.
The token that stood for hidden patches in pre-training is left behind. The published
preprocessor asks for 224 pixels, the table is for 518.
"""

from typing import Any

from mm1.config import ConfigError
from mm1.export.encoders.vision import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    Constant,
    blocks,
    choice,
    class_and_positions,
    finish,
    image_size,
    layer,
    linear,
    patches,
    pixels,
    side,
)
from mm1.export.mapping import Link, Reshaped
from mm1.export.options import Options
from mm1.nn.vit import ViT

IDLE = """
hidden_dropout_prob attention_probs_dropout_prob drop_path_rate out_features out_indices stage_names apply_layernorm
reshape_hidden_states use_mask_token _out_features _out_indices
"""
"""Of its training, and of what a detector would take from it."""


def vision(options: Options, *, registers: bool) -> dict[str, Any]:
    """Options of `ViT.Config` from a Dinov2Config or Dinov2WithRegistersConfig."""
    for key, only in (("num_channels", 3), ("qkv_bias", True)):
        options.only(key, only)
    dim = options.take("hidden_size", 768)
    ratio = options.take("mlp_ratio", 4.0)
    swiglu = options.take("use_swiglu_ffn", False)
    found = {
        "image_size": pixels(options, "image_size", 224),
        "patch_size": side(options, "patch_size", 16 if registers else 14),
        "depth": options.take("num_hidden_layers", 12),
        "dim": dim,
        "num_heads": options.take("num_attention_heads", 12),
        "feed_forward": "swiglu" if swiglu else "mlp",
        "mlp_ratio": (swiglu_width(dim, ratio) if swiglu else int(dim * ratio)) / dim,
        "activation": choice(options, "hidden_act", "gelu", ACTIVATIONS),
        "norm_eps": options.take("layer_norm_eps", 1e-6),
        "layer_scale": options.take("layerscale_value", 1.0),
        "class_token": True,
        "num_registers": options.take("num_register_tokens", 4) if registers else 0,
    }
    finish(options, IDLE)
    return found


def swiglu_width(dim: int, ratio: float) -> int:
    """Two thirds of the MLP's width, rounded up to a multiple of 8."""
    return -(-int(int(dim * ratio) * 2 / 3) // 8) * 8


def published(config: ViT.Config) -> dict[str, Any]:
    """A Dinov2Config or Dinov2WithRegistersConfig, as `vision` reads it.

    Raises:
        ConfigError: the width inside the feed-forward is none that a whole `mlp_ratio`
            gives there.
    """
    hidden_dim = round(config.mlp_ratio * config.dim)
    swiglu = config.feed_forward == "swiglu"
    widths = {
        (swiglu_width(config.dim, float(r)) if swiglu else config.dim * r): r
        for r in range(1, 17)
    }
    if hidden_dim not in widths:
        raise ConfigError(
            f"Dinov2Model has no feed-forward of {hidden_dim} channels, as"
            " encoder.mlp_ratio says"
        )
    registers = config.num_registers > 0
    found = {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": config.dim,
        "mlp_ratio": widths[hidden_dim],
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.depth,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.norm_eps,
        "layerscale_value": 1.0 if config.layer_scale is None else config.layer_scale,
        "use_swiglu_ffn": swiglu,
        "qkv_bias": True,
        "image_size": image_size(config)[0],
        "patch_size": config.patch_size,
        "num_channels": 3,
    }
    return found | ({"num_register_tokens": config.num_registers} if registers else {})


def encoder(config: ViT.Config) -> list[Link]:
    """Tensors of our `encoder` and of a Dinov2Model or Dinov2WithRegistersModel."""
    dim = config.dim
    num = config.num_registers
    token, table, registers = (
        f"embeddings.{name}"
        for name in ("cls_token", "position_embeddings", "register_tokens")
    )
    return [
        *patches(config, "embeddings.patch_embeddings.projection"),
        class_and_positions(config, token, table, leading=(1,)),
        *(
            [Reshaped(("registers",), (registers,), (num, dim), (1, num, dim))]
            if num
            else []
        ),
        *blocks(
            config.depth,
            "blocks",
            "encoder.layer",
            lambda ours, theirs: _block(config, ours, theirs),
        ),
        *layer("norm", "layernorm"),
    ]


def whole(config: ViT.Config) -> list[Link]:
    """All tensors of theirs: the token for hidden patches too, which nobody hides when
    it is used."""
    return [
        *encoder(config),
        Constant((), ("embeddings.mask_token",), (1, config.dim), 0.0),
    ]


def _block(config: ViT.Config, ours: str, theirs: str) -> list[Link]:
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)
    bias = config.bias
    qkv = [f"{theirs}.attention.attention.{x}" for x in ("query", "key", "value")]
    if config.feed_forward == "swiglu":
        first = "weights_in"
        second = "weights_out"
        up = "gate_up"
        width = 2 * hidden_dim
    else:
        first = "fc1"
        second = "fc2"
        up = "up"
        width = hidden_dim
    return [
        *layer(f"{ours}.attention_norm", f"{theirs}.norm1"),
        *linear(f"{ours}.attention.qkv", qkv, (dim,) * 3, bias=bias),
        *linear(
            f"{ours}.attention.out",
            [f"{theirs}.attention.output.dense"],
            (dim,),
            bias=bias,
        ),
        _scale(
            config, f"{ours}.attention_scale.weight", f"{theirs}.layer_scale1.lambda1"
        ),
        *layer(f"{ours}.feed_forward_norm", f"{theirs}.norm2"),
        *linear(
            f"{ours}.feed_forward.{up}", [f"{theirs}.mlp.{first}"], (width,), bias=bias
        ),
        *linear(
            f"{ours}.feed_forward.down", [f"{theirs}.mlp.{second}"], (dim,), bias=bias
        ),
        _scale(
            config,
            f"{ours}.feed_forward_scale.weight",
            f"{theirs}.layer_scale2.lambda1",
        ),
    ]


def _scale(config: ViT.Config, ours: str, theirs: str) -> Link:
    if config.layer_scale is None:
        return Constant((), (theirs,), (config.dim,), 1.0)
    return Link((ours,), (theirs,))
