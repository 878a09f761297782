"""MM1's law of the peak learning rate, beside a law fitted to a file of points; and the
search for it at MM1's sizes."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mm1.recipes.pretrain import pretrain_ablation_base
from mm1.recipes.sizes import decoder_config, decoder_size, law_peak_lr
from mm1.study.lr_fit import LrLaw, fit_lr_law, read_points
from mm1.study.lr_page import describe_by_seed
from mm1.study.lr_search import LrSearch
from mm1.study.plan import StudyPlan
from mm1.train.origins import RANDOM

LAW_SIZES = ("9M", "85M", "302M", "1.2B")
LARGER = "2.9B"
LAW_STEPS = 20_000
FLAT_GUESS = 3e-4


def full_search() -> LrSearch:
    """MM1's search (section 3.3) at its own sizes, and a fifth that it foretold. It has
    not been run.

    Steps are our choice. Decoders start from scratch and grids at one rate for all
    sizes, so that no guess about the law is in the result.
    """
    sizes = {
        decoder_size(name): partial(_add_mm1, name)
        for name in (*LAW_SIZES, LARGER)
    }
    *small, larger = sizes.items()
    return LrSearch(
        name="lr-law-full",
        title="The learning rates of MM1s",
        about=f"45/45/10, {LAW_STEPS:,} steps of 512 sequences of 4,096 tokens, each"
        " with a complete schedule. Only the decoder varies, which starts from scratch;"
        " the encoder is a trained ViT-L/14. The objective is the validation loss on"
        " captions, pages and text.",
        sizes=dict(small),
        larger=larger,
        guess=lambda size: FLAT_GUESS,
        prepare=lambda folder: None,
    )


def _add_mm1(name: str, plan: StudyPlan, lr: float, seed: int) -> str:
    run = pretrain_ablation_base()
    run.seed = seed
    run.steps = LAW_STEPS
    run.model.decoder = decoder_config(name)
    run.init["decoder"] = RANDOM
    run.optimizer.peak_lr = lr
    return plan.add("pretrain", run)


def print_lr_law(points: Path | None, sizes: Sequence[float]) -> None:
    """Prints the law fitted to a file of points, if given, and the peak rate of each of
    `sizes` (numbers of parameters), with MM1's beside it."""
    law = fit_lr_law(read_points(points)) if points else None
    if law:
        print(describe_law(law))
    for size in sizes:
        print(describe_rate(size, law))


def describe_law(law: LrLaw) -> str:
    """The best rate of each size, and the line."""
    lines = ["parameters   best rate   (x/ its standard error)   MM1's law"]
    for best in law.optima:
        error = (
            "unknown: add seeds"
            if best.error is None
            else f"x/ {math.exp(best.error):.3g}"
        )
        lines.append(
            f"{best.params:<10.4g}   {best.lr:<9.3g}   {error:<23}  "
            f" {law_peak_lr(best.params):.3g}"
        )
    half = law.slope_half
    spread = (
        "two sizes alone: no interval"
        if half is None
        else f"95% interval {law.slope - half:.3f} to {law.slope + half:.3f}"
    )
    weights = "weighted by their errors" if law.weighted else "weighted equally"
    lines.append(
        f"ln lr = {law.slope:.4f} ln N {law.intercept:+.4f}   (slope: {spread}; sizes"
        f" {weights})"
    )
    if by_seed := describe_by_seed(law):
        lines.append(by_seed)
    return "\n".join(lines)


def describe_rate(size: float, law: LrLaw | None = None) -> str:
    """The peak rate of one size by MM1's law, preceded by ours if given."""
    paper_lr = law_peak_lr(size)
    paper = f"{paper_lr:.2e} by MM1's law, exp(-0.4214 ln N - 0.5535)"
    decay = "weight decay 0.1 in torch's convention"
    if law is None:
        return (
            f"{size:.4g} parameters: peak rate {paper}; {decay} ({paper_lr / 10:.2e} in"
            " MM1's)"
        )
    ours = law.predict(size)
    if ours.line is None or ours.single is None:
        intervals = "no interval from two sizes"
    else:
        intervals = (
            f"{ours.line[0]:.2e} to {ours.line[1]:.2e} for the line,"
            f" {ours.single[0]:.2e} to {ours.single[1]:.2e} for one size, 95%"
        )
    ours_lr = f"{ours.lr:.2e} ({intervals})"
    return f"{size:.4g} parameters: peak rate {ours_lr}; {paper}; {decay}"
