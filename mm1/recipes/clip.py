"""Image encoders pre-trained by contrast with captions (CLIP).

MM1's encoders are ViT-L/14 and ViT-H/14 with the CLIP objective; their hyperparameters
are not published. Those below come from public runs on public data, and the docstrings
say where they are our choice:

    DFN        Apple's public ViT-H/14 on DFN-5B: 39B pairs seen at 224 px, then 5B at
               378; text tower of 24 x 1024
    DataComp   ViT-L/14: 12.8B pairs in batches of 90,112, peak 1e-3, warm-up 10,000,
               second beta 0.95, decay 0.2
               ViT-B/16: 1.28B pairs in batches of 8,192, peak 5e-4, warm-up 500

Our choices: images are pooled by the mean over patches, so that a connector sees what
was trained (AXLearn's H/14 does the same); images are squashed to a square and not
augmented; the text tower is CLIP's. A higher resolution starts from the run before it,
with interpolated positions:

    mm1 train clip_h14_224 loader.sources=['data/captions'] --out runs/clip_h14_224
    mm1 train clip_h14_378 loader.sources=['data/captions'] --out runs/clip_h14_378
"""

from dataclasses import replace

from mm1.loader.pairs import PairLoader
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.recipes.sizes import encoder_config
from mm1.recipes.trainer_configs import CLIPTrainerConfig
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

# encoder: (depth, dim, heads) of the text tower, as in open_clip; the embeddings are as
# wide
TEXT_TOWERS = {
    "S/16": (12, 384, 6),
    "B/16": (12, 512, 8),
    "L/14": (12, 768, 12),
    "H/14": (24, 1024, 16),
}


def clip_small() -> CLIPTrainerConfig:
    """The encoder of `pretrain_small`, on your own captions, on a laptop: 96 px, batch
    128."""
    return Trainer.Config(
        steps=500,
        model=CLIP.Config(
            encoder=ViT.Config(
                image_size=96, patch_size=12, depth=4, dim=192, num_heads=4
            )
        ),
        loader=PairLoader.Config(
            sources=("data/captions",), batch_size=128, context=32
        ),
        optimizer=AdamW.Config(peak_lr=1e-3),
        scheduler=WarmupCosine.Config(warmup_steps=50),
        precision="fp32",
        checkpoint_every=100,
    )


def clip_s16_224() -> CLIPTrainerConfig:
    """ViT-S/16 at 224 px for a few GPUs: 128M pairs in batches of 4,096; rate and size
    are our choice."""
    return _clip(
        "S/16",
        pairs=128e6,
        batch_size=4096,
        optimizer=AdamW.Config(peak_lr=5e-4, betas=(0.9, 0.98)),
        warmup_steps=500,
    )


def clip_b16_224() -> CLIPTrainerConfig:
    """ViT-B/16 at 224 px: 1.28B pairs in batches of 8,192, as DataComp's "large"."""
    return _clip(
        "B/16",
        pairs=1.28e9,
        batch_size=8192,
        optimizer=AdamW.Config(peak_lr=5e-4, betas=(0.9, 0.98)),
        warmup_steps=500,
    )


def clip_l14_224() -> CLIPTrainerConfig:
    """ViT-L/14 at 224 px, the first stage of MM1's ablation encoder: 12.8B pairs, as
    DataComp's "xlarge"."""
    return _clip(
        "L/14",
        pairs=12.8e9,
        batch_size=90_112,
        optimizer=AdamW.Config(peak_lr=1e-3),
        warmup_steps=10_000,
    )


def clip_l14_336() -> CLIPTrainerConfig:
    """`clip_l14_224` at MM1's 336 px: an eighth of its pairs (DFN's ratio), a tenth of
    its rate (our choice)."""
    return _clip(
        "L/14",
        image_size=336,
        start="runs/clip_l14_224",
        pairs=12.8e9 / 8,
        batch_size=90_112,
        optimizer=AdamW.Config(peak_lr=1e-4),
        warmup_steps=1000,
    )


def clip_h14_224() -> CLIPTrainerConfig:
    """ViT-H/14 at 224 px, the first stage of MM1's final encoder: DFN's 39B pairs; half
    the rate of L/14 (our choice)."""
    return _clip(
        "H/14",
        pairs=39e9,
        batch_size=90_112,
        optimizer=AdamW.Config(peak_lr=5e-4),
        warmup_steps=10_000,
    )


def clip_h14_336() -> CLIPTrainerConfig:
    """`clip_h14_224` at 336 px, a row of MM1's ablation of encoders; pairs and rate are
    those of `clip_h14_378`."""
    return _finer_h14(336)


def clip_h14_378() -> CLIPTrainerConfig:
    """`clip_h14_224` at MM1's 378 px: DFN's 5B further pairs, a tenth of its rate (our
    choice)."""
    return _finer_h14(378)


def _finer_h14(image_size: int) -> CLIPTrainerConfig:
    return _clip(
        "H/14",
        image_size=image_size,
        start="runs/clip_h14_224",
        pairs=5e9,
        batch_size=90_112,
        optimizer=AdamW.Config(peak_lr=5e-5),
        warmup_steps=1000,
    )


def _clip(
    name: str,
    *,
    image_size: int = 224,
    start: str | None = None,
    pairs: float,
    batch_size: int,
    optimizer: AdamW.Config,
    warmup_steps: int,
) -> CLIPTrainerConfig:
    """`start` is a run of the same model at a lower resolution."""
    depth, dim, heads = TEXT_TOWERS[name]
    text = TextTower.Config(depth=depth, dim=dim, num_heads=heads)
    vit = encoder_config(name, image_size)
    parts = ("encoder", "text", "projection")
    return Trainer.Config(
        steps=round(pairs / batch_size),
        model=CLIP.Config(encoder=vit, text=text, dim=dim, pooling="mean"),
        init=dict.fromkeys(parts, start) if start else {},
        loader=PairLoader.Config(
            sources=("data/captions",), batch_size=batch_size, workers=8
        ),
        optimizer=replace(optimizer, weight_decay=0.2),
        scheduler=WarmupCosine.Config(
            warmup_steps=warmup_steps, min_lr_ratio=0.0
        ),
        activation_checkpointing="full",
        compile=True,
        validate_every=5000,
    )
