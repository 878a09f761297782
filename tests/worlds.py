"""A small prepared world and a model for it, for the tests of training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import raw_files

from mm1.data.tokenizer import train_tokenizer
from mm1.loader.image_only import ImageLoader
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader
from mm1.nn.aim import AIM
from mm1.nn.clip import CLIP
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.overrides import default_config
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.recipes.trainer_configs import (
    AIMTrainerConfig,
    CLIPTrainerConfig,
    LanguageModelTrainerConfig,
    MM1TrainerConfig,
)
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

WEIGHTS = {"pages": 0.45, "captions": 0.45, "text": 0.1}


def make_world(folder: Path) -> Path:
    """Raw files of three kinds, prepared, with held-out documents."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    raw_files.write_tar(raw / "a.tar", raw_files.pairs(60))
    pages = [
        {
            "images": [None, raw_files.jpeg(i), None],
            "texts": [f"page {i} shows", None, f"number {i} at last"],
        }
        for i in range(40)
    ]
    raw_files.write_pages(raw / "a.parquet", pages)
    raw_files.write_lines(
        raw / "a.jsonl",
        [
            {"text": f"text number {i} " + "of many words " * (i % 9)}
            for i in range(50)
        ],
    )
    words = [
        f"picture number {i} page shows at last text of many words"
        for i in range(60)
    ]
    tokenizer = folder / "tokenizer.json"
    train_tokenizer(words, tokenizer, kind="word", vocab_size=100)
    for name, kind, file in (
        ("captions", "captions", "a.tar"),
        ("pages", "interleaved", "a.parquet"),
        ("text", "text", "a.jsonl"),
    ):
        prepare(
            Preparation.Config(
                source=default_config(Source, kind), validation=0.2
            ),
            [raw / file],
            folder / name,
            tokenizer,
        )
    return folder


def encoder() -> ViT.Config:
    return ViT.Config(image_size=8, patch_size=4, depth=1, dim=16, num_heads=2)


def decoder() -> Decoder.Config:
    return Decoder.Config(depth=2, dim=32, num_heads=2, hidden_dim=48)


def text_tower() -> TextTower.Config:
    return TextTower.Config(max_length=12, depth=1, dim=16, num_heads=2)


def settings(**fields: Any) -> dict[str, Any]:
    """What every stage shares, unless `fields` say otherwise."""
    return {
        "optimizer": AdamW.Config(peak_lr=1e-2),
        "scheduler": WarmupCosine.Config(warmup_steps=3),
        "steps": 12,
        "log_every": 2,
        "checkpoint_every": 5,
        "precision": "fp32",
    } | fields


def packed(world: Path, **weights: float) -> PackedLoader.Config:
    return PackedLoader.Config(
        sources={name: str(world / name) for name in weights},
        weights=weights,
        batch_size=4,
        micro_batch_size=2,
        sequence_length=64,
        max_images=6,
        packing_window=10,
    )


def pretrain(world: Path, **fields: Any) -> MM1TrainerConfig:
    return Trainer.Config(
        model=MM1.Config(
            encoder=encoder(),
            connector=AveragePool.Config(num_tokens=4),
            decoder=decoder(),
        ),
        loader=packed(world, **WEIGHTS),
        **settings(**fields),
    )


def sparse(world: Path, **fields: Any) -> MM1TrainerConfig:
    """MM1 whose second of two blocks has three experts: a number that two ranks do not
    share evenly."""
    config = pretrain(world, **fields)
    config.model.decoder.experts = MoE.Config(
        num_experts=3, capacity_factor=1.0
    )
    return config


def text_only(world: Path, **fields: Any) -> LanguageModelTrainerConfig:
    return Trainer.Config(
        model=LanguageModel.Config(decoder=decoder()),
        loader=packed(world, text=1.0),
        **settings(**fields),
    )


def contrastive(world: Path, **fields: Any) -> CLIPTrainerConfig:
    return Trainer.Config(
        model=CLIP.Config(encoder=encoder(), text=text_tower(), dim=16),
        loader=PairLoader.Config(
            sources=(str(world / "captions"),), batch_size=8, context=12
        ),
        **settings(**fields),
    )


def reconstructive(world: Path, **fields: Any) -> AIMTrainerConfig:
    vit = replace(encoder(), positions="fixed", patch_norm=True, bias=False)
    return Trainer.Config(
        model=AIM.Config(encoder=vit, head_depth=1, head_dim=16),
        loader=ImageLoader.Config(
            sources=(str(world / "captions"), str(world / "pages")),
            batch_size=8,
            micro_batch_size=4,
        ),
        **settings(**fields),
    )
