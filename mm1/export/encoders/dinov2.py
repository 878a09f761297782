"""DINOv2, with and without registers, in transformers' format (Oquab et al. 2023,
arXiv:2304.07193).

Its class token has a row in the table of positions; ours has that row added to the
token. The mask token of pre-training is not imported. The published preprocessor asks
for 224 pixels, the table of positions is for 518.
"""

from typing import Any

from mm1.export.encoders.links import (
    ConstantTensor,
    block_links,
    class_and_positions,
    layer_links,
    linear_links,
    patchify_links,
)
from mm1.export.encoders.values import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    PREPROCESSING,
    from_pixels,
    from_side,
    to_image_side,
)
from mm1.export.fields import Fields
from mm1.export.mapping import Link, Reshaped
from mm1.export.options import TEXT_KEYS, Options
from mm1.nn.vit import ViT

IDLE = """
hidden_dropout_prob attention_probs_dropout_prob drop_path_rate out_features out_indices
stage_names apply_layernorm reshape_hidden_states use_mask_token _out_features
_out_indices
"""
"""About its training, and what a detector would use of it."""


def from_dinov2(options: Options, *, registers: bool) -> dict[str, Any]:
    """Options of `ViT.Config` from a Dinov2Config or Dinov2WithRegistersConfig."""
    options.only("num_channels", 3)
    options.only("qkv_bias", True)
    dim = options.take("hidden_size", 768)
    ratio = options.take("mlp_ratio", 4.0)
    swiglu = options.take("use_swiglu_ffn", False)
    vision = {
        "image_size": from_pixels(options, "image_size", 224),
        "patch_size": from_side(options, "patch_size", 16 if registers else 14),
        "depth": options.take("num_hidden_layers", 12),
        "dim": dim,
        "num_heads": options.take("num_attention_heads", 12),
        "feed_forward": "swiglu" if swiglu else "mlp",
        "mlp_ratio": (_swiglu_width(dim, ratio) if swiglu else int(dim * ratio))
        / dim,
        "activation": options.choice("hidden_act", "gelu", ACTIVATIONS),
        "norm_eps": options.take("layer_norm_eps", 1e-6),
        "layer_scale": options.take("layerscale_value", 1.0),
        "class_token": True,
        "num_registers": options.take("num_register_tokens", 4)
        if registers
        else 0,
    }
    options.finish(TEXT_KEYS, IDLE)
    return vision


def _swiglu_width(dim: int, ratio: float) -> int:
    """Two thirds of the MLP's width, rounded up to a multiple of 8."""
    return -(-int(int(dim * ratio) * 2 / 3) // 8) * 8


def to_dinov2(encoder: Fields) -> dict[str, Any]:
    """A Dinov2Config or Dinov2WithRegistersConfig from the fields of a `ViT.Config`."""
    encoder.only("norm", "layer")
    encoder.only("patch_norm", False)
    encoder.only("class_token", True)
    encoder.only("pre_norm", False)
    encoder.only(
        "positions", "learnt", "sincos", "fixed"
    )  # a table in any case
    # Biases are zero where there are none.
    encoder.leave("bias", "patch_bias", *PREPROCESSING)
    dim = encoder.take("dim")
    swiglu = bool(
        encoder.choice("feed_forward", {"mlp": False, "swiglu": True})
    )
    num_registers = encoder.take("num_registers")
    scale = encoder.take("layer_scale")
    config = {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": dim,
        "mlp_ratio": _to_mlp_ratio(encoder, dim, swiglu),
        "num_attention_heads": encoder.take("num_heads"),
        "num_hidden_layers": encoder.take("depth"),
        "hidden_act": encoder.choice("activation", ACTIVATION_NAMES),
        "layer_norm_eps": encoder.take("norm_eps"),
        "layerscale_value": 1.0 if scale is None else scale,
        "use_swiglu_ffn": swiglu,
        "qkv_bias": True,
        "image_size": to_image_side(encoder),
        "patch_size": encoder.take("patch_size"),
        "num_channels": 3,
    }
    if num_registers:
        config |= {
            "architectures": ["Dinov2WithRegistersModel"],
            "model_type": "dinov2_with_registers",
            "num_register_tokens": num_registers,
        }
    return config


def _to_mlp_ratio(encoder: Fields, dim: int, swiglu: bool) -> int | None:
    """The whole ratio that gives the same width there."""
    hidden_dim = round(encoder.take("mlp_ratio") * dim)
    for ratio in range(1, 17):
        if hidden_dim == (
            _swiglu_width(dim, float(ratio)) if swiglu else dim * ratio
        ):
            return ratio
    encoder.refuse(
        "mlp_ratio", f"whose {hidden_dim} channels no whole ratio gives"
    )
    return None


def dinov2_links(config: ViT.Config) -> list[Link]:
    """Between our `encoder` and a Dinov2Model or Dinov2WithRegistersModel without its
    mask token."""
    dim = config.dim
    num = config.num_registers
    token = "embeddings.cls_token"
    table = "embeddings.position_embeddings"
    registers = Reshaped(
        ("registers",),
        ("embeddings.register_tokens",),
        (num, dim),
        (1, num, dim),
    )
    return [
        *patchify_links(config, "embeddings.patch_embeddings.projection"),
        class_and_positions(config, token, table, leading=(1,)),
        *([registers] if num else []),
        *block_links(
            config.depth,
            "blocks",
            "encoder.layer",
            lambda ours, theirs: _block_links(config, ours, theirs),
        ),
        *layer_links("norm", "layernorm"),
    ]


def dinov2_links_with_mask(config: ViT.Config) -> list[Link]:
    """Between our `encoder` and all tensors of theirs; the mask token is zero, as
    nothing is masked outside of pre-training."""
    mask = ConstantTensor((), ("embeddings.mask_token",), (1, config.dim), 0.0)
    return [*dinov2_links(config), mask]


def _block_links(config: ViT.Config, ours: str, theirs: str) -> list[Link]:
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)
    qkv = [
        f"{theirs}.attention.attention.{x}" for x in ("query", "key", "value")
    ]
    maps = [
        ("attention.qkv", qkv, (dim,) * 3),
        ("attention.out", [f"{theirs}.attention.output.dense"], (dim,)),
    ]
    if config.feed_forward == "swiglu":
        maps += [
            (
                "feed_forward.gate_up",
                [f"{theirs}.mlp.weights_in"],
                (2 * hidden_dim,),
            ),
            ("feed_forward.down", [f"{theirs}.mlp.weights_out"], (dim,)),
        ]
    else:
        maps += [
            ("feed_forward.up", [f"{theirs}.mlp.fc1"], (hidden_dim,)),
            ("feed_forward.down", [f"{theirs}.mlp.fc2"], (dim,)),
        ]
    return [
        *layer_links(f"{ours}.attention_norm", f"{theirs}.norm1"),
        *layer_links(f"{ours}.feed_forward_norm", f"{theirs}.norm2"),
        *(
            link
            for name, names, sizes in maps
            for link in linear_links(
                f"{ours}.{name}", names, sizes, bias=config.bias
            )
        ),
        _scale_link(
            config, f"{ours}.attention_scale", f"{theirs}.layer_scale1"
        ),
        _scale_link(
            config, f"{ours}.feed_forward_scale", f"{theirs}.layer_scale2"
        ),
    ]


def _scale_link(config: ViT.Config, ours: str, theirs: str) -> Link:
    if config.layer_scale is None:
        return ConstantTensor((), (f"{theirs}.lambda1",), (config.dim,), 1.0)
    return Link((f"{ours}.weight",), (f"{theirs}.lambda1",))
