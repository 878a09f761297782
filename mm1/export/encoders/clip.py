"""CLIP and SigLIP in transformers' format: both towers, or the image tower alone.

Two things differ in meaning:

- CLIP's class token has a row in the table of positions. Ours has none: that row is
  added to the token.
- `last_hidden_state` is before the last norm in transformers' CLIP, after it in its
  SigLIP. Our features are always after it. Pooled features are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mm1.export.encoders.links import (
    block_links,
    class_and_positions,
    layer_links,
    linear_links,
    patchify_links,
    position_link,
    with_prefixes,
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
from mm1.export.mapping import Link, Reshaped, same
from mm1.export.options import TEXT_KEYS, Options
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

UNUSED = r".*\.position_ids"
"""Consecutive numbers, which transformers 4 saved with the weights."""


# Options: from transformers


def from_clip_vision(options: Options) -> dict[str, Any]:
    """Options of `ViT.Config` from a CLIPVisionConfig; missing ones have transformers'
    defaults."""
    vision = _from_vision(options, patch=32, activation="quick_gelu", eps=1e-5)
    options.finish(TEXT_KEYS, "projection_dim")
    return vision | {"class_token": True, "pre_norm": True, "patch_bias": False}


def from_siglip_vision(options: Options) -> dict[str, Any]:
    vision = _from_vision(
        options, patch=16, activation="gelu_pytorch_tanh", eps=1e-6
    )
    options.finish(TEXT_KEYS, "vision_use_head")
    return vision


def _from_vision(
    options: Options, *, patch: int, activation: str, eps: float
) -> dict[str, Any]:
    options.only("num_channels", 3)
    sizes = {
        "image_size": from_pixels(options, "image_size", 224),
        "patch_size": from_side(options, "patch_size", patch),
    }
    return sizes | _from_tower(options, (768, 3072, 12), activation, eps)


def _from_tower(
    options: Options, sizes: tuple[int, int, int], activation: str, eps: float
) -> dict[str, Any]:
    """What both towers have; `sizes` are transformers' default width, inner width and
    number of heads."""
    dim = options.take("hidden_size", sizes[0])
    return {
        "dim": dim,
        "mlp_ratio": options.take("intermediate_size", sizes[1]) / dim,
        "num_heads": options.take("num_attention_heads", sizes[2]),
        "depth": options.take("num_hidden_layers", 12),
        "activation": options.choice("hidden_act", activation, ACTIVATIONS),
        "norm_eps": options.take("layer_norm_eps", eps),
    }


def from_clip_text(options: Options) -> TextTower.Config:
    text = TextTower.Config(
        vocab_size=options.take("vocab_size", 49408),
        max_length=options.take("max_position_embeddings", 77),
        **_from_tower(options, (512, 2048, 8), "quick_gelu", 1e-5),
    )
    options.finish(TEXT_KEYS, "projection_dim")
    return text


def from_siglip_text(options: Options) -> TextTower.Config:
    text = TextTower.Config(
        vocab_size=options.take("vocab_size", 32000),
        max_length=options.take("max_position_embeddings", 64),
        causal=False,
        read="last",
        output_bias=True,
        **_from_tower(options, (768, 3072, 12), "gelu_pytorch_tanh", 1e-6),
    )
    options.finish(TEXT_KEYS, "projection_size")
    return text


# Options: to transformers


def to_clip_vision(encoder: Fields) -> dict[str, Any]:
    """A CLIPVisionConfig from the fields of a `ViT.Config`."""
    encoder.only("class_token", True)
    encoder.only("pre_norm", True)
    encoder.only("patch_bias", False)
    return _to_vision(encoder, "CLIPVisionModel", "clip_vision_model")


def to_siglip_vision(encoder: Fields) -> dict[str, Any]:
    """A SiglipVisionConfig without the head, from the fields of a `ViT.Config`."""
    encoder.only("class_token", False)
    encoder.only("pre_norm", False)
    encoder.leave("patch_bias")  # zero where there is none
    vision = _to_vision(encoder, "SiglipVisionModel", "siglip_vision_model")
    return vision | {"vision_use_head": False}


def _to_vision(
    encoder: Fields, architecture: str, model_type: str
) -> dict[str, Any]:
    encoder.only("norm", "layer")
    encoder.only("patch_norm", False)
    encoder.only("num_registers", 0)
    encoder.only("layer_scale", None)
    encoder.only("feed_forward", "mlp")
    encoder.only(
        "positions", "learnt", "sincos", "fixed"
    )  # a table in any case
    encoder.leave(
        "bias", *PREPROCESSING
    )  # biases are zero where there are none
    return _to_tower(encoder, architecture, model_type) | {
        "image_size": to_image_side(encoder),
        "patch_size": encoder.take("patch_size"),
        "num_channels": 3,
    }


def _to_tower(
    tower: Fields, architecture: str, model_type: str
) -> dict[str, Any]:
    dim = tower.take("dim")
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": dim,
        "intermediate_size": round(tower.take("mlp_ratio") * dim),
        "num_attention_heads": tower.take("num_heads"),
        "num_hidden_layers": tower.take("depth"),
        "hidden_act": tower.choice("activation", ACTIVATION_NAMES),
        "layer_norm_eps": tower.take("norm_eps"),
        "attention_dropout": 0.0,
    }


def to_clip(model: Fields) -> dict[str, Any]:
    """A CLIPConfig from the fields of a `CLIP.Config`, without what the tokenizer adds:
    the vocabulary's size and ids of tokens."""
    model.only("loss", "softmax")
    model.only(
        "pooling", "class", None
    )  # None means the class token if there is one
    dim = model.take("dim")
    if dim is None:
        model.refuse("dim", "which must be a width")
    text = model.within("text", TextTower)
    text.only("causal", True)
    text.only("read", "end")
    text.only("output_bias", False)
    return _to_both_towers(
        to_clip_vision(model.within("encoder", ViT)) | {"projection_dim": dim},
        _to_text(text, "CLIPTextModel", "clip_text_model")
        | {"projection_dim": dim},
        {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": dim,
        },
    )


def to_siglip(model: Fields) -> dict[str, Any]:
    """A SiglipConfig; see `to_clip`."""
    model.only("loss", "sigmoid")
    model.only("pooling", "attention")
    model.only("dim", None)
    text = model.within("text", TextTower)
    text.only("causal", False)
    text.only("read", "last")
    text.only("output_bias", True)
    vision = to_siglip_vision(model.within("encoder", ViT))
    return _to_both_towers(
        vision | {"vision_use_head": True},
        _to_text(text, "SiglipTextModel", "siglip_text_model")
        | {"projection_size": vision["hidden_size"]},
        {"architectures": ["SiglipModel"], "model_type": "siglip"},
    )


def _to_text(
    text: Fields, architecture: str, model_type: str
) -> dict[str, Any]:
    text.leave("vocab_size")  # the tokenizer adds it
    max_length = text.take("max_length")
    tower = _to_tower(text, architecture, model_type)
    return tower | {"max_position_embeddings": max_length}


def _to_both_towers(
    vision: dict[str, Any], text: dict[str, Any], model: dict[str, Any]
) -> dict[str, Any]:
    for tower in (vision, text):
        del tower["architectures"]
    return model | {"vision_config": vision, "text_config": text}


# Tensors


def clip_vision_links(config: ViT.Config) -> list[Link]:
    """Between our `encoder` and a CLIPVisionModel."""
    token = "embeddings.class_embedding"
    table = "embeddings.position_embedding.weight"
    return [
        *patchify_links(config, "embeddings.patch_embedding", bias=False),
        class_and_positions(config, token, table),
        *layer_links("pre_norm", "pre_layrnorm"),
        *_tower_links(config, bias=config.bias),
        *layer_links("norm", "post_layernorm"),
    ]


def siglip_vision_links(config: ViT.Config) -> list[Link]:
    """Between our `encoder` and a SiglipVisionModel without its head."""
    return [
        *patchify_links(config, "embeddings.patch_embedding"),
        position_link(config, "embeddings.position_embedding.weight"),
        *_tower_links(config, bias=config.bias),
        *layer_links("norm", "post_layernorm"),
    ]


def _text_links(config: TextTower.Config) -> list[Link]:
    """Between our `text` and a CLIPTextModel or SiglipTextModel."""
    return [
        *same({"embedding.weight": "embeddings.token_embedding.weight"}),
        *same({"position": "embeddings.position_embedding.weight"}),
        *_tower_links(config, bias=True),
        *layer_links("norm", "final_layer_norm"),
    ]


def _tower_links(
    config: ViT.Config | TextTower.Config, *, bias: bool
) -> list[Link]:
    """Their blocks always have biases; where ours have none (`bias`), theirs are
    zero."""
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)

    def block(ours: str, theirs: str) -> list[Link]:
        qkv = [f"{theirs}.self_attn.{x}_proj" for x in "qkv"]
        maps = [
            ("attention.qkv", qkv, (dim,) * 3),
            ("attention.out", [f"{theirs}.self_attn.out_proj"], (dim,)),
            ("feed_forward.up", [f"{theirs}.mlp.fc1"], (hidden_dim,)),
            ("feed_forward.down", [f"{theirs}.mlp.fc2"], (dim,)),
        ]
        return [
            *layer_links(f"{ours}.attention_norm", f"{theirs}.layer_norm1"),
            *layer_links(f"{ours}.feed_forward_norm", f"{theirs}.layer_norm2"),
            *(
                link
                for name, names, sizes in maps
                for link in linear_links(
                    f"{ours}.{name}", names, sizes, bias=bias
                )
            ),
        ]

    return block_links(config.depth, "blocks", "encoder.layers", block)


@dataclass(frozen=True, slots=True)
class QueriesApart(Link):
    """Theirs is one map for queries, keys and values; ours has queries in a map of
    their own."""

    dim: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [theirs[0][: self.dim], theirs[0][self.dim :]]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(ours))]


def _attention_head_links(config: ViT.Config) -> list[Link]:
    """Between our `pooling` and a SiglipVisionModel's head."""
    dim = config.dim
    return [
        Reshaped(("probe",), ("probe",), (dim,), (1, 1, dim)),
        QueriesApart(
            ("query.weight", "key_value.weight"),
            ("attention.in_proj_weight",),
            dim,
        ),
        QueriesApart(
            ("query.bias", "key_value.bias"), ("attention.in_proj_bias",), dim
        ),
        *layer_links("out", "attention.out_proj"),
        *layer_links("norm", "layernorm"),
        *layer_links("feed_forward.up", "mlp.fc1"),
        *layer_links("feed_forward.down", "mlp.fc2"),
    ]


def clip_links(config: CLIP.Config) -> list[Link]:
    """Between our `CLIP` and a CLIPModel."""
    return [
        *with_prefixes(
            clip_vision_links(config.encoder), "encoder.", "vision_model."
        ),
        *with_prefixes(_text_links(config.text), "text.", "text_model."),
        *same({"projection.image.weight": "visual_projection.weight"}),
        *same({"projection.text.weight": "text_projection.weight"}),
        Reshaped(("projection.log_scale",), ("logit_scale",), (1,), ()),
    ]


def siglip_links(config: CLIP.Config) -> list[Link]:
    """Between our `CLIP` and a SiglipModel."""
    encoder = siglip_vision_links(config.encoder)
    head = _attention_head_links(config.encoder)
    return [
        *with_prefixes(encoder, "encoder.", "vision_model."),
        *with_prefixes(head, "pooling.", "vision_model.head."),
        *with_prefixes(_text_links(config.text), "text.", "text_model."),
        *layer_links("projection.text", "text_model.head"),
        *same(
            {
                "projection.log_scale": "logit_scale",
                "projection.bias": "logit_bias",
            }
        ),
    ]
