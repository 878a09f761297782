"""What recipes at full size cost: operations, and hours of a GPU that reaches a stated
share of its peak.

    python benchmarks/costs.py [RECIPE ...] [--peak 989e12] [--share 0.4]
    python benchmarks/costs.py --studies

Counted as `Model.flops` counts them, forward and backward, on models of the meta
device; recomputation, which adds up to a third, is left out. What depends on data is
assumed: rows hold 14.9 images for each 16 allowed (benchmarks/packing.md), documents
have 512 tokens, the vocabulary 32,768 entries. The peak is an H100's for dense bf16;
the share is what one H100 reached on text alone (benchmarks/gpu.md).
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from mm1.catalog import all_recipes, all_studies, recipe
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader
from mm1.nn.model import Model
from mm1.recipes.lr_law import full_search
from mm1.study.lr_search import AROUND, STEP
from mm1.study.plan import StudyPlan
from mm1.train.trainer import Trainer

DOCUMENT = 512
VOCABULARY = 32_768
FILLED = 14.9 / 16
SEEDS = 3


def step_flops(run: Trainer.Config) -> tuple[Model, int]:
    """The model without weights, and the operations of one optimiser step."""
    with torch.device("meta"):
        model = run.model.build(vocab_size=VOCABULARY)
    return model, sum(model.flops(a_step(run, model)).values())


def a_step(run: Trainer.Config, model: Model) -> Any:
    """As much of a step's batch as `flops` looks at."""
    loader: Any = run.loader
    if not isinstance(loader, PackedLoader.Config):
        tokens = (
            torch.empty(loader.batch_size, loader.context, device="meta")
            if isinstance(loader, PairLoader.Config)
            else None
        )
        return SimpleNamespace(images=range(loader.batch_size), tokens=tokens)
    tokens = loader.batch_size * loader.sequence_length
    each = getattr(run.model, "connector", None)
    images = (
        round(loader.batch_size * loader.max_images * FILLED) if each else 0
    )
    text = tokens - images * (each.num_tokens if each else 0)
    return SimpleNamespace(
        tokens=range(tokens),
        images=range(images),
        slots=range(images),
        num_pairs=tokens * DOCUMENT // 2,
        num_targets=text,
    )


def of_recipes(
    names: list[str], hours_of: Callable[[int], float], share: float
) -> None:
    print(
        "| recipe | parameters | steps | PFLOP a step | ZFLOP in all | GPU hours at"
        f" {share:.0%} |"
    )
    print("|---|---|---|---|---|---|")
    for name in names:
        run = recipe(name)
        model, flops = step_flops(run)
        params = sum(p.numel() for p in model.parameters()) / 1e9
        total = flops * run.steps
        print(
            f"| `{name}` | {params:,.2f}B | {run.steps:,} | {flops / 1e15:,.1f} |"
            f" {total / 1e21:,.2f} | {hours_of(total):,.0f} |"
        )


def of_studies(hours_of: Callable[[int], float], share: float) -> None:
    """Every row, with `SEEDS` seeds; what rows start from by name is not part of it."""
    print(f"| study | runs, {SEEDS} seeds | GPU hours at {share:.0%} |")
    print("|---|---|---|")
    for name, study in all_studies().items():
        if name.startswith("miniature_"):
            continue
        plan = StudyPlan(Path("runs"))
        study().rows(plan, 0)
        total = sum(
            step_flops(run)[1] * run.steps for run in plan.runs.values()
        )
        print(
            f"| `{name}` | {len(plan.runs) * SEEDS} | {hours_of(total) * SEEDS:,.0f} |"
        )
    of_search(hours_of)


def of_search(hours_of: Callable[[int], float]) -> None:
    """The first grids of `lr-law-full`; each extension adds a rate of a size."""
    search = full_search()
    plan = StudyPlan(Path("runs"))
    for size, add_run in (*search.sizes.items(), search.larger):
        for k in range(-AROUND, AROUND + 1):
            add_run(plan, search.guess(size) * STEP**k, 0)
    total = sum(step_flops(run)[1] * run.steps for run in plan.runs.values())
    print(
        f"| `{search.name}`, without extensions | {len(plan.runs) * SEEDS} |"
        f" {hours_of(total) * SEEDS:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What recipes and studies at full size cost."
    )
    names = [
        name
        for name in all_recipes()
        if not name.startswith("miniature_") and not name.endswith("_small")
    ]
    parser.add_argument("recipes", nargs="*", default=names)
    parser.add_argument(
        "--studies",
        action="store_true",
        help="the ablations, in place of recipes",
    )
    parser.add_argument(
        "--peak",
        type=float,
        default=989e12,
        help="operations a second of one GPU",
    )
    parser.add_argument("--share", type=float, default=0.4)
    options = parser.parse_args()

    def hours_of(flops: int) -> float:
        return flops / (options.peak * options.share) / 3600

    if options.studies:
        of_studies(hours_of, options.share)
    else:
        of_recipes(options.recipes, hours_of, options.share)


if __name__ == "__main__":
    main()
