"""AIM of ml-aim and AIMv2 of transformers: image encoders alone.

AIM (El-Nouby et al. 2024, arXiv:2401.08541), as on the hub under `apple/AIM-*`:

- Its positions are sines and cosines that are in no file; half of the channels encode
  the column, the other half the row.
- The published checkpoints end in a probe over the mean of the last six layers, which
  is not imported: our features are those of the last layer, normed.
- There is no preprocessor file. AIM was evaluated on pictures resized to 256 pixels
  and cropped to 224, with ImageNet's mean.

AIMv2 (Fini et al. 2024, arXiv:2411.14402): RMSNorm, SwiGLU, no biases, a norm right
after the patches. The attention head of some checkpoints is not imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.export.encoders.links import (
    block_links,
    layer_links,
    patchify_links,
    position_link,
    stacked_rows,
)
from mm1.export.encoders.values import (
    PREPROCESSING,
    from_pixels,
    from_side,
    patch_grid,
    to_image_side,
)
from mm1.export.fields import Fields
from mm1.export.mapping import Link, Reshaped
from mm1.export.options import TEXT_KEYS, Options
from mm1.nn.position import sincos
from mm1.nn.vit import ViT

UNUSED = r"head\..*|.*\.position_ids"


def from_aim(options: Options) -> dict[str, Any]:
    """Options of `ViT.Config` from the config that ml-aim pushes to the hub: the
    arguments of AIM's constructor."""
    options.only("num_channels", 3)
    options.only("use_bias", False)
    options.only("post_trunk_norm", True)
    vision = {
        "image_size": from_pixels(options, "img_size", 224),
        "patch_size": from_side(options, "patch_size", 14),
        "depth": options.need("num_blocks", int),
        "dim": options.need("embed_dim", int),
        "num_heads": options.need("num_heads", int),
        "mlp_ratio": options.take("mlp_ratio", 4.0),
        "norm_eps": 1e-6,
        "bias": False,
        "patch_norm": True,
        "positions": "fixed",
    }
    options.finish(TEXT_KEYS, "probe_layers num_classes ffn_dropout_rate")
    return vision


def aim_links(config: ViT.Config) -> list[Link]:
    """Between our `encoder` and ml-aim's models of both generations."""
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)
    bias = config.norm == "layer"

    def block(ours: str, theirs: str) -> list[Link]:
        if config.feed_forward == "mlp":
            up = stacked_rows(
                f"{ours}.feed_forward.up", [f"{theirs}.mlp.fc1"], hidden_dim
            )
        else:
            gate_up = [f"{theirs}.mlp.{name}" for name in ("fc1", "fc3")]
            up = stacked_rows(
                f"{ours}.feed_forward.gate_up", gate_up, hidden_dim
            )
        return [
            *layer_links(
                f"{ours}.attention_norm", f"{theirs}.norm_1", bias=bias
            ),
            *layer_links(
                f"{ours}.attention.qkv", f"{theirs}.attn.qkv", bias=False
            ),
            *layer_links(
                f"{ours}.attention.out", f"{theirs}.attn.proj", bias=False
            ),
            *layer_links(
                f"{ours}.feed_forward_norm", f"{theirs}.norm_2", bias=bias
            ),
            up,
            *layer_links(
                f"{ours}.feed_forward.down", f"{theirs}.mlp.fc2", bias=False
            ),
        ]

    h, w = patch_grid(config)
    table = Reshaped(
        ("position",), ("preprocessor.pos_embed",), (h, w, dim), (1, h * w, dim)
    )
    return [
        *patchify_links(config, "preprocessor.patchifier.proj"),
        *layer_links("patch_norm", "preprocessor.patchifier.norm", bias=bias),
        _columns_first(config) if config.positions == "fixed" else table,
        *block_links(config.depth, "blocks", "trunk.blocks", block),
        *layer_links("norm", "trunk.post_trunk_norm", bias=bias),
    ]


def _columns_first(config: ViT.Config) -> Link:
    return ColumnsFirst(("position",), (), patch_grid(config), config.dim)


@dataclass(frozen=True, slots=True)
class ColumnsFirst(Link):
    """The table that AIM, and AIMv2 at native resolution, compute: ours with its two
    halves swapped; it is in no file."""

    grid: tuple[int, int]
    dim: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        rows, columns = sincos(self.grid, self.dim).chunk(2, -1)
        return [torch.cat((columns, rows), -1)]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        if not ours[0].is_meta and not torch.equal(ours[0], self.join([])[0]):
            raise ConfigError(
                "encoder.position is not the table of sines and cosines that this"
                " format computes"
            )
        return []


def from_aimv2(options: Options, *, native: bool) -> dict[str, Any]:
    """Options of `ViT.Config` from transformers' Aimv2VisionConfig or the AIMv2Config
    of Apple's own code.

    `native`: positions are computed for pictures of any size, and the table is in no
    file.
    """
    for key in ("qkv_bias", "mlp_bias", "use_bias"):
        options.only(key, False)
    options.only("num_channels", 3)
    options.only("hidden_act", "silu")
    dim = options.take("hidden_size", 1024)
    vision = {
        "image_size": from_pixels(options, "image_size", 224),
        "patch_size": from_side(options, "patch_size", 14),
        "depth": options.take("num_hidden_layers", 24),
        "dim": dim,
        "num_heads": options.take("num_attention_heads", 8),
        "mlp_ratio": options.take("intermediate_size", 2816) / dim,
        "feed_forward": "swiglu",
        "norm": "rms",
        "norm_eps": options.take("rms_norm_eps", 1e-5),
        "bias": False,
        "patch_norm": True,
        "positions": "fixed" if native else "learnt",
    }
    options.finish(
        TEXT_KEYS, "use_head is_native num_queries projection_dropout"
    )
    return vision


def to_aimv2(encoder: Fields) -> dict[str, Any]:
    """An Aimv2VisionConfig without the head, from the fields of a `ViT.Config`; the
    table of positions is in the file."""
    encoder.only("norm", "rms")
    encoder.only("patch_norm", True)
    encoder.only("feed_forward", "swiglu")
    encoder.only("bias", False)
    encoder.only("class_token", False)
    encoder.only("pre_norm", False)
    encoder.only("num_registers", 0)
    encoder.only("layer_scale", None)
    encoder.only(
        "positions", "learnt", "sincos", "fixed"
    )  # a table in any case
    encoder.leave("patch_bias")  # zero where there is none
    encoder.leave("activation")  # of MLPs
    encoder.leave(*PREPROCESSING)
    dim = encoder.take("dim")
    return {
        "architectures": ["Aimv2VisionModel"],
        "model_type": "aimv2_vision_model",
        "hidden_size": dim,
        "intermediate_size": round(encoder.take("mlp_ratio") * dim),
        "num_attention_heads": encoder.take("num_heads"),
        "num_hidden_layers": encoder.take("depth"),
        "hidden_act": "silu",
        "rms_norm_eps": encoder.take("norm_eps"),
        "qkv_bias": False,
        "mlp_bias": False,
        "image_size": to_image_side(encoder),
        "patch_size": encoder.take("patch_size"),
        "num_channels": 3,
        "use_head": False,
        "is_native": False,
    }


def aimv2_links(config: ViT.Config, *, native: bool = False) -> list[Link]:
    """Between our `encoder` and transformers' Aimv2VisionModel without its head;
    `native` as for the config."""
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)

    def block(ours: str, theirs: str) -> list[Link]:
        qkv = [f"{theirs}.attention.{x}_proj" for x in "qkv"]
        out = f"{theirs}.attention.out_proj"
        gate_up = [f"{theirs}.ffn.{x}_proj" for x in ("gate", "up")]
        down = f"{theirs}.ffn.down_proj"
        return [
            *layer_links(
                f"{ours}.attention_norm", f"{theirs}.rms_norm1", bias=False
            ),
            stacked_rows(f"{ours}.attention.qkv", qkv, dim),
            *layer_links(f"{ours}.attention.out", out, bias=False),
            *layer_links(
                f"{ours}.feed_forward_norm", f"{theirs}.rms_norm2", bias=False
            ),
            stacked_rows(f"{ours}.feed_forward.gate_up", gate_up, hidden_dim),
            *layer_links(f"{ours}.feed_forward.down", down, bias=False),
        ]

    table = position_link(config, "embeddings.position_embedding.weight")
    return [
        *patchify_links(config, "embeddings.patch_embed"),
        *layer_links("patch_norm", "embeddings.rms_norm", bias=False),
        _columns_first(config) if native else table,
        *block_links(config.depth, "blocks", "encoder.layers", block),
        *layer_links("norm", "rms_norm", bias=False),
    ]
