"""Multimodal pre-training: encoder, connector and decoder together, nothing frozen, on
45% interleaved, 45% captioned and 10% text-only tokens (MM1, section 3 and appendix B).

Encoder and decoder are pre-trained. Each recipe names the runs that it starts from,
trained by the recipe of that name or imported; a run that is missing is an error. Only
`pretrain_small` starts from scratch. Those runs and the folders of prepared data are
given on the command line:

    mm1 train pretrain_3b init.encoder=runs/dfn init.decoder=runs/lm \\
        loader.sources.captions=data/captions loader.sources.interleaved=data/pages \\
        loader.sources.text=data/text --out runs/3b
"""

from mm1.loader.packed import PackedLoader
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT
from mm1.recipes.sizes import (
    decoder_config,
    decoder_peak_lr,
    encoder_config,
    layout_config,
)
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.train.optimizers.adamw import AdamW
from mm1.train.origins import RANDOM
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

MIXTURE = {"interleaved": 0.45, "captions": 0.45, "text": 0.10}


def _sources() -> dict[str, str]:
    return {
        "interleaved": "data/interleaved",
        "captions": "data/captions",
        "text": "data/text",
    }


def pretrain_small() -> MM1TrainerConfig:
    """A first run on your own data, on a laptop: images of 96 pixels and 9 tokens,
    sequences of 2,048 tokens.

    Unlike MM1 it trains from scratch, so that the first run is one command.
    `clip_small` and `language_model_small` train parts to start from, with
    `init.encoder=RUN init.decoder=RUN`.

    Hardware: 2 CPU cores. The rate is tuned by hand: the smallest model of the law is
    larger than this one, and trains a thousand times longer.
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
        init={"encoder": RANDOM, "decoder": RANDOM},
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


def pretrain_ablation_base(image_size: int = 336) -> MM1TrainerConfig:
    """The base of MM1's ablations: ViT-L/14 at 336 px, C-Abstractor with 144 tokens,
    1.2B decoder. It takes 64 GiB of one GPU (docs/training-speed.md)."""
    run = _pretrain("1.2B", f"clip_l14_{image_size}", "language_model_1b")
    run.loader.micro_batch_size = 4
    return run


def pretrain_3b() -> MM1TrainerConfig:
    """MM1-3B: ViT-H/14 at 378 px, 144 tokens an image, 2.9B decoder.

    On one GPU of 141 GB it takes 97 GiB (docs/training-speed.md). On one of 80 GB, set
    `activation_checkpointing=full` (68 GiB) or share the work among several.
    """
    run = _pretrain("2.9B", "clip_h14_378", "language_model_3b")
    run.loader.micro_batch_size = 2
    return run


def pretrain_7b() -> MM1TrainerConfig:
    """MM1-7B: ViT-H/14 at 378 px, 144 tokens an image, 6.4B decoder."""
    return _pretrain("6.4B", "clip_h14_378", "language_model_7b")


def pretrain_30b() -> MM1TrainerConfig:
    """MM1-30B: ViT-H/14 at 378 px, 144 tokens an image, 30B decoder; with z-loss, as in
    the paper for this size only. On more than 256 GPUs add layout.tensor=8
    (docs/scale.md)."""
    return _pretrain("30B", "clip_h14_378", "language_model_30b", z_loss=1e-4)


def pretrain_3b_moe() -> MM1TrainerConfig:
    """MM1-3B-MoE: as MM1-3B, with 64 experts in every second block of the decoder,
    shared out over 64 ranks, or as many of them as there are (docs/scale.md)."""
    return _pretrain(
        "3B-MoE", "clip_h14_378", "language_model_3b_moe", log_every=100
    )


def pretrain_7b_moe() -> MM1TrainerConfig:
    """MM1-7B-MoE: as MM1-7B, with 32 experts in every fourth block of the decoder,
    shared out over 32 ranks, or as many of them as there are (docs/scale.md)."""
    return _pretrain(
        "7B-MoE", "clip_h14_378", "language_model_7b_moe", log_every=100
    )


ENCODERS = {
    "clip_l14_224": ("L/14", 224),
    "clip_l14_336": ("L/14", 336),
    "clip_h14_378": ("H/14", 378),
}
"""Recipe -> the encoder that it trains, as `encoder_config` takes it."""


def _pretrain(
    size: str,
    encoder: str,
    decoder: str,
    *,
    z_loss: float = 0.0,
    log_every: int = 10,
) -> MM1TrainerConfig:
    """Of what the recipes `encoder` and `decoder` trained: 512 sequences of 4,096
    tokens and at most 16 images a step, 200k steps, 2,000 of warm-up, peak rate from
    the law; evaluation at 0, 4, 8 and 16 shots.

    A mixture of experts logs a figure for each of some hundred experts: less often.
    """
    return Trainer.Config(
        steps=200_000,
        model=MM1.Config(
            encoder=encoder_config(*ENCODERS[encoder]),
            connector=CAbstractor.Config(num_tokens=144),
            decoder=decoder_config(size),
            z_loss=z_loss,
        ),
        init={"encoder": f"runs/{encoder}", "decoder": f"runs/{decoder}"},
        shots=(0, 4, 8, 16),
        loader=PackedLoader.Config(
            sources=_sources(),
            weights=dict(MIXTURE),
            batch_size=512,
            sequence_length=4096,
            max_images=16,
            packing_window=512,
            image_multiple=8,
            balance_by="flops",
            workers=8,
        ),
        optimizer=AdamW.Config(peak_lr=decoder_peak_lr(size)),
        scheduler=WarmupCosine.Config(warmup_steps=2000),
        activation_checkpointing="selective",
        compile=True,
        layout=layout_config(size),
        log_every=log_every,
        checkpoint_every=1000,
        validate_every=5000,
    )
