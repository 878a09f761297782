"""Language models, pre-trained on text alone."""

from mm1.loader.packed import PackedLoader
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.recipes.sizes import decoder, decoder_peak_lr
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer


def language_model_small() -> Trainer.Config:
    """The decoder of `pretrain_small`, on your own text, on a laptop: rows of 512
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


def language_model_9m() -> Trainer.Config:
    """The smallest decoder of MM1's search for learning rates, 9M, on text."""
    return _paper("9M")


def language_model_85m() -> Trainer.Config:
    """A decoder of MM1's search for learning rates, 85M, on text."""
    return _paper("85M")


def language_model_302m() -> Trainer.Config:
    """A decoder of MM1's search for learning rates, 302M, on text."""
    return _paper("302M")


def language_model_1b() -> Trainer.Config:
    """The decoder of MM1's ablations, 1.2B, on text."""
    return _paper("1.2B")


def language_model_3b() -> Trainer.Config:
    """The decoder of MM1-3B, 2.9B, on text."""
    return _paper("2.9B")


def language_model_7b() -> Trainer.Config:
    """The decoder of MM1-7B, 6.4B, on text."""
    return _paper("6.4B")


def language_model_30b() -> Trainer.Config:
    """The decoder of MM1-30B on text; with z-loss, which the paper has for this
    size."""
    run = _paper("30B")
    run.model.z_loss = 1e-4  # type: ignore[attr-defined]
    return run


def language_model_3b_moe() -> Trainer.Config:
    """The decoder of MM1-3B-MoE on text: 64 experts in every second block of the
    2.9B."""
    return _sparse("3B-MoE")


def language_model_7b_moe() -> Trainer.Config:
    """The decoder of MM1-7B-MoE on text: 32 experts in every fourth block of the
    6.4B."""
    return _sparse("7B-MoE")


def _sparse(size: str) -> Trainer.Config:
    run = _paper(size)
    run.log_every = 100  # a line has a figure for each of some hundred experts
    return run


def _paper(size: str) -> Trainer.Config:
    """Rows of 4,096 tokens, 512 a step, peak rate from the law, decay 0.1 of it.

    MM1 does not say how its language models were pre-trained: batch, steps and warm-up
    are those of its multimodal stage.
    """
    return Trainer.Config(
        steps=200_000,
        model=LanguageModel.Config(decoder=decoder(size)),
        loader=PackedLoader.Config(
            sources={"text": "data/text"},
            weights={"text": 1.0},
            batch_size=512,
            workers=4,
        ),
        optimizer=AdamW.Config(peak_lr=decoder_peak_lr(size)),
        scheduler=WarmupCosine.Config(warmup_steps=2000),
        activation_checkpointing="full",
        compile=True,
    )
