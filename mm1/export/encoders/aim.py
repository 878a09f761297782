"""AIM of ml-aim and AIMv2 of transformers: image encoders alone.

AIM (El-Nouby et al. 2024, arXiv:2401.08541), as on the hub under `apple/AIM-*`:

- Its positions are sines and cosines that are in no file; half of the channels tell the column, then half the row.
- The published checkpoints end in a probe over the mean of the last six layers, which is left behind: our features are
  those of the last layer, normed.
- There is no preprocessor file. AIM was evaluated on pictures resized to 256 pixels, 224 cut out; ImageNet's mean.

AIMv2 (Fini et al. 2024, arXiv:2411.14402): RMSNorm, SwiGLU, no biases, a norm right
after the patches. The attention head that some checkpoints carry is left behind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.export.encoders.vision import (
    blocks,
    finish,
    grid,
    image_size,
    layer,
    patches,
    pixels,
    positions,
    side,
)
from mm1.export.mapping import Link, Reshaped, Rows
from mm1.export.options import Options
from mm1.nn.position import sincos
from mm1.nn.vit import ViT

UNUSED = r"head\..*|.*\.position_ids"


def aim_vision(options: Options) -> dict[str, Any]:
    """Options of `ViT.Config` from the config that ml-aim pushes to the hub: the
    arguments of AIM's constructor."""
    for key, only in (
        ("num_channels", 3),
        ("use_bias", False),
        ("post_trunk_norm", True),
    ):
        options.only(key, only)
    found = {
        "image_size": pixels(options, "img_size", 224),
        "patch_size": side(options, "patch_size", 14),
        "depth": options.need("num_blocks", int),
        "dim": options.need("embed_dim", int),
        "num_heads": options.need("num_heads", int),
        "mlp_ratio": options.take("mlp_ratio", 4.0),
        "norm_eps": 1e-6,
        "bias": False,
        "patch_norm": True,
        "positions": "fixed",
    }
    finish(options, "probe_layers num_classes ffn_dropout_rate")
    return found


def aim_encoder(config: ViT.Config) -> list[Link]:
    """Tensors of our `encoder` and of ml-aim's models of both generations."""
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)
    bias = config.norm == "layer"

    def block(ours: str, theirs: str) -> list[Link]:
        up = (
            ("up", ["fc1"])
            if config.feed_forward == "mlp"
            else ("gate_up", ["fc1", "fc3"])
        )
        return [
            *layer(f"{ours}.attention_norm", f"{theirs}.norm_1", bias=bias),
            *layer(f"{ours}.attention.qkv", f"{theirs}.attn.qkv", bias=False),
            *layer(f"{ours}.attention.out", f"{theirs}.attn.proj", bias=False),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.norm_2", bias=bias),
            below(
                f"{ours}.feed_forward.{up[0]}",
                [f"{theirs}.mlp.{name}" for name in up[1]],
                hidden_dim,
            ),
            *layer(f"{ours}.feed_forward.down", f"{theirs}.mlp.fc2", bias=False),
        ]

    h, w = grid(config)
    computed = config.positions == "fixed"
    table = Reshaped(
        ("position",), ("preprocessor.pos_embed",), (h, w, dim), (1, h * w, dim)
    )
    return [
        *patches(config, "preprocessor.patchifier.proj"),
        *layer("patch_norm", "preprocessor.patchifier.norm", bias=bias),
        columns_first(config) if computed else table,
        *blocks(config.depth, "blocks", "trunk.blocks", block),
        *layer("norm", "trunk.post_trunk_norm", bias=bias),
    ]


def below(ours: str, theirs: Sequence[str], rows: int) -> Link:
    """Weights of maps of `rows` outputs each, laid below one another."""
    return Rows(
        (f"{ours}.weight",),
        tuple(f"{name}.weight" for name in theirs),
        (rows,) * len(theirs),
    )


def columns_first(config: ViT.Config) -> Link:
    return ColumnsFirst(("position",), (), grid(config), config.dim)


@dataclass(frozen=True, slots=True)
class ColumnsFirst(Link):
    """The table that AIM, and AIMv2 at native resolution, compute: ours with its two
    halves swapped; in no file."""

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


def aimv2_vision(options: Options, *, native: bool) -> dict[str, Any]:
    """Options of `ViT.Config` from transformers' Aimv2VisionConfig or the AIMv2Config
    of apple's own code.

    `native`: positions are computed for whatever size comes, and the table is in no
    file.
    """
    for key in ("qkv_bias", "mlp_bias", "use_bias"):
        options.only(key, False)
    options.only("num_channels", 3)
    options.only("hidden_act", "silu")
    dim = options.take("hidden_size", 1024)
    found = {
        "image_size": pixels(options, "image_size", 224),
        "patch_size": side(options, "patch_size", 14),
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
    finish(options, "use_head is_native num_queries projection_dropout")
    return found


def aimv2_config(config: ViT.Config) -> dict[str, Any]:
    """An Aimv2VisionConfig without the head, with the table of positions in the
    file."""
    return {
        "architectures": ["Aimv2VisionModel"],
        "model_type": "aimv2_vision_model",
        "hidden_size": config.dim,
        "intermediate_size": round(config.mlp_ratio * config.dim),
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.depth,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "qkv_bias": False,
        "mlp_bias": False,
        "image_size": image_size(config)[0],
        "patch_size": config.patch_size,
        "num_channels": 3,
        "use_head": False,
        "is_native": False,
    }


def aimv2_encoder(config: ViT.Config, *, native: bool = False) -> list[Link]:
    """Tensors of our `encoder` and of transformers' Aimv2VisionModel without its head;
    `native` as for the config."""
    dim = config.dim
    hidden_dim = round(config.mlp_ratio * config.dim)

    def block(ours: str, theirs: str) -> list[Link]:
        return [
            *layer(f"{ours}.attention_norm", f"{theirs}.rms_norm1", bias=False),
            below(
                f"{ours}.attention.qkv",
                [f"{theirs}.attention.{x}_proj" for x in "qkv"],
                dim,
            ),
            *layer(f"{ours}.attention.out", f"{theirs}.attention.out_proj", bias=False),
            *layer(f"{ours}.feed_forward_norm", f"{theirs}.rms_norm2", bias=False),
            below(
                f"{ours}.feed_forward.gate_up",
                [f"{theirs}.ffn.{x}_proj" for x in ("gate", "up")],
                hidden_dim,
            ),
            *layer(f"{ours}.feed_forward.down", f"{theirs}.ffn.down_proj", bias=False),
        ]

    return [
        *patches(config, "embeddings.patch_embed"),
        *layer("patch_norm", "embeddings.rms_norm", bias=False),
        (
            columns_first(config)
            if native
            else positions(config, "embeddings.position_embedding.weight")
        ),
        *blocks(config.depth, "blocks", "encoder.layers", block),
        *layer("norm", "rms_norm", bias=False),
    ]
