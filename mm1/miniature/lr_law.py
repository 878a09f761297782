"""`mm1 study lr-law` and `lr-law-mm1`: MM1's law of the peak learning rate, fitted anew
to a grid of miniature runs.

MM1 searched at 9M, 85M, 302M and 1.2B. Here the same is done at four sizes that two CPU
cores can train, and the line is then asked for a fifth, larger one, whose own best rate
is found as well. A size is 12 * depth * dim^2.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mm1.miniature.ablations import lean, small_vit, train_clip
from mm1.miniature.recipes import make_world, miniature_decoder, miniature_pretrain
from mm1.nn.decoder import Decoder
from mm1.recipes.lr_law import describe
from mm1.recipes.sizes import law_peak_lr
from mm1.study.law_page import verdict, write_law_page
from mm1.study.places import Place
from mm1.study.plan import Plan
from mm1.study.scaling import Grid, search

DEPTH = 4
DIMS = (32, 64, 128, 256)
LARGER = 384
NAMES = {
    "lr-law": (
        "The law of the peak learning rate, of language models; with --fit or --predict"
        " without training."
    ),
    "lr-law-mm1": "The same, of MM1s that start from them.",
}


def find_law(
    name: str,
    folder: Path,
    *,
    seeds: Sequence[int],
    place: Place,
    overrides: Sequence[str],
) -> None:
    """One of `NAMES`: the law of language models, or that of MM1s that start from them.

    In one folder they share runs: an MM1 starts from the run at the middle of its
    size's first grid.
    """
    grid = {"lr-law": language_model_grid, "lr-law-mm1": mm1_grid}[name]()
    found = search(grid, Plan(folder, overrides), seeds=seeds, place=place)
    page = write_law_page(found, law_peak_lr, folder)
    print(describe(found.law))
    print(verdict(found.law, found.larger))
    print(page)


def language_model_grid() -> Grid:
    return _grid(
        "lr-law",
        "The learning rates of miniature language models",
        "Text of the miniature world, 120 steps of 16 rows of 128 tokens; the decoder's"
        " width alone varies. What is looked for is the least loss on held-out text.",
        _language_model,
    )


def mm1_grid() -> Grid:
    return _grid(
        "lr-law-mm1",
        "The learning rates of miniature MM1s",
        "45/45/10 of the miniature world, 100 steps of 8 rows of 128 tokens; the"
        " decoder's width alone varies, and it starts from a language model of its"
        " size. What is looked for is the least loss on held-out captions, pages and"
        " text.",
        _mm1,
    )


def _grid(
    name: str, title: str, about: str, make: Callable[[int, Plan, float, int], str]
) -> Grid:
    sizes = {12.0 * DEPTH * dim**2: partial(make, dim) for dim in (*DIMS, LARGER)}
    *small, larger = sizes.items()
    return Grid(
        name=name,
        title=title,
        about=about,
        sizes=dict(small),
        larger=larger,
        guess=_guess,
        prepare=lambda folder: make_world(folder / "world"),
    )


def _guess(size: float) -> float:
    """The middle of a size's first grid, from first trials: 1e-2 at 50k parameters,
    falling with their square root."""
    return float(f"{1e-2 * (size / 5e4) ** -0.5:.2g}")


def _language_model(dim: int, plan: Plan, lr: float, seed: int) -> str:
    run = lean(miniature_decoder(str(plan.folder)), seed)
    run.steps = 120
    run.benchmarks = {}
    run.model.decoder = _decoder(run.model.decoder, dim)  # type: ignore[attr-defined]
    run.loader.batch_size = run.loader.micro_batch_size = 16  # type: ignore[attr-defined]
    run.optimizer.peak_lr = lr
    return plan.add("decoder", run)


def _mm1(dim: int, plan: Plan, lr: float, seed: int) -> str:
    run = lean(miniature_pretrain(str(plan.folder)), seed)
    run.steps = 100
    run.benchmarks = {}
    run.model.decoder = _decoder(run.model.decoder, dim)  # type: ignore[attr-defined]
    decoder = _language_model(dim, plan, _guess(12.0 * DEPTH * dim**2), seed)
    run.init = {"encoder": train_clip(plan, seed, small_vit()), "decoder": decoder}
    run.optimizer.peak_lr = lr
    return plan.add("pretrain", run)


def _decoder(decoder: Decoder.Config, dim: int) -> Decoder.Config:
    return replace(
        decoder,
        depth=DEPTH,
        dim=dim,
        num_heads=dim // 32,
        hidden_dim=8 * round(dim / 3),
    )
