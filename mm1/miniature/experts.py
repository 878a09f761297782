"""A dense language model and one of experts with as many active weights, on the text of
the miniature world.

For CPU cores. What came out, and the time it took, with its curves: LOG.md.

    mm1 train miniature_dense --out runs/dense
    mm1 train miniature_moe seed=1 --out runs/moe-1
"""

from dataclasses import replace

from mm1.miniature.recipes import DEMO, miniature_decoder
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.train.trainer import Trainer

DENSE = Decoder.Config(
    depth=4, dim=128, num_heads=4, hidden_dim=352, rope_base=1e3, qk_norm="head"
)


def miniature_dense(folder: str = DEMO) -> Trainer.Config:
    """Four dense blocks on facts and lists of the miniature world."""
    run = miniature_decoder(folder)
    run.model = LanguageModel.Config(decoder=DENSE)
    run.benchmarks = {}
    run.steps = 400
    run.validate_every = 100
    run.loader.batch_size = run.loader.micro_batch_size = 4  # type: ignore[attr-defined]
    return run


def miniature_moe(folder: str = DEMO) -> Trainer.Config:
    """As `miniature_dense`, with two of eight experts of half the width in every second
    block."""
    run = miniature_dense(folder)
    experts = MoE.Config(num_experts=8, hidden_dim=DENSE.hidden_dim // 2)  # type: ignore[operator]
    run.model = LanguageModel.Config(decoder=replace(DENSE, experts=experts))
    return run
