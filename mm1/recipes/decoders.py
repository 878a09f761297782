"""Language models, pre-trained on text alone."""

from mm1.data.packed import Packed
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.recipes.sizes import decoder, decoder_size, law_peak_lr
from mm1.train.optimizer import Optimizer
from mm1.train.run import Run


def language_model_small() -> Run.Config:
    """The decoder of `pretrain_small`, on your own text, on a laptop: rows of 512 tokens."""
    return Run.Config(
        steps=300,
        model=LanguageModel.Config(decoder=Decoder.Config(depth=4, dim=256, num_heads=4)),
        feed=Packed.Config(
            sources={"text": "data/text"},
            weights={"text": 1.0},
            rows=8,
            micro_rows=8,
            row_length=512,
            rows_per_window=64,
        ),
        optimizer=Optimizer.Config(peak_lr=1.5e-3, warmup=30),
        precision="fp32",
        checkpoint_every=100,
        held_out_every=100,
    )


def language_model_1b() -> Run.Config:
    """The decoder of MM1's ablations, 1.2B, on text: rows of 4,096 tokens, peak rate from the law."""
    return Run.Config(
        steps=200_000,
        model=LanguageModel.Config(decoder=decoder("1.2B")),
        feed=Packed.Config(sources={"text": "data/text"}, weights={"text": 1.0}, rows=512, workers=4),
        optimizer=Optimizer.Config(peak_lr=float(f"{law_peak_lr(decoder_size('1.2B')):.3g}"), warmup=2000),
        recompute=1,
        compile=True,
    )
