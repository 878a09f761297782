"""Supervised fine-tuning of MM1 (section 5), and the two later stages of MM1.5
(arXiv:2409.20566).

Each starts from a finished run and learns from the answers of conversations alone (`mm1
prepare instructions`):

    mm1 train sft_3b init.encoder=RUN init.connector=RUN init.decoder=RUN
    loader.sources.instructions=DIR --out runs/sft

The run that it starts from brings its shape along, so `mm15_sft` tunes a model of any
size.

Known from notes on the papers (docs/fine-tuning.md): steps, batch, row length,
AdaFactor, peak rates, cosine, nothing frozen, tile sizes, and the shares of MM1.5.
Everything else is our choice, and no model of these sizes has been trained with it:
warm-up over 3% of the steps, a decay to 0, no weight decay, absolute rates, shares
counted in documents, the rows of 4,096 tokens where pictures take up to ten views, and
each picture cut into 2 x 2 whatever its size.
"""

from dataclasses import replace

from mm1.loader.packed import PackedLoader
from mm1.recipes.pretrain import (
    pretrain_3b,
    pretrain_3b_moe,
    pretrain_7b,
    pretrain_7b_moe,
    pretrain_30b,
    pretrain_small,
)
from mm1.train.optimizers.adafactor import AdaFactor
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

PARTS = ("encoder", "connector", "decoder")
INSTRUCTIONS = {"instructions": 1.0}

GROUPS = {
    "text_rich": 0.372,
    "grounding": 0.225,
    "general": 0.113,
    "math": 0.056,
    "code": 0.023,
    "science": 0.011,
    "multi_image": 0.1,
    "text": 0.1,
}
"""MM1.5: single images 80% in six groups, several images 10%, text alone 10%."""

OCR = ("pdfa", "idl", "rendered_text", "docstruct")


def sft_small() -> Trainer.Config:
    """Conversations for the model of `pretrain_small`, on a laptop: pictures of 192
    pixels and more in five views.

    Hardware: 2 CPU cores, minutes. Steps and rate are a first choice that was tried
        once (LOG.md).
    """
    run = pretrain_small()
    run.init = dict.fromkeys(PARTS, "runs/small")
    run.steps = 200
    run.checkpoint_every = 50
    run.validate_every = 50
    run.loader = PackedLoader.Config(
        sources={"instructions": "data/instructions"},
        weights=dict(INSTRUCTIONS),
        weights_of="documents",
        batch_size=2,
        micro_batch_size=2,
        sequence_length=1024,
        max_images=40,
        packing_window=64,
        max_tiles=4,
    )
    run.optimizer = AdaFactor.Config(
        peak_lr=5e-4, weight_decay=0.0, lr_factors={"encoder": 0.3}
    )
    run.scheduler = WarmupCosine.Config(warmup_steps=10, min_lr_ratio=0.0)
    return run


def sft_3b() -> Trainer.Config:
    """MM1-3B-Chat at 378 px: 10k steps of 256 rows of 2,048 tokens, AdaFactor, peak
    1e-5.

    A row holds several conversations. MM1's figures fit one in each (2.56M of 1.45M
    examples, 1.77 epochs): watch the metric `epoch/instructions`, and give
    `loader.batch_size=64` or fewer steps where it goes too far.
    """
    return _tuned(pretrain_3b(), "runs/pretrain_3b")


def sft_7b() -> Trainer.Config:
    """MM1-7B-Chat at 378 px; otherwise `sft_3b`."""
    return _tuned(pretrain_7b(), "runs/pretrain_7b")


def sft_30b() -> Trainer.Config:
    """MM1-30B-Chat at 378 px; otherwise `sft_3b`. The z-loss of its pre-training stays
    (our choice)."""
    return _tuned(pretrain_30b(), "runs/pretrain_30b")


def sft_3b_moe() -> Trainer.Config:
    """MM1-3B-MoE-Chat: `sft_3b` with 64 experts."""
    return _tuned(pretrain_3b_moe(), "runs/pretrain_3b_moe")


def sft_7b_moe() -> Trainer.Config:
    """MM1-7B-MoE-Chat: `sft_7b` with 32 experts."""
    return _tuned(pretrain_7b_moe(), "runs/pretrain_7b_moe")


def sft_3b_1344() -> Trainer.Config:
    """`sft_3b` at 1344 px: five views of 672 a picture, 720 tokens; positions are
    interpolated."""
    return _finer(sft_3b())


def sft_7b_1344() -> Trainer.Config:
    """`sft_7b` at 1344 px: five views of 672 a picture, 720 tokens; positions are
    interpolated."""
    return _finer(sft_7b())


def sft_30b_1344() -> Trainer.Config:
    """`sft_30b` at 1344 px: five views of 672 a picture, 720 tokens; positions are
    interpolated."""
    return _finer(sft_30b())


def mm15_ocr() -> Trainer.Config:
    """MM1.5's continual pre-training on text in pictures, at 1344 px, before
    `mm15_sft`: at most 30k steps.

    Four sets in equal shares, prepared as captions: the picture, then its text.
    """
    run = _finer(sft_3b())
    run.steps = 30_000
    run.loader = replace(
        run.loader,
        sources={name: f"data/{name}" for name in OCR},
        weights=dict.fromkeys(OCR, 1 / len(OCR)),
        sequence_length=4096,
        max_images=25,
    )
    _adafactor(run, peak_lr=1e-5)
    return run


def mm15_sft() -> Trainer.Config:
    """MM1.5's fine-tuning: eight groups, peak 2e-5, 23k steps, 4 to 9 tiles of 672 px
    by the picture's shape."""
    run = _finer(sft_3b())
    run.init = dict.fromkeys(PARTS, "runs/mm15_ocr")
    run.steps = 23_000
    run.loader = replace(
        run.loader,
        sources={name: f"data/{name}" for name in GROUPS},
        weights=dict(GROUPS),
        sequence_length=4096,
        max_images=28,
        resize="pad",
        split="dynamic",
        max_tiles=9,
        index_tokens=True,
    )
    _adafactor(run, peak_lr=2e-5)
    return run


def _tuned(run: Trainer.Config, origin: str) -> Trainer.Config:
    run.init = dict.fromkeys(PARTS, origin)
    run.steps = 10_000
    run.checkpoint_every = 500
    run.validate_every = 1000
    run.loader = PackedLoader.Config(
        sources={"instructions": "data/instructions"},
        weights=dict(INSTRUCTIONS),
        weights_of="documents",
        batch_size=256,
        sequence_length=2048,
        max_images=14,
        packing_window=512,
        workers=8,
    )
    _adafactor(run, peak_lr=1e-5)
    return run


def _finer(run: Trainer.Config) -> Trainer.Config:
    run.model.encoder.image_size = 672  # type: ignore[attr-defined]
    run.loader.min_tiles = run.loader.max_tiles = 4  # type: ignore[attr-defined]
    return run


def _adafactor(run: Trainer.Config, *, peak_lr: float) -> None:
    """MM1.5's optimizer and schedule: warm-up over 3% of the steps."""
    run.optimizer = AdaFactor.Config(peak_lr=peak_lr, weight_decay=0.0)
    run.scheduler = WarmupCosine.Config(
        warmup_steps=run.steps * 3 // 100, min_lr_ratio=0.0
    )
