"""A plan beside real steps on what is here, as `mm1 plan --measure` shows it.

python benchmarks/planned.py pretrain_3b loader.batch_size=12 [--rounds 5]
    [--vocab-size 32768] [--out note.md]
"""

import argparse
import time
from pathlib import Path

import torch

from mm1 import dist
from mm1.catalog import run_config
from mm1.plan.comparison import comparison_text
from mm1.plan.here import ROUNDS, measure_here
from mm1.plan.plan import Assumptions
from mm1.plan.tables import assumptions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument(
        "--out", type=Path, help="append the result to this Markdown note"
    )
    arguments = parser.parse_intermixed_args()
    start = time.perf_counter()
    measured = measure_here(
        run_config(arguments.recipe, arguments.overrides),
        Assumptions(vocab_size=arguments.vocab_size),
        rounds=arguments.rounds,
        say=dist.say,
    )
    lines = [
        *comparison_text(measured).splitlines(),
        *assumptions(measured.planner),
        f"{time.perf_counter() - start:.0f} s, torch {torch.__version__}",
    ]
    title = " ".join([arguments.recipe, *arguments.overrides])
    text = f"### {title}\n\n" + "\n".join(f"    {line}" for line in lines)
    print(text, flush=True)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as note:
            note.write(text + "\n\n")
    dist.stop()


if __name__ == "__main__":
    main()
