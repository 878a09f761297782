"""CLIP and SigLIP in transformers' format: both towers, or the image tower alone.

What differs in meaning:

- CLIP's class token has a row in the table of positions. Ours has none: the row is added into the token.
- `last_hidden_state` of transformers stands before the last norm in CLIP and after it in SigLIP. Our features are
  always after it. The pooled features are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mm1.export.encoders.vision import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    blocks,
    choice,
    class_and_positions,
    finish,
    image_size,
    layer,
    linear,
    patches,
    pixels,
    positions,
    side,
    under,
)
from mm1.export.mapping import Link, Reshaped, same
from mm1.export.options import Options
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

UNUSED = r".*\.position_ids"
"""Numbers from 0 upwards, which transformers 4 saved along."""


def clip_vision(options: Options) -> dict[str, Any]:
    """Options of `ViT.Config` from a CLIPVisionConfig; what it leaves out has
    transformers' default."""
    found = _vision(options, patch=32, activation="quick_gelu", eps=1e-5)
    finish(options, "projection_dim")
    return found | {"class_token": True, "pre_norm": True, "patch_bias": False}


def siglip_vision(options: Options) -> dict[str, Any]:
    found = _vision(options, patch=16, activation="gelu_pytorch_tanh", eps=1e-6)
    finish(options, "vision_use_head")
    return found


def _vision(
    options: Options, *, patch: int, activation: str, eps: float
) -> dict[str, Any]:
    options.only("num_channels", 3)
    found = {
        "image_size": pixels(options, "image_size", 224),
        "patch_size": side(options, "patch_size", patch),
    }
    return found | _tower(options, (768, 3072, 12), activation, eps)


def _tower(
    options: Options, sizes: tuple[int, int, int], activation: str, eps: float
) -> dict[str, Any]:
    """What both towers say in the same words; `sizes` are transformers' own width,
    inner width and heads."""
    dim = options.take("hidden_size", sizes[0])
    return {
        "dim": dim,
        "mlp_ratio": options.take("intermediate_size", sizes[1]) / dim,
        "num_heads": options.take("num_attention_heads", sizes[2]),
        "depth": options.take("num_hidden_layers", 12),
        "activation": choice(options, "hidden_act", activation, ACTIVATIONS),
        "norm_eps": options.take("layer_norm_eps", eps),
    }


def clip_text(options: Options) -> TextTower.Config:
    text = TextTower.Config(
        vocab_size=options.take("vocab_size", 49408),
        max_length=options.take("max_position_embeddings", 77),
        **_tower(options, (512, 2048, 8), "quick_gelu", 1e-5),
    )
    finish(options, "projection_dim")
    return text


def siglip_text(options: Options) -> TextTower.Config:
    text = TextTower.Config(
        vocab_size=options.take("vocab_size", 32000),
        max_length=options.take("max_position_embeddings", 64),
        causal=False,
        read="last",
        output_bias=True,
        **_tower(options, (768, 3072, 12), "gelu_pytorch_tanh", 1e-6),
    )
    finish(options, "projection_size")
    return text


def clip_encoder(config: ViT.Config) -> list[Link]:
    """Tensors of our `encoder` and of a CLIPVisionModel."""
    token = "embeddings.class_embedding"
    table = "embeddings.position_embedding.weight"
    return [
        *patches(config, "embeddings.patch_embedding", bias=False),
        class_and_positions(config, token, table),
        *layer("pre_norm", "pre_layrnorm"),
        *tower_blocks(config, bias=config.bias),
        *layer("norm", "post_layernorm"),
    ]


def siglip_encoder(config: ViT.Config) -> list[Link]:
    """Tensors of our `encoder` and of a SiglipVisionModel without its head."""
    return [
        *patches(config, "embeddings.patch_embedding"),
        positions(config, "embeddings.position_embedding.weight"),
        *tower_blocks(config, bias=config.bias),
        *layer("norm", "post_layernorm"),
    ]


def text_tower(config: TextTower.Config) -> list[Link]:
    """Tensors of our `text` and of a CLIPTextModel or SiglipTextModel."""
    return [
        *same({"embedding.weight": "embeddings.token_embedding.weight"}),
        *same({"position": "embeddings.position_embedding.weight"}),
        *tower_blocks(config),
        *layer("norm", "final_layer_norm"),
    ]


def tower_blocks(
    config: ViT.Config | TextTower.Config, *, bias: bool = True
) -> list[Link]:
    """Their blocks have biases always; where ours have none (`bias`), theirs are
    zero."""
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)

    def block(ours: str, theirs: str) -> list[Link]:
        qkv = [f"{theirs}.self_attn.{x}_proj" for x in "qkv"]
        return [
            *layer(f"{ours}.attention_norm", f"{theirs}.layer_norm1"),
            *linear(f"{ours}.attention.qkv", qkv, (dim,) * 3, bias=bias),
            *linear(
                f"{ours}.attention.out",
                [f"{theirs}.self_attn.out_proj"],
                (dim,),
                bias=bias,
            ),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.layer_norm2"),
            *linear(
                f"{ours}.feed_forward.up",
                [f"{theirs}.mlp.fc1"],
                (hidden_dim,),
                bias=bias,
            ),
            *linear(
                f"{ours}.feed_forward.down", [f"{theirs}.mlp.fc2"], (dim,), bias=bias
            ),
        ]

    return blocks(config.depth, "blocks", "encoder.layers", block)


@dataclass(frozen=True, slots=True)
class QueriesApart(Link):
    """Theirs is one product for queries, keys and values; ours of the queries is one by
    itself."""

    dim: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [theirs[0][: self.dim], theirs[0][self.dim :]]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(ours))]


def attention_head(config: ViT.Config) -> list[Link]:
    """Tensors of our `pooling` and of a SiglipVisionModel's head."""
    dim = config.dim
    return [
        Reshaped(("probe",), ("probe",), (dim,), (1, 1, dim)),
        QueriesApart(
            ("query.weight", "key_value.weight"), ("attention.in_proj_weight",), dim
        ),
        QueriesApart(
            ("query.bias", "key_value.bias"), ("attention.in_proj_bias",), dim
        ),
        *layer("out", "attention.out_proj"),
        *layer("norm", "layernorm"),
        *layer("feed_forward.up", "mlp.fc1"),
        *layer("feed_forward.down", "mlp.fc2"),
    ]


def clip_model(config: CLIP.Config) -> list[Link]:
    """Tensors of our `CLIP` and of a CLIPModel."""
    return [
        *under(clip_encoder(config.encoder), "encoder.", "vision_model."),
        *under(text_tower(config.text), "text.", "text_model."),
        *same({"projection.image.weight": "visual_projection.weight"}),
        *same({"projection.text.weight": "text_projection.weight"}),
        Reshaped(("projection.log_scale",), ("logit_scale",), (1,), ()),
    ]


def siglip_model(config: CLIP.Config) -> list[Link]:
    """Tensors of our `CLIP` and of a SiglipModel."""
    return [
        *under(siglip_encoder(config.encoder), "encoder.", "vision_model."),
        *under(attention_head(config.encoder), "pooling.", "vision_model.head."),
        *under(text_tower(config.text), "text.", "text_model."),
        *layer("projection.text", "text_model.head"),
        *same({"projection.log_scale": "logit_scale", "projection.bias": "logit_bias"}),
    ]


def clip_vision_config(config: ViT.Config) -> dict[str, Any]:
    """A CLIPVisionConfig, as `clip_vision` reads it."""
    return _published(config, "CLIPVisionModel", "clip_vision_model") | _sizes(config)


def siglip_vision_config(config: ViT.Config) -> dict[str, Any]:
    """A SiglipVisionConfig without the head."""
    return (
        _published(config, "SiglipVisionModel", "siglip_vision_model")
        | _sizes(config)
        | {"vision_use_head": False}
    )


def _sizes(config: ViT.Config) -> dict[str, Any]:
    return {
        "image_size": image_size(config)[0],
        "patch_size": config.patch_size,
        "num_channels": 3,
    }


def _published(
    config: ViT.Config | TextTower.Config, architecture: str, model_type: str
) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": config.dim,
        "intermediate_size": round(config.mlp_ratio * config.dim),
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.depth,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "layer_norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
    }


def clip_config(config: CLIP.Config) -> dict[str, Any]:
    """A CLIPConfig; sizes of the vocabulary and ids of tokens are the tokenizer's to
    add."""
    vision = clip_vision_config(config.encoder) | {"projection_dim": config.dim}
    text = _published(config.text, "CLIPTextModel", "clip_text_model") | {
        "projection_dim": config.dim
    }
    return _together("CLIPModel", "clip", vision, text, config) | {
        "projection_dim": config.dim
    }


def siglip_config(config: CLIP.Config) -> dict[str, Any]:
    """A SiglipConfig; see `clip_config`."""
    vision = siglip_vision_config(config.encoder) | {"vision_use_head": True}
    text = _published(config.text, "SiglipTextModel", "siglip_text_model") | {
        "projection_size": config.encoder.dim
    }
    return _together("SiglipModel", "siglip", vision, text, config)


def _together(
    architecture: str,
    model_type: str,
    vision: dict[str, Any],
    text: dict[str, Any],
    config: CLIP.Config,
) -> dict[str, Any]:
    for tower in (vision, text):
        del tower["architectures"]
    text["max_position_embeddings"] = config.text.max_length
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vision_config": vision,
        "text_config": text,
    }
