"""MM1's law of the peak learning rate, asked, and a law that is fitted to a file of
points beside it."""

import math
from collections.abc import Sequence
from pathlib import Path

from mm1.recipes.sizes import law_peak_lr
from mm1.study.law import Law, fit, read_points


def print_law(points: Path | None, sizes: Sequence[float]) -> None:
    """The law that is fitted to a file of points, if there is one, and the rates of
    `sizes`; MM1's beside ours."""
    law = fit(read_points(points)) if points else None
    if law:
        print(describe(law))
    for size in sizes:
        print(rate(size, law))


def describe(law: Law) -> str:
    """Each size's best rate, and the line."""
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
    counted = "each size by its own error" if law.weighted else "all sizes alike"
    lines.append(
        f"ln lr = {law.slope:.4f} ln N {law.intercept:+.4f}   (slope: {spread}; fitted"
        f" by {counted})"
    )
    return "\n".join(lines)


def rate(size: float, law: Law | None = None) -> str:
    """One size's rate by MM1's law and, in front of it, by ours."""
    found = law_peak_lr(size)
    paper = f"{found:.2e} by MM1's law, exp(-0.4214 ln N - 0.5535)"
    decay = "weight decay 0.1 as torch counts it"
    if law is None:
        return (
            f"{size:.4g} parameters: peak rate {paper}; {decay} ({found / 10:.2e} as"
            " MM1 does)"
        )
    own = law.predict(size)
    band = (
        f" ({own.line[0]:.2e} to {own.line[1]:.2e} for the line"
        if own.line
        else " (no band from two sizes"
    )
    band += (
        f", {own.own[0]:.2e} to {own.own[1]:.2e} for one size, 95%)" if own.own else ")"
    )
    return f"{size:.4g} parameters: peak rate {own.lr:.2e}{band}; {paper}; {decay}"
