"""CLIP in the names of OpenAI's code, which open_clip kept: folders of open_clip, and
OpenAI's own weights.

A folder has `open_clip_config.json` (the shape and how pictures are prepared). OpenAI's
files have no config; there the shape is read off the tensors: heads are 64 wide, the
activation is quick-GELU, pictures are cut out of the centre.

Maps into the common space are matrices [width, dim] there, multiplied from the right;
ours are the transposed ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mm1.export.encoders.vision import (
    blocks,
    choice,
    class_and_positions,
    finish,
    layer,
    part,
    patches,
    pixels,
    side,
    under,
)
from mm1.export.mapping import Link, Reshaped, same
from mm1.export.options import Options
from mm1.nn.block import Activation
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

UNUSED = r"input_resolution|context_length|vocab_size|(text\.)?attn_mask"

OFF = """
attentional_pool qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc final_ln_after_pool
embed_cls variable_text hf_model_name block_type image_seq_len
"""
"""Options of open_clip's towers that we do not have."""

IDLE = """
patch_dropout output_tokens attn_pooler_queries attn_pooler_heads timm_model_pretrained timm_pool timm_proj
timm_proj_bias timm_drop timm_drop_path pad_id eos_id bos_id tokenizer_mode tokenizer_kwargs tokenizer_type
hf_tokenizer_name hf_model_pretrained hf_proj_type hf_pooler_type hf_tokenizer_config custom_text init_logit_scale
init_logit_bias nonscalar_logit_scale output_dict cast_dtype
"""
"""Training, tokenizers, where things start, and details of what is off."""


def config_of(options: Options, *, sigmoid: bool) -> CLIP.Config:
    """From the `model_cfg` of a folder; `sigmoid`: there is a bias of the scores, as in
    SigLIP."""
    vision = part(options, "vision_cfg")
    text = part(options, "text_cfg")
    quick = options.take("quick_gelu", False)
    dim = options.need("embed_dim", int)
    finish(options, IDLE)
    pooling = choice(vision, "pool_type", "tok", {"tok": "class", "avg": "mean"})
    return CLIP.Config(
        encoder=ViT.Config(**_vision(vision, quick=quick)),
        text=_text(text, quick=quick),
        dim=dim,
        pooling=pooling,  # type: ignore[arg-type]
        loss="sigmoid" if sigmoid else "softmax",
    )


def _vision(options: Options, *, quick: bool) -> dict[str, Any]:
    for key in OFF.split():
        options.only(key, False)
    options.only(
        "timm_model_name",
        remedy="timm's towers are not; take the model in transformers' format",
    )
    options.only("pos_embed_type", "learnable")
    dim = options.take("width", 768)
    scale = options.raw("ls_init_value")
    found = {
        "image_size": pixels(options, "image_size", 224),
        "patch_size": side(options, "patch_size", 16),
        "depth": options.take("layers", 12),
        "dim": dim,
        "num_heads": dim // options.take("head_width", 64),
        "mlp_ratio": options.take("mlp_ratio", 4.0),
        **_inside(options, quick),
        "pre_norm": not options.take("no_ln_pre", False),
        "patch_bias": False,
        "class_token": True,
        "layer_scale": None if scale is None else float(scale),
    }
    finish(options, IDLE)
    return found


def _text(options: Options, *, quick: bool) -> TextTower.Config:
    for key in (*OFF.split(), "ls_init_value"):
        options.only(key, False)
    options.only("text_arch", "clip")
    options.only("proj_type", "linear")
    text = TextTower.Config(
        vocab_size=options.take("vocab_size", 49408),
        max_length=options.take("context_length", 77),
        depth=options.take("layers", 12),
        dim=options.take("width", 512),
        num_heads=options.take("heads", 8),
        mlp_ratio=options.take("mlp_ratio", 4.0),
        **_inside(options, quick),
        causal=not options.take("no_causal_mask", False),
        read=choice(options, "pool_type", "argmax", {"argmax": "end", "last": "last"}),  # type: ignore[arg-type]
        output_bias=options.take("proj_bias", False),
    )
    finish(options, IDLE)
    return text


def _inside(options: Options, quick: bool) -> dict[str, Any]:
    activation = part(options, "act_kwargs")
    norm = part(options, "norm_kwargs")
    smooth: Activation = choice(
        activation, "approximate", "none", {"none": "gelu", "tanh": "gelu_tanh"}
    )  # type: ignore[assignment]
    found = {
        "activation": "quick_gelu" if quick else smooth,
        "norm_eps": norm.take("eps", 1e-5),
    }
    activation.finish()
    norm.finish()
    return found


def openai_config(shapes: Mapping[str, Sequence[int]]) -> CLIP.Config:
    """The shape of OpenAI's models, which come without a config, from those of their
    tensors."""
    dim, _, patch, _ = shapes["visual.conv1.weight"]
    side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
    text_dim, common = shapes["text_projection"]
    depth = {
        kind: sum(n.startswith(kind) and n.endswith("ln_1.weight") for n in shapes)
        for kind in ("visual", "tran")
    }
    vision = ViT.Config(
        image_size=side * patch,
        patch_size=patch,
        depth=depth["visual"],
        dim=dim,
        num_heads=dim // 64,
        activation="quick_gelu",
        class_token=True,
        pre_norm=True,
        patch_bias=False,
    )
    text = TextTower.Config(
        vocab_size=shapes["token_embedding.weight"][0],
        max_length=shapes["positional_embedding"][0],
        depth=depth["tran"],
        dim=text_dim,
        num_heads=text_dim // 64,
        activation="quick_gelu",
    )
    return CLIP.Config(encoder=vision, text=text, dim=common, pooling="class")


@dataclass(frozen=True, slots=True)
class Transposed(Link):
    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [theirs[0].mT.contiguous()]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0].mT.contiguous()]


def links(config: CLIP.Config, *, text: str = "") -> list[Link]:
    """Tensors of our `CLIP` and of open_clip's; `text` ("text." or nothing) begins the
    names of its text tower."""
    encoder = config.encoder
    tower = config.text
    projection = (
        layer("projection.text", f"{text}text_projection")
        if tower.output_bias
        else [Transposed(("projection.text.weight",), (f"{text}text_projection",))]
    )
    scores = {"projection.log_scale": "logit_scale"} | (
        {"projection.bias": "logit_bias"} if config.loss == "sigmoid" else {}
    )
    return [
        *under(_image_tower(encoder), "encoder.", "visual."),
        Transposed(("projection.image.weight",), ("visual.proj",)),
        *same(
            {
                "text.embedding.weight": f"{text}token_embedding.weight",
                "text.position": f"{text}positional_embedding",
            }
        ),
        *blocks(tower.depth, "text.blocks", f"{text}transformer.resblocks", _block),
        *layer("text.norm", f"{text}ln_final"),
        *projection,
        *(Reshaped((ours,), (theirs,), (1,), ()) for ours, theirs in scores.items()),
    ]


def _image_tower(config: ViT.Config) -> list[Link]:
    def block(ours: str, theirs: str) -> list[Link]:
        scales = {
            f"{ours}.{name}_scale.weight": f"{theirs}.ls_{i}.gamma"
            for i, name in _BRANCHES
        }
        return [
            *_block(ours, theirs),
            *(same(scales) if config.layer_scale is not None else []),
        ]

    return [
        *patches(config, "conv1", bias=False),
        class_and_positions(config, "class_embedding", "positional_embedding"),
        *(layer("pre_norm", "ln_pre") if config.pre_norm else []),
        *blocks(config.depth, "blocks", "transformer.resblocks", block),
        *layer("norm", "ln_post"),
    ]


_BRANCHES = ((1, "attention"), (2, "feed_forward"))


def _block(ours: str, theirs: str) -> list[Link]:
    qkv = {
        f"{ours}.attention.qkv.{kind}": f"{theirs}.attn.in_proj_{kind}"
        for kind in ("weight", "bias")
    }
    return [
        *layer(f"{ours}.attention_norm", f"{theirs}.ln_1"),
        *same(qkv),
        *layer(f"{ours}.attention.out", f"{theirs}.attn.out_proj"),
        *layer(f"{ours}.feed_forward_norm", f"{theirs}.ln_2"),
        *layer(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc"),
        *layer(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj"),
    ]
