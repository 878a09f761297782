"""A dense language model and a mixture of experts with as many active parameters, on
the text of the miniature world, for CPUs. Results, times and curves are in LOG.md.

    mm1 train miniature_dense --out runs/dense
    mm1 train miniature_moe seed=1 --out runs/moe-1
"""

from dataclasses import replace

from mm1.miniature.recipes import DEMO, miniature_decoder
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.recipes.trainer_configs import LanguageModelTrainerConfig

HIDDEN_DIM = 352
DENSE = Decoder.Config(
    depth=4,
    dim=128,
    num_heads=4,
    hidden_dim=HIDDEN_DIM,
    rope_base=1e3,
    qk_norm="head",
)


def miniature_dense(folder: str = DEMO) -> LanguageModelTrainerConfig:
    """Four dense blocks on facts and lists of the miniature world."""
    run = miniature_decoder(folder)
    return replace(
        run,
        model=LanguageModel.Config(decoder=DENSE),
        loader=replace(run.loader, batch_size=4, micro_batch_size=4),
        benchmarks={},
        steps=400,
        validate_every=100,
    )


def miniature_moe(folder: str = DEMO) -> LanguageModelTrainerConfig:
    """As `miniature_dense`, with two of eight experts of half the width in every second
    block."""
    experts = MoE.Config(num_experts=8, hidden_dim=HIDDEN_DIM // 2)
    model = LanguageModel.Config(decoder=replace(DENSE, experts=experts))
    return replace(miniature_dense(folder), model=model)
