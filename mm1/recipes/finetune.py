"""Supervised fine-tuning of MM1 (section 5), and the two later stages of MM1.5
(arXiv:2409.20566).

Each starts from a finished run and learns only the answers of conversations (`mm1
prepare instructions`):

    mm1 train sft_3b init.encoder=RUN init.connector=RUN init.decoder=RUN \\
        loader.sources.instructions=DIR --out runs/sft

The model takes the shape of the run that it starts from, so `mm15_sft` tunes a model of
any size.

Known from notes on the papers (docs/fine-tuning.md): steps, batch size, sequence
length, AdaFactor, peak rates, cosine, nothing frozen, tile sizes, and MM1.5's mixture.
The rest is our choice, and no model of these sizes has been trained with it: warm-up
over 3% of the steps, decay to 0, no weight decay, absolute rates, shares counted in
documents, and sequences of 4,096 tokens where an image has up to ten views. That each
image is split into 2 x 2 tiles whatever its size follows from MM1's one input size.
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
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.train.optimizers.adafactor import AdaFactor
from mm1.train.schedulers import WarmupCosine

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
"""MM1.5: single images 80% in six groups, multiple images 10%, text 10%."""

OCR = ("pdfa", "idl", "rendered_text", "docstruct")


def sft_small() -> MM1TrainerConfig:
    """Conversations for the model of `pretrain_small`, on a laptop: images of 192
    pixels and more as five sub-images.

    Hardware: 2 CPU cores, minutes. Steps and rate are a first choice, tried once
    (LOG.md).
    """
    return replace(
        pretrain_small(),
        init=dict.fromkeys(PARTS, "runs/small"),
        steps=200,
        checkpoint_every=50,
        validate_every=50,
        loader=PackedLoader.Config(
            sources={"instructions": "data/instructions"},
            weights=dict(INSTRUCTIONS),
            weights_of="documents",
            batch_size=2,
            micro_batch_size=2,
            sequence_length=1024,
            max_images=40,
            packing_window=64,
            max_tiles=4,
        ),
        optimizer=AdaFactor.Config(
            peak_lr=5e-4, weight_decay=0.0, lr_factors={"encoder": 0.3}
        ),
        scheduler=WarmupCosine.Config(warmup_steps=10, min_lr_ratio=0.0),
    )


def sft_3b(image_size: int = 378) -> MM1TrainerConfig:
    """MM1-3B-Chat at 378 px: 10k steps of 256 sequences of 2,048 tokens, AdaFactor,
    peak 1e-5.

    A sequence holds several conversations. MM1's figures fit one in each (2.56M of
    1.45M examples, 1.77 epochs): watch the metric `epoch/instructions`, and set
    `loader.batch_size=64` or fewer steps if there are too many epochs.
    """
    return _sft(pretrain_3b(), "runs/pretrain_3b", image_size=image_size)


def sft_7b() -> MM1TrainerConfig:
    """MM1-7B-Chat at 378 px; otherwise `sft_3b`."""
    return _sft(pretrain_7b(), "runs/pretrain_7b")


def sft_30b() -> MM1TrainerConfig:
    """MM1-30B-Chat at 378 px; otherwise `sft_3b`. The z-loss of its pre-training stays
    (our choice)."""
    return _sft(pretrain_30b(), "runs/pretrain_30b")


def sft_3b_moe() -> MM1TrainerConfig:
    """MM1-3B-MoE-Chat: `sft_3b` with 64 experts."""
    return _sft(pretrain_3b_moe(), "runs/pretrain_3b_moe")


def sft_7b_moe() -> MM1TrainerConfig:
    """MM1-7B-MoE-Chat: `sft_7b` with 32 experts."""
    return _sft(pretrain_7b_moe(), "runs/pretrain_7b_moe")


def sft_3b_1344(tile_size: int = 672) -> MM1TrainerConfig:
    """`sft_3b` at 1344 px: five sub-images of 672 px an image, 720 tokens; positions
    are interpolated."""
    start = "runs/pretrain_3b"
    return _sft(pretrain_3b(), start, image_size=tile_size, num_tiles=4)


def sft_7b_1344() -> MM1TrainerConfig:
    """`sft_7b` at 1344 px: five sub-images of 672 px an image, 720 tokens; positions
    are interpolated."""
    return _sft(pretrain_7b(), "runs/pretrain_7b", image_size=672, num_tiles=4)


def sft_30b_1344() -> MM1TrainerConfig:
    """`sft_30b` at 1344 px: five sub-images of 672 px an image, 720 tokens; positions
    are interpolated."""
    return _sft(
        pretrain_30b(), "runs/pretrain_30b", image_size=672, num_tiles=4
    )


def mm15_ocr() -> MM1TrainerConfig:
    """MM1.5's continual pre-training on text in images, at 1344 px, before `mm15_sft`:
    at most 30k steps.

    Four sets in equal shares, prepared as captions: the image, then its text.
    """
    run = sft_3b_1344()
    steps = 30_000
    return replace(
        run,
        steps=steps,
        loader=replace(
            run.loader,
            sources={name: f"data/{name}" for name in OCR},
            weights=dict.fromkeys(OCR, 1 / len(OCR)),
            sequence_length=4096,
            max_images=25,
        ),
        scheduler=_schedule(steps),
    )


def mm15_sft() -> MM1TrainerConfig:
    """MM1.5's fine-tuning: eight groups, peak 2e-5, 23k steps, 4 to 9 tiles of 672 px
    by the image's shape."""
    run = sft_3b_1344()
    steps = 23_000
    return replace(
        run,
        init=dict.fromkeys(PARTS, "runs/mm15_ocr"),
        steps=steps,
        loader=replace(
            run.loader,
            sources={name: f"data/{name}" for name in GROUPS},
            weights=dict(GROUPS),
            sequence_length=4096,
            max_images=28,
            resize="pad",
            split="dynamic",
            max_tiles=9,
            index_tokens=True,
        ),
        optimizer=AdaFactor.Config(peak_lr=2e-5, weight_decay=0.0),
        scheduler=_schedule(steps),
    )


def _sft(
    pretrained: MM1TrainerConfig,
    start: str,
    *,
    image_size: int = 378,
    num_tiles: int = 1,
) -> MM1TrainerConfig:
    """Fine-tunes the model of a pre-training from its finished run `start`.

    With several tiles, `image_size` is that of a tile and of the overview.
    """
    steps = 10_000
    vit = replace(pretrained.model.encoder, image_size=image_size)
    return replace(
        pretrained,
        model=replace(pretrained.model, encoder=vit),
        init=dict.fromkeys(PARTS, start),
        steps=steps,
        checkpoint_every=500,
        validate_every=1000,
        loader=PackedLoader.Config(
            sources={"instructions": "data/instructions"},
            weights=dict(INSTRUCTIONS),
            weights_of="documents",
            batch_size=256,
            sequence_length=2048,
            max_images=14,
            packing_window=512,
            min_tiles=num_tiles,
            max_tiles=num_tiles,
            workers=8,
        ),
        optimizer=AdaFactor.Config(peak_lr=1e-5, weight_decay=0.0),
        scheduler=_schedule(steps),
    )


def _schedule(steps: int) -> WarmupCosine.Config:
    """Warm-up over 3% of the steps, then cosine to 0."""
    return WarmupCosine.Config(warmup_steps=steps * 3 // 100, min_lr_ratio=0.0)
