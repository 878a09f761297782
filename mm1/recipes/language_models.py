"""Language models, pre-trained on text alone."""

from mm1.loader.packed import PackedLoader
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.recipes.sizes import (
    decoder_config,
    decoder_peak_lr,
    layout_config,
)
from mm1.recipes.trainer_configs import LanguageModelTrainerConfig
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer


def language_model_small() -> LanguageModelTrainerConfig:
    """The decoder of `pretrain_small`, on your own text, on a laptop: sequences of 512
    tokens."""
    return Trainer.Config(
        steps=300,
        model=LanguageModel.Config(
            decoder=Decoder.Config(depth=4, dim=256, num_heads=4)
        ),
        loader=PackedLoader.Config(
            sources={"text": "data/text"},
            weights={"text": 1.0},
            batch_size=8,
            micro_batch_size=8,
            sequence_length=512,
            packing_window=64,
        ),
        optimizer=AdamW.Config(peak_lr=1.5e-3),
        scheduler=WarmupCosine.Config(warmup_steps=30),
        precision="fp32",
        checkpoint_every=100,
        validate_every=100,
    )


def language_model_9m() -> LanguageModelTrainerConfig:
    """The smallest decoder of MM1's learning-rate search, 9M, on text."""
    return _language_model("9M")


def language_model_85m() -> LanguageModelTrainerConfig:
    """A decoder of MM1's learning-rate search, 85M, on text."""
    return _language_model("85M")


def language_model_302m() -> LanguageModelTrainerConfig:
    """A decoder of MM1's learning-rate search, 302M, on text."""
    return _language_model("302M")


def language_model_1b() -> LanguageModelTrainerConfig:
    """The decoder of MM1's ablations, 1.2B, on text."""
    return _language_model("1.2B")


def language_model_3b() -> LanguageModelTrainerConfig:
    """The decoder of MM1-3B, 2.9B, on text."""
    return _language_model("2.9B")


def language_model_7b() -> LanguageModelTrainerConfig:
    """The decoder of MM1-7B, 6.4B, on text."""
    return _language_model("6.4B")


def language_model_30b() -> LanguageModelTrainerConfig:
    """The decoder of MM1-30B on text; with z-loss, as in the paper for this size."""
    return _language_model("30B", z_loss=1e-4)


def language_model_3b_moe() -> LanguageModelTrainerConfig:
    """The decoder of MM1-3B-MoE on text: 64 experts in every second block of the
    2.9B."""
    return _language_model("3B-MoE", log_every=100)


def language_model_7b_moe() -> LanguageModelTrainerConfig:
    """The decoder of MM1-7B-MoE on text: 32 experts in every fourth block of the
    6.4B."""
    return _language_model("7B-MoE", log_every=100)


def _language_model(
    size: str, *, z_loss: float = 0.0, log_every: int = 10
) -> LanguageModelTrainerConfig:
    """512 sequences of 4,096 tokens a step, peak rate from the law, decay to 0.1 of it.

    MM1 does not say how its language models were pre-trained: batch, steps and warm-up
    are those of its multimodal stage. A mixture of experts logs a figure for each of
    some hundred experts: less often.
    """
    return Trainer.Config(
        steps=200_000,
        model=LanguageModel.Config(decoder=decoder_config(size), z_loss=z_loss),
        loader=PackedLoader.Config(
            sources={"text": "data/text"},
            weights={"text": 1.0},
            batch_size=512,
            workers=4,
        ),
        optimizer=AdamW.Config(peak_lr=decoder_peak_lr(size)),
        scheduler=WarmupCosine.Config(warmup_steps=2000),
        activation_checkpointing="selective",
        compile=True,
        layout=layout_config(size),
        log_every=log_every,
    )
