"""Writes `references/*.safetensors`: what open_clip, timm, Honeybee's block and Apple's
AIM compute.

These libraries need torchvision, whose wheels do not work beside the CPU build of torch
that our tests run on. So this script runs in an environment of its own, and the tests
read what it wrote (`recorded.py`). To write the files anew:

    python3 -m venv ~/references ~/references/bin/pip install torch torchvision timm
    open_clip_torch safetensors numpy git clone https://github.com/apple/ml-aim ~/ml-aim
    && git -C ~/ml-aim checkout bd9e068 ~/references/bin/python
    tests/parity/record_references.py --ml-aim ~/ml-aim

No GPU is needed. Without `--ml-aim` the AIM files stay as they are. The code of ml-aim
is run, not copied (Apple's licence). Weights and pictures are random from fixed seeds:
a second run with the same versions gives the same files. `references/README.md` says
what each file holds.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from recording import VERSIONS, normalised, pictures, randomise, write
from timm.layers import LayerNorm2d, resample_abs_pos_embed
from timm.models import VisionTransformer, register_model
from timm.models.regnet import RegStage
from torch import Tensor, nn

VERSIONS |= {"timm": timm.__version__, "open_clip_torch": open_clip.__version__}
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Record what other libraries compute."
    )
    parser.add_argument(
        "--ml-aim", type=Path, help="a checkout of github.com/apple/ml-aim"
    )
    checkout = parser.parse_args().ml_aim
    torch.set_num_threads(1)
    torch.manual_seed(0)
    open_clips()
    siglips()
    resampled_positions()
    c_abstractor()
    if checkout:
        VERSIONS["ml-aim"] = subprocess.check_output(
            ["git", "-C", checkout, "rev-parse", "HEAD"], text=True
        ).strip()
        sys.path[:0] = [str(checkout / "aim-v1"), str(checkout / "aim-v2")]
        aim_v1()
        aim_v2()


# --- open_clip ------------------------------------------------------------------------


def open_clips() -> None:
    """Layouts of open_clip's own vision tower: always with a class token, which `avg`
    leaves out of the mean."""
    image = {"image_size": 12, "patch_size": 4, "layers": 2}
    text = {
        "context_length": 8,
        "vocab_size": 50,
        "width": 16,
        "heads": 2,
        "layers": 2,
    }
    openai = {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": image | {"width": 16, "head_width": 8},
        "text_cfg": text,
    }
    clip(
        "open_clip_openai",
        openai,
        "The layout of OpenAI's ViT-B/16 and L/14: class token, quick-GELU, norm"
        " before.",
    )
    dfn = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": image | {"image_size": 20, "width": 20, "head_width": 10},
        "text_cfg": text,
    }
    clip(
        "open_clip_dfn",
        dfn,
        "The layout of DFN5B-CLIP-ViT-H-14-378: as OpenAI's, but a head width that is"
        " no power of two.",
    )
    average = {
        "pool_type": "avg",
        "no_ln_pre": True,
        "width": 16,
        "head_width": 8,
    }
    clipa = {
        "embed_dim": 12,
        "vision_cfg": image | average | {"final_ln_after_pool": True},
        "text_cfg": text,
    }
    clip(
        "open_clip_clipa",
        clipa,
        "As ViT-H-14-CLIPA: mean over patches, then the norm; the class token"
        " stays in.",
    )
    gap = {
        "embed_dim": 12,
        "vision_cfg": image
        | average
        | {"image_size": [12, 20], "ls_init_value": 0.1},
        "text_cfg": text,
    }
    clip(
        "open_clip_gap",
        gap,
        "Norm, then mean over patches; layer scale; a picture of 12 x 20.",
    )


def clip(name: str, config: dict[str, Any], about: str) -> None:
    model = open_clip.CLIP(**json.loads(json.dumps(config))).eval()
    tokens = torch.tensor(
        [[48, 3, 14, 15, 49, 0, 0, 0], [48, 9, 26, 5, 35, 8, 49, 0]]
    )
    facts = {
        "about": about,
        "config": config,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
    }
    record_clip(name, model, tokens, facts)


def record_clip(
    name: str, model: nn.Module, tokens: Tensor, facts: dict[str, Any]
) -> None:
    randomise(model, seed=1)
    size = facts["config"]["vision_cfg"]["image_size"]
    images = pictures(
        *([size, size] if isinstance(size, int) else size), seed=2
    )
    pixels = normalised(images, facts["mean"], facts["std"])
    trunk = getattr(model.visual, "trunk", None)
    with torch.no_grad():
        if trunk is None:
            model.visual.output_tokens = True
            patches = model.visual(pixels)[1]
            model.visual.output_tokens = False
        else:
            patches = trunk.forward_features(pixels)
        outputs = {
            "patch_features": patches,
            "image_features": model.encode_image(pixels),
            "text_features": model.encode_text(tokens),
            "image_logits": model.get_logits(pixels, tokens)[0],
        }
    write(
        name,
        about=facts,
        inputs={"images": images, "tokens": tokens},
        outputs=outputs,
        state=dict(model.state_dict()),
    )


# --- timm -----------------------------------------------------------------------------

TOWER = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "class_token": False,
}


@register_model
def vit_reference(
    pretrained: bool = False, global_pool: str = "map", **_: Any
) -> VisionTransformer:
    """As timm's vit_base_patch16_siglip_224 and its `gap` kind, but tiny."""
    return VisionTransformer(
        **TOWER, global_pool=global_pool, fc_norm=False, num_classes=0
    )


def siglips() -> None:
    """open_clip's SigLIP: timm's tower under `visual.trunk`, a text tower that is read
    at its last place."""
    text = {
        "context_length": 8,
        "vocab_size": 50,
        "width": 16,
        "heads": 2,
        "layers": 2,
        "norm_kwargs": {"eps": 1e-6},
    }
    text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    for name, pool in (
        ("open_clip_siglip", "map"),
        ("open_clip_siglip_gap", "avg"),
    ):
        vision = {
            "timm_model_name": "vit_reference",
            "timm_pool": pool,
            "timm_proj": "none",
            "image_size": 16,
        }
        config = {
            "embed_dim": 16,
            "init_logit_bias": -10,
            "vision_cfg": vision,
            "text_cfg": text,
        }
        model = open_clip.CustomTextCLIP(
            **json.loads(json.dumps(config))
        ).eval()
        about = (
            "SigLIP in open_clip's names; visual.trunk is timm's"
            " VisionTransformer(**tower, fc_norm=False); exact GELU"
        )
        facts = {
            "about": about,
            "config": config,
            "tower": TOWER | {"global_pool": pool},
            "mean": HALF,
            "std": HALF,
        }
        record_clip(
            name,
            model,
            torch.tensor(
                [[3, 14, 15, 9, 26, 1, 1, 1], [5, 35, 8, 9, 7, 9, 1, 1]]
            ),
            facts,
        )


def resampled_positions() -> None:
    """timm's default: bicubic with antialias. One case has a class token in front, one
    is without antialias."""
    cases = [
        ((4, 4), (6, 6)),
        ((6, 6), (4, 4)),
        ((4, 4), (3, 5)),
        ((5, 9), (7, 7)),
        ((9, 5), (3, 4)),
        ((27, 27), (48, 48)),
    ]
    inputs = {}
    outputs = {}
    for seed, (old, new) in enumerate(cases):
        key = f"{old[0]}x{old[1]}_to_{new[0]}x{new[1]}"
        inputs[key] = torch.randn(
            1, old[0] * old[1], 4, generator=torch.Generator().manual_seed(seed)
        )
        resample = partial(
            resample_abs_pos_embed,
            inputs[key],
            list(new),
            old_size=list(old),
            num_prefix_tokens=0,
        )
        outputs[key] = resample()
        if old == (6, 6):
            outputs[f"{key}_without_antialias"] = resample(antialias=False)
    inputs["class_token_4x4_to_6x6"] = torch.randn(
        1, 17, 4, generator=torch.Generator().manual_seed(99)
    )
    outputs["class_token_4x4_to_6x6"] = resample_abs_pos_embed(
        inputs["class_token_4x4_to_6x6"], [6, 6]
    )
    about = {
        "about": (
            "timm.layers.resample_abs_pos_embed on tables [1, rows x columns, 4], row"
            " by row"
        )
    }
    write(
        "timm_positions", about=about, inputs=inputs, outputs=outputs, state={}
    )


# --- Honeybee -------------------------------------------------------------------------


def c_abstractor() -> None:
    """Honeybee's C-Abstractor put together from timm's RegStage, as its paper and
    repository describe it (depth 3)."""
    dim = 12
    hidden = 16
    out = 10
    stage = partial(
        RegStage,
        3,
        stride=1,
        dilation=1,
        act_layer=nn.SiLU,
        norm_layer=LayerNorm2d,
    )
    model = nn.ModuleDict(
        {
            "net": nn.Sequential(
                stage(dim, hidden), nn.Identity(), stage(hidden, hidden)
            )
        }
    )
    model["readout"] = nn.Sequential(
        nn.Linear(hidden, out), nn.SiLU(), nn.Linear(out, out)
    )
    randomise(model, seed=3)
    inputs = {}
    outputs = {}
    for seed, (h, w, side) in enumerate([(8, 8, 4), (6, 9, 3), (27, 27, 12)]):
        key = f"{h}x{w}_to_{side}x{side}"
        draw = torch.Generator().manual_seed(10 + seed)
        x = torch.randn(1, h * w, dim, generator=draw).requires_grad_()
        position, weight = (
            torch.randn(1, n, c, generator=draw)
            for n, c in ((h * w, dim), (side * side, out))
        )
        model["net"][1] = nn.AdaptiveAvgPool2d((side, side))
        maps = model["net"]((x + position).transpose(1, 2).unflatten(2, (h, w)))
        y = model["readout"](maps.flatten(2).transpose(1, 2))
        (y * weight).sum().backward()
        assert x.grad is not None
        inputs |= {
            f"{key}.patches": x,
            f"{key}.pos_emb": position,
            f"{key}.weight": weight,
        }
        outputs |= {f"{key}.tokens": y, f"{key}.patches_gradient": x.grad}
    about = {
        "about": (
            "Honeybee's C-Abstractor from timm's parts; gradient of sum(tokens *"
            " weight). LayerNorm2d with an activation is timm's LayerNormAct2d"
        ),
        "config": {
            "depth": 3,
            "encoder_hidden_size": dim,
            "hidden_size": hidden,
            "output_hidden_size": out,
        },
        "norm_eps": model["net"][0].b1.conv1.bn.eps,
    }
    write(
        "honeybee_c_abstractor",
        about=about,
        inputs=inputs,
        outputs=outputs,
        state=dict(model.state_dict()),
    )


# --- AIM ------------------------------------------------------------------------------


def aim_v1() -> None:
    """`blocks.N` is after block N, not normed; `normed` has `trunk.post_trunk_norm`;
    `averaged` is what AIM probes."""
    from aim.v1.torch import layers, models

    config = {
        "img_size": (12, 16),
        "patch_size": 4,
        "embed_dim": 16,
        "num_blocks": 4,
        "num_heads": 2,
    }
    model = models.AIMForImageClassification(
        config | {"probe_layers": 2, "num_classes": 5}
    ).eval()
    randomise(model, seed=4)
    images = pictures(12, 16, seed=5)
    pixels = normalised(images, IMAGENET_MEAN, IMAGENET_STD)
    outputs = {}
    prefixed = models.Transformer(
        lambda bias: layers.PrefixCausalAttention(
            16, 2, use_bias=bias, num_patches=12
        ),
        16,
        4,
        norm_layer=layers.LayerNorm,
    ).eval()
    state = {
        k: v
        for k, v in model.state_dict().items()
        if not k.startswith("head.bn.")
    }
    prefixed.load_state_dict(model.trunk.state_dict(), strict=False)
    outside = torch.arange(12) >= torch.tensor([[5], [1]])
    with torch.no_grad():
        tokens = model.preprocessor(pixels)
        for kind, trunk, mask in (
            ("full", model.trunk, None),
            ("prefix", prefixed, outside),
        ):
            blocks = trunk(tokens, mask=mask, return_features=True)
            outputs |= {
                f"{kind}.blocks.{i}": block for i, block in enumerate(blocks)
            }
            outputs[f"{kind}.normed"] = trunk.post_trunk_norm(blocks[-1])
            outputs[f"{kind}.averaged"] = torch.stack(blocks[2:], -1).mean(-1)
        outputs["position"] = model.preprocessor.pos_embed(3, 4, 16).view(
            3, 4, 16
        )
        torch.testing.assert_close(
            model.trunk(tokens)[0], outputs["full.averaged"]
        )
    write(
        "aim_v1",
        about=facts_of_aim(
            config,
            "probe_layers=2: the mean of the last two blocks, without a norm",
        ),
        inputs={"images": images, "prefix_lengths": (~outside).sum(1)},
        outputs=outputs,
        state=state,
    )


def aim_v2() -> None:
    """A learnt table, and the native layout with sines and cosines on a grid that is
    not square."""
    from aim.v2.torch import models

    config = {
        "img_size": (12, 16),
        "patch_size": 4,
        "embed_dim": 16,
        "mlp_hidden_dim": 40,
        "num_blocks": 2,
        "num_heads": 2,
    }
    for name, kind in (("aim_v2", "absolute"), ("aim_v2_native", "sincos")):
        model = models.AIMv2VisionEncoder(**config, pos_embed_type=kind).eval()
        randomise(model, seed=6)
        images = pictures(12, 16, seed=7)
        with torch.no_grad():
            x, blocks = model(
                normalised(images, CLIP_MEAN, CLIP_STD), output_features=True
            )
            position = model.preprocessor.pos_embed
            table = position(3, 4, 16) if kind == "sincos" else position[0]
        outputs = {f"blocks.{i}": block for i, block in enumerate(blocks)}
        outputs |= {"patch_features": x, "position": table.view(3, 4, 16)}
        facts = facts_of_aim(
            config | {"pos_embed_type": kind},
            "patch_features: after trunk.post_trunk_norm",
            CLIP_MEAN,
        )
        write(
            name,
            about=facts,
            inputs={"images": images},
            outputs=outputs,
            state=dict(model.state_dict()),
        )


def facts_of_aim(
    config: dict[str, Any], features: str, mean: Sequence[float] = IMAGENET_MEAN
) -> dict[str, Any]:
    order = (
        "rows of the grid run slowest; of a table's channels the first half tells the"
        " COLUMN (sines, then cosines), "
    )
    return {
        "about": f"github.com/apple/ml-aim; {features}",
        "sincos_order": f"{order}the second half the row",
        "config": config,
        "mean": mean,
        "std": IMAGENET_STD if mean == IMAGENET_MEAN else CLIP_STD,
    }


if __name__ == "__main__":
    main()
