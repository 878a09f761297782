"""CLIP with the tensor names of OpenAI's code, which open_clip kept: folders of
open_clip, and OpenAI's own weights.

A folder has `open_clip_config.json` (the shape, and how pictures are prepared).
OpenAI's files have no config; there the shape is read off the tensors: heads are 64
wide, the activation is quick-GELU, pictures are cropped at the centre.

Maps into the common space are matrices [width, dim] there, multiplied from the right;
ours are their transposes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mm1.export.encoders.links import (
    block_links,
    class_and_positions,
    layer_links,
    patchify_links,
    with_prefixes,
)
from mm1.export.encoders.values import from_pixels, from_side
from mm1.export.mapping import Link, Reshaped, same
from mm1.export.options import TEXT_KEYS, Options
from mm1.nn.block import Activation
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

UNUSED = r"input_resolution|context_length|vocab_size|(text\.)?attn_mask"

OFF = """
attentional_pool qk_norm scaled_cosine_attn scale_heads scale_attn_inner scale_attn
scale_fc final_ln_after_pool embed_cls variable_text hf_model_name block_type
image_seq_len
"""
"""Options of open_clip's towers that we lack."""

IDLE = """
patch_dropout output_tokens attn_pooler_queries attn_pooler_heads timm_model_pretrained
timm_pool timm_proj timm_proj_bias timm_drop timm_drop_path pad_id eos_id bos_id
tokenizer_mode tokenizer_kwargs tokenizer_type hf_tokenizer_name hf_model_pretrained
hf_proj_type hf_pooler_type hf_tokenizer_config custom_text init_logit_scale
init_logit_bias nonscalar_logit_scale output_dict cast_dtype
"""
"""Training, tokenizers, initial values, and details of what is off."""


def from_open_clip(options: Options, *, sigmoid: bool) -> CLIP.Config:
    """From the `model_cfg` of a folder; `sigmoid`: there is a bias of the scores, as in
    SigLIP."""
    vision = options.part("vision_cfg")
    text = options.part("text_cfg")
    quick = options.take("quick_gelu", False)
    dim = options.need("embed_dim", int)
    options.finish(TEXT_KEYS, IDLE)
    pooling = vision.choice("pool_type", "tok", {"tok": "class", "avg": "mean"})
    return CLIP.Config(
        encoder=ViT.Config(**_from_vision(vision, quick=quick)),
        text=_from_text(text, quick=quick),
        dim=dim,
        pooling=pooling,  # type: ignore[arg-type]
        loss="sigmoid" if sigmoid else "softmax",
    )


def _from_vision(options: Options, *, quick: bool) -> dict[str, Any]:
    for key in OFF.split():
        options.only(key, False)
    options.only(
        "timm_model_name",
        remedy="timm's towers are not; take the model in transformers' format",
    )
    options.only("pos_embed_type", "learnable")
    dim = options.take("width", 768)
    scale = options.raw("ls_init_value")
    vision = {
        "image_size": from_pixels(options, "image_size", 224),
        "patch_size": from_side(options, "patch_size", 16),
        "depth": options.take("layers", 12),
        "dim": dim,
        "num_heads": dim // options.take("head_width", 64),
        "mlp_ratio": options.take("mlp_ratio", 4.0),
        **_from_block(options, quick),
        "pre_norm": not options.take("no_ln_pre", False),
        "patch_bias": False,
        "class_token": True,
        "layer_scale": None if scale is None else float(scale),
    }
    options.finish(TEXT_KEYS, IDLE)
    return vision


def _from_text(options: Options, *, quick: bool) -> TextTower.Config:
    for key in (*OFF.split(), "ls_init_value"):
        options.only(key, False)
    options.only("text_arch", "clip")
    options.only("proj_type", "linear")
    read = options.choice(
        "pool_type", "argmax", {"argmax": "end", "last": "last"}
    )
    text = TextTower.Config(
        vocab_size=options.take("vocab_size", 49408),
        max_length=options.take("context_length", 77),
        depth=options.take("layers", 12),
        dim=options.take("width", 512),
        num_heads=options.take("heads", 8),
        mlp_ratio=options.take("mlp_ratio", 4.0),
        **_from_block(options, quick),
        causal=not options.take("no_causal_mask", False),
        read=read,  # type: ignore[arg-type]
        output_bias=options.take("proj_bias", False),
    )
    options.finish(TEXT_KEYS, IDLE)
    return text


def _from_block(options: Options, quick: bool) -> dict[str, Any]:
    activation = options.part("act_kwargs")
    norm = options.part("norm_kwargs")
    approximations: dict[str, Activation] = {
        "none": "gelu",
        "tanh": "gelu_tanh",
    }
    gelu = activation.choice("approximate", "none", approximations)
    block = {
        "activation": "quick_gelu" if quick else gelu,
        "norm_eps": norm.take("eps", 1e-5),
    }
    activation.finish()
    norm.finish()
    return block


def from_openai(shapes: Mapping[str, Sequence[int]]) -> CLIP.Config:
    """The config of OpenAI's models, which come without one, from the shapes of their
    tensors."""
    dim, _, patch, _ = shapes["visual.conv1.weight"]
    side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
    text_dim, common_dim = shapes["text_projection"]
    vision = ViT.Config(
        image_size=side * patch,
        patch_size=patch,
        depth=_num_blocks(shapes, "visual."),
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
        depth=_num_blocks(shapes, "transformer."),
        dim=text_dim,
        num_heads=text_dim // 64,
        activation="quick_gelu",
    )
    return CLIP.Config(
        encoder=vision, text=text, dim=common_dim, pooling="class"
    )


def _num_blocks(names: Mapping[str, Any], prefix: str) -> int:
    return sum(
        n.startswith(prefix) and n.endswith("ln_1.weight") for n in names
    )


@dataclass(frozen=True, slots=True)
class Transposed(Link):
    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [theirs[0].mT.contiguous()]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0].mT.contiguous()]


def open_clip_links(config: CLIP.Config, *, text: str = "") -> list[Link]:
    """Between our `CLIP` and open_clip's; `text` ("text." or nothing) is the prefix of
    its text tower."""
    encoder = config.encoder
    tower = config.text
    projection = (
        layer_links("projection.text", f"{text}text_projection")
        if tower.output_bias
        else [
            Transposed(("projection.text.weight",), (f"{text}text_projection",))
        ]
    )
    scores = {"projection.log_scale": "logit_scale"}
    if config.loss == "sigmoid":
        scores["projection.bias"] = "logit_bias"
    tables = {
        "text.embedding.weight": f"{text}token_embedding.weight",
        "text.position": f"{text}positional_embedding",
    }
    resblocks = f"{text}transformer.resblocks"
    return [
        *with_prefixes(_image_links(encoder), "encoder.", "visual."),
        Transposed(("projection.image.weight",), ("visual.proj",)),
        *same(tables),
        *block_links(tower.depth, "text.blocks", resblocks, _block_links),
        *layer_links("text.norm", f"{text}ln_final"),
        *projection,
        *(
            Reshaped((ours,), (theirs,), (1,), ())
            for ours, theirs in scores.items()
        ),
    ]


def _image_links(config: ViT.Config) -> list[Link]:
    def block(ours: str, theirs: str) -> list[Link]:
        scales = {
            f"{ours}.attention_scale.weight": f"{theirs}.ls_1.gamma",
            f"{ours}.feed_forward_scale.weight": f"{theirs}.ls_2.gamma",
        }
        return [
            *_block_links(ours, theirs),
            *same(scales if config.layer_scale is not None else {}),
        ]

    return [
        *patchify_links(config, "conv1", bias=False),
        class_and_positions(config, "class_embedding", "positional_embedding"),
        *(layer_links("pre_norm", "ln_pre") if config.pre_norm else []),
        *block_links(config.depth, "blocks", "transformer.resblocks", block),
        *layer_links("norm", "ln_post"),
    ]


def _block_links(ours: str, theirs: str) -> list[Link]:
    qkv = {
        f"{ours}.attention.qkv.{kind}": f"{theirs}.attn.in_proj_{kind}"
        for kind in ("weight", "bias")
    }
    return [
        *layer_links(f"{ours}.attention_norm", f"{theirs}.ln_1"),
        *same(qkv),
        *layer_links(f"{ours}.attention.out", f"{theirs}.attn.out_proj"),
        *layer_links(f"{ours}.feed_forward_norm", f"{theirs}.ln_2"),
        *layer_links(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc"),
        *layer_links(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj"),
    ]
