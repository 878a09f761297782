"""GPU memory of training by recipe, activation checkpointing and micro-batch size,
estimated without a GPU.

    python benchmarks/memory.py [pretrain_3b ...] [--modes selective full]
        [--micro-batch-sizes 1 2 4] [--world-size 8] [--images-per-sequence 14.5]

A table in GiB on each rank. See
`mm1.train.memory` for what is counted; leave 5 GiB for the rest.
"""

import argparse
import sys

from mm1.catalog import recipe
from mm1.config import ConfigError
from mm1.train.memory import estimate_memory

RECIPES = ("pretrain_ablation_base", "pretrain_3b", "pretrain_7b")
MODES = ("none", "selective", "memory_budget", "full")
VOCABULARY = 32_768


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument(
        "--micro-batch-sizes", nargs="+", type=int, default=[1, 2, 4]
    )
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--images-per-sequence", type=float)
    arguments = parser.parse_args()
    sizes = arguments.micro_batch_sizes
    print("| recipe | activation checkpointing |", *(f"{n} |" for n in sizes))
    print("|---|---|" + "---|" * len(sizes), flush=True)
    for name in arguments.recipes:
        for mode in arguments.modes:
            row = [_total(name, mode, size, arguments) for size in sizes]
            print(
                f"| `{name}` | {mode} |", *(f"{x} |" for x in row), flush=True
            )


def _total(
    name: str, mode: str, size: int, arguments: argparse.Namespace
) -> str:
    config = recipe(name)
    config.activation_checkpointing = mode
    config.loader.micro_batch_size = size
    try:
        estimate = estimate_memory(
            config,
            vocab_size=VOCABULARY,
            world_size=arguments.world_size,
            images_per_sequence=arguments.images_per_sequence,
        )
    except ConfigError as error:
        sys.exit(f"{name}: {error}")
    return f"{estimate.total / 2**30:.1f}"


if __name__ == "__main__":
    main()
