"""Multimodal pre-training: encoder, connector and decoder together, nothing frozen, on
45% interleaved, 45% captioned and 10% text-only tokens (MM1, section 3 and appendix B).

The folders of prepared data are given on the command line:

    mm1 train pretrain_small loader.sources.captions=data/captions
    loader.sources.interleaved=data/pages \\
        loader.sources.text=data/text --out runs/small
"""

from mm1.loader.packed import PackedLoader
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT
from mm1.recipes.sizes import decoder, decoder_peak_lr, encoder
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

MIXTURE = {"interleaved": 0.45, "captions": 0.45, "text": 0.10}


def _sources() -> dict[str, str]:
    return {
        "interleaved": "data/interleaved",
        "captions": "data/captions",
        "text": "data/text",
    }


def pretrain_small() -> Trainer.Config:
    """A first run on your own data, on a laptop: 96-pixel images, 9 tokens each, rows
    of 2,048 tokens.

    Hardware: 2 CPU cores. The rate is tuned by hand, not by the law: the law's smallest
        model is larger than this one, and trains a thousand times longer.
    """
    return Trainer.Config(
        steps=300,
        model=MM1.Config(
            encoder=ViT.Config(
                image_size=96, patch_size=12, depth=4, dim=192, num_heads=4
            ),
            connector=CAbstractor.Config(num_tokens=9, dim=128, depth=1),
            decoder=Decoder.Config(depth=4, dim=256, num_heads=4),
        ),
        loader=PackedLoader.Config(
            sources=_sources(),
            weights=dict(MIXTURE),
            batch_size=2,
            micro_batch_size=1,  # two processes can share a step
            sequence_length=2048,
            max_images=64,
            packing_window=128,
        ),
        optimizer=AdamW.Config(peak_lr=1.5e-3),
        scheduler=WarmupCosine.Config(warmup_steps=30),
        precision="fp32",
        checkpoint_every=100,
        validate_every=100,
    )


def pretrain_ablation_base() -> Trainer.Config:
    """The base of MM1's ablations: ViT-L/14 at 336 px, C-Abstractor with 144 tokens,
    1.2B decoder."""
    return _paper("1.2B", encoder("L/14", 336))


def pretrain_3b() -> Trainer.Config:
    """MM1-3B: ViT-H/14 at 378 px, 144 tokens an image, 2.9B decoder."""
    return _paper("2.9B", encoder("H/14", 378))


def pretrain_7b() -> Trainer.Config:
    """MM1-7B: ViT-H/14 at 378 px, 144 tokens an image, 6.4B decoder."""
    return _paper("6.4B", encoder("H/14", 378))


def pretrain_30b() -> Trainer.Config:
    """MM1-30B: ViT-H/14 at 378 px, 144 tokens an image, 30B decoder; with z-loss, which
    the paper has here alone."""
    run = _paper("30B", encoder("H/14", 378))
    run.model.z_loss = 1e-4  # type: ignore[attr-defined]
    return run


def pretrain_3b_moe() -> Trainer.Config:
    """MM1-3B-MoE: as MM1-3B, with 64 experts in every second block of the decoder."""
    return _sparse("3B-MoE")


def pretrain_7b_moe() -> Trainer.Config:
    """MM1-7B-MoE: as MM1-7B, with 32 experts in every fourth block of the decoder."""
    return _sparse("7B-MoE")


def _sparse(size: str) -> Trainer.Config:
    run = _paper(size, encoder("H/14", 378))
    run.log_every = 100  # a line has a figure for each of some hundred experts
    return run


def _paper(size: str, vit: ViT.Config) -> Trainer.Config:
    """512 rows of 4,096 tokens with at most 16 images, 200k steps, warm-up 2,000, peak
    rate from the law."""
    return Trainer.Config(
        steps=200_000,
        model=MM1.Config(
            encoder=vit,
            connector=CAbstractor.Config(num_tokens=144),
            decoder=decoder(size),
        ),
        loader=PackedLoader.Config(
            sources=_sources(),
            weights=dict(MIXTURE),
            batch_size=512,
            sequence_length=4096,
            max_images=16,
            packing_window=512,
            workers=8,
        ),
        optimizer=AdamW.Config(peak_lr=decoder_peak_lr(size)),
        scheduler=WarmupCosine.Config(warmup_steps=2000),
        activation_checkpointing="full",
        compile=True,
        checkpoint_every=1000,
        validate_every=5000,
    )
