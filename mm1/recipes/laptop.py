"""A model of published parts on one computer: an encoder of 88M and a language model of
135M, joined by a new connector (docs/laptop.md).

    mm1 import openai/clip-vit-base-patch32 --out runs/clip_b32
    mm1 import HuggingFaceTB/SmolLM2-135M-Instruct --out runs/smollm2
    mm1 train pretrain_laptop_connector loader.sources.captions=data/captions \\
        --out runs/laptop_connector
    mm1 train pretrain_laptop loader.sources.captions=data/captions \\
        loader.sources.interleaved=data/interleaved loader.sources.text=data/text \\
        --out runs/laptop

A new connector gives a trained language model noise for pictures, so it learns first,
alone (as in LLaVA, Liu et al. 2023, arXiv:2304.08485); MM1 instead trains everything
from the start, for a thousand times as long. Rates, sizes and numbers of steps are our
choice, tried on small models only.
"""

from dataclasses import replace

from mm1.loader.packed import PackedLoader
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT
from mm1.recipes.pretrain import MIXTURE
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer


def pretrain_laptop() -> MM1TrainerConfig:
    """CLIP's ViT-B/32 and SmolLM2-135M, joined by `pretrain_laptop_connector`: all
    parts learn, the encoder at a tenth of the rate.

    A step is 8 sequences of 1,024 tokens, some 240 pictures; 4,000 steps see a million.
    """
    first = pretrain_laptop_connector()
    folders = {name: f"data/{name}" for name in MIXTURE}
    return replace(
        first,
        steps=4000,
        init=dict.fromkeys(
            ("encoder", "connector", "decoder"), "runs/laptop_connector"
        ),
        frozen=(),
        shots=(0, 4, 8),
        loader=replace(first.loader, sources=folders, weights=dict(MIXTURE)),
        optimizer=AdamW.Config(peak_lr=1e-4, lr_factors={"encoder": 0.1}),
        scheduler=WarmupCosine.Config(warmup_steps=100),
    )


def pretrain_laptop_connector() -> MM1TrainerConfig:
    """The first stage of `pretrain_laptop`: captions teach the connector, 16 tokens a
    picture, between a frozen encoder and a frozen language model."""
    return Trainer.Config(
        steps=500,
        model=MM1.Config(
            encoder=ViT.Config(
                image_size=224,
                patch_size=32,
                depth=12,
                dim=768,
                num_heads=12,
                activation="quick_gelu",
                patch_bias=False,
                pre_norm=True,
                class_token=True,
                resize="crop",
            ),
            connector=CAbstractor.Config(num_tokens=16, dim=512, depth=2),
            decoder=Decoder.Config(
                depth=30,
                dim=576,
                num_heads=9,
                num_kv_heads=3,
                hidden_dim=1536,
                rope_base=1e5,
                tied=True,
                norm_eps=1e-5,
            ),
        ),
        init={"encoder": "runs/clip_b32", "decoder": "runs/smollm2"},
        frozen=("encoder", "decoder"),
        loader=PackedLoader.Config(
            sources={"captions": "data/captions"},
            weights={"captions": 1.0},
            batch_size=8,
            micro_batch_size=1,
            sequence_length=1024,
            max_images=32,
            packing_window=256,
            workers=2,
        ),
        optimizer=AdamW.Config(peak_lr=1e-3),
        scheduler=WarmupCosine.Config(warmup_steps=20),
        log_every=5,
        checkpoint_every=50,
        validate_every=100,
    )
