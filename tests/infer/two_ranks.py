"""Run by torchrun on two processes: `two_ranks.py FOLDER` writes FOLDER/rank<n>.ok where all is well."""

import sys
from pathlib import Path
from typing import Literal

import tiny

from mm1 import dist
from mm1.train.parallel import shard

NUM_DOCUMENTS = (0, 7)
"""Rank 0 has nothing to ask, and has to take part all the same."""
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")


def main() -> None:
    device, folder = dist.start(), Path(sys.argv[1])
    place = folder / str(dist.rank())
    place.mkdir()
    everything = tiny.prompts(max(NUM_DOCUMENTS))
    documents = everything[: NUM_DOCUMENTS[dist.rank()]]
    wanted = tiny.predictor(place).generate(everything, max_tokens=6)[: len(documents)]
    for precision in PRECISIONS:
        predictor = tiny.predictor(place, tokens_per_batch=70)
        shard(predictor.model, device=device, precision=precision)
        answers = predictor.generate(documents, max_tokens=6)
        assert len(answers) == len(documents)
        assert len(predictor.log_likelihood(documents)) == len(documents)
        if precision == "fp32":  # bf16 rounds, so its answers may differ
            assert answers == wanted
            assert predictor.generate(documents, max_tokens=6, shared=True) == answers
    (folder / f"rank{dist.rank()}.ok").touch()
    dist.stop()


main()
