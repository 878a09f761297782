"""MM1's law of the peak learning rate, beside a law fitted to a file of points."""

import math
from collections.abc import Sequence
from pathlib import Path

from mm1.recipes.sizes import law_peak_lr
from mm1.study.lr_fit import LrLaw, fit_lr_law, read_points


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
