"""Image encoders, pre-trained by contrast with their captions (CLIP).

MM1's encoders are ViT-L/14 and ViT-H/14, trained with the CLIP objective; their
hyper-parameters are not known. What stands here is taken from public runs on public
data, and is called a choice where those are silent:

    DFN        Apple's public ViT-H/14 on DFN-5B: 39B pairs seen at 224 px, then 5B at 378; text tower of 24 x 1024
    DataComp   ViT-L/14: 12.8B pairs in batches of 90,112, peak 1e-3, warm-up 10,000, second beta 0.95, decay 0.2;
               ViT-B/16: 1.28B pairs in batches of 8,192, peak 5e-4, warm-up 500

Our choices: images are pooled by the mean over patches, so that what a connector sees
is what was trained (AXLearn's H/14 pools so too); pictures are squashed to the square
and not augmented; the text tower is CLIP's. A resolution step starts from the run
before it, with positions interpolated:

    mm1 train clip_h14_224 loader.sources=['data/captions'] --out runs/clip_h14_224
    mm1 train clip_h14_378 loader.sources=['data/captions'] --out runs/clip_h14_378
"""

from dataclasses import replace

from mm1.loader.pairs import PairLoader
from mm1.nn.clip import CLIP
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.recipes.sizes import encoder
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

# encoder: (depth, dim, heads) of the text tower; the common space is as wide. The
# shapes are open_clip's.
TEXTS = {
    "S/16": (12, 384, 6),
    "B/16": (12, 512, 8),
    "L/14": (12, 768, 12),
    "H/14": (24, 1024, 16),
}


def clip_small() -> Trainer.Config:
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


def clip_s16_224() -> Trainer.Config:
    """ViT-S/16 at 224 px for a machine of a few GPUs: 128M pairs in batches of 4,096;
    rate and size are choices."""
    return _clip(
        "S/16",
        pairs=128e6,
        batch_size=4096,
        optimizer=AdamW.Config(peak_lr=5e-4, betas=(0.9, 0.98)),
        warmup_steps=500,
    )


def clip_b16_224() -> Trainer.Config:
    """ViT-B/16 at 224 px: 1.28B pairs in batches of 8,192, as DataComp's "large"."""
    return _clip(
        "B/16",
        pairs=1.28e9,
        batch_size=8192,
        optimizer=AdamW.Config(peak_lr=5e-4, betas=(0.9, 0.98)),
        warmup_steps=500,
    )


def clip_l14_224() -> Trainer.Config:
    """ViT-L/14 at 224 px, the first part of MM1's ablation encoder: 12.8B pairs, as
    DataComp's "xlarge"."""
    return _clip(
        "L/14",
        pairs=12.8e9,
        batch_size=90_112,
        optimizer=AdamW.Config(peak_lr=1e-3),
        warmup_steps=10_000,
    )


def clip_l14_336() -> Trainer.Config:
    """`clip_l14_224` at MM1's 336 px, an eighth of its pairs more (DFN's share), at a
    tenth of its rate (a choice)."""
    return _finer(clip_l14_224(), 336, pairs=12.8e9 / 8, start="runs/clip_l14_224")


def clip_h14_224() -> Trainer.Config:
    """ViT-H/14 at 224 px, the first part of MM1's final encoder: DFN's 39B pairs; half
    the rate of L/14 (a choice)."""
    return _clip(
        "H/14",
        pairs=39e9,
        batch_size=90_112,
        optimizer=AdamW.Config(peak_lr=5e-4),
        warmup_steps=10_000,
    )


def clip_h14_378() -> Trainer.Config:
    """`clip_h14_224` at MM1's 378 px: DFN's 5B pairs more, at a tenth of its rate (a
    choice)."""
    return _finer(clip_h14_224(), 378, pairs=5e9, start="runs/clip_h14_224")


def _clip(
    name: str,
    *,
    pairs: float,
    batch_size: int,
    optimizer: AdamW.Config,
    warmup_steps: int,
) -> Trainer.Config:
    depth, dim, heads = TEXTS[name]
    text = TextTower.Config(depth=depth, dim=dim, num_heads=heads)
    return Trainer.Config(
        steps=round(pairs / batch_size),
        model=CLIP.Config(
            encoder=encoder(name, 224), text=text, dim=dim, pooling="mean"
        ),
        loader=PairLoader.Config(
            sources=("data/captions",), batch_size=batch_size, workers=8
        ),
        optimizer=replace(optimizer, weight_decay=0.2),
        scheduler=WarmupCosine.Config(warmup_steps=warmup_steps, min_lr_ratio=0.0),
        activation_checkpointing="full",
        compile=True,
        validate_every=5000,
    )


def _finer(
    run: Trainer.Config, image_size: int, *, pairs: float, start: str
) -> Trainer.Config:
    """The same model and batch at a higher resolution, from a finished run."""
    run.model.encoder.image_size = image_size  # type: ignore[attr-defined]
    run.init = dict.fromkeys(("encoder", "text", "projection"), start)
    run.steps = round(pairs / run.loader.batch_size)  # type: ignore[attr-defined]
    run.optimizer.peak_lr /= 10
    run.scheduler.warmup_steps = 1000
    return run
