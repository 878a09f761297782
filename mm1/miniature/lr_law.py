"""MM1's law of the peak learning rate, fitted anew to miniature runs: `mm1 study
lr-law`, `lr-law-starts` and `lr-law-mm1`.

MM1 searched at 9M, 85M, 302M and 1.2B. Here the same is done at four sizes that two CPU
cores can train; the line then predicts the rate of a fifth, larger one, which is
searched as well. The size of a decoder is 12 * depth * dim^2.

The first MM1s started from language models of their size, each trained at a guess that
fell with size, and the best rate may have been that one's. `lr-law-starts` asks whether
it can be: the same sizes from language models of two rates. In `lr-law-mm1` decoders
start from scratch, and all grids at one rate.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mm1.miniature.ablations import add_clip, small_vit, without_workers
from mm1.miniature.recipes import miniature_decoder, miniature_pretrain
from mm1.miniature.stated import STATED
from mm1.miniature.world.prepared import prepare_world
from mm1.nn.decoder import Decoder
from mm1.recipes.lr_law import describe_law, full_search
from mm1.recipes.sizes import law_peak_lr
from mm1.study.executors import Executor
from mm1.study.lr_page import check_prediction, write_lr_page
from mm1.study.lr_search import LrSearch, run_lr_search
from mm1.study.lr_starts import (
    StartSearch,
    describe_effects,
    run_start_search,
    write_start_page,
)
from mm1.study.plan import StudyPlan
from mm1.train.origins import RANDOM

DEPTH = 4
DIMS = (32, 64, 128, 256)
LARGER = 384
FLAT_START = 2e-3
"""The centre of the first grid of every MM1, whatever its size."""
START_DIMS = (64, 256)
START_RATES = (1e-3, 4e-3)
START_SEEDS = (71, 72, 73)
LAW_SEEDS = (81, 82, 83)
MM1_ABOUT = (
    "45/45/10 of the miniature world, 100 steps of 8 sequences of 128 tokens. {varies}"
    " The objective is the validation loss on captions, pages and text."
)
LR_STUDIES = {
    "lr-law": (
        "The law of the peak learning rate, for language models; --fit or --predict"
        " need no training."
    ),
    "lr-law-starts": "Does the best rate of MM1s depend on the rate of the language"
    " model that they start from? Two sizes, two such rates.",
    "lr-law-mm1": "The law for MM1s, whose decoders start from scratch.",
    "lr-law-full": "The same at MM1's sizes, 9M to 1.2B, and 2.9B foretold; needs"
    " data/captions, data/interleaved, data/text, runs/clip_l14_336.",
}


def run_lr_study(
    name: str,
    folder: Path,
    *,
    seeds: Sequence[int] | None,
    executor: Executor,
    overrides: Sequence[str],
) -> None:
    """Runs one of `LR_STUDIES` and prints what it finds; `seeds` None: those that it is
    stated for."""
    search = lr_study(name)
    seeds = search.seeds if seeds is None else seeds
    plan = StudyPlan(folder, overrides)
    if isinstance(search, StartSearch):
        starts = run_start_search(search, plan, seeds=seeds, executor=executor)
        page = write_start_page(starts, folder)
        print(describe_effects(starts))
        print(page)
        return
    result = run_lr_search(search, plan, seeds=seeds, executor=executor)
    page = write_lr_page(result, law_peak_lr, folder)
    print(describe_law(result.law))
    print(check_prediction(result.law, result.larger))
    print(page)


def lr_study(name: str) -> LrSearch | StartSearch:
    """The search of one of `LR_STUDIES`."""
    searches: dict[str, Callable[[], LrSearch | StartSearch]] = {
        "lr-law": language_model_search,
        "lr-law-starts": start_search,
        "lr-law-mm1": mm1_search,
        "lr-law-full": full_search,
    }
    return searches[name]()


def language_model_search() -> LrSearch:
    return _search(
        "lr-law",
        "The learning rates of miniature language models",
        "Text of the miniature world, 120 steps of 16 sequences of 128 tokens. Only the"
        " width of the decoder varies. The objective is the validation loss.",
        _add_language_model,
    )


def mm1_search() -> LrSearch:
    search = _search(
        "lr-law-mm1",
        "The learning rates of miniature MM1s",
        MM1_ABOUT.format(
            varies="Only the width of the decoder varies, which starts from scratch: a"
            " language model to start from would have a rate of its own, and the best"
            " one here might be that one's. All grids begin at one rate."
        ),
        _add_mm1,
    )
    return replace(
        search,
        guess=lambda size: FLAT_START,
        seeds=LAW_SEEDS,
        stated=STATED,
    )


def start_search() -> StartSearch:
    """Two sizes crossed with the rates of the language models they start from."""
    starts = {rate: f"language model at {rate:g}" for rate in START_RATES}
    first, second = starts.values()
    return StartSearch(
        name="lr-law-starts",
        title="Does the start move the best learning rate?",
        about=MM1_ABOUT.format(
            varies="Two things vary: the width of the decoder, and the rate of the"
            " language model that it starts from (120 steps on text), the same two"
            " rates for both widths."
        ),
        starts=(first, second),
        sizes={
            12.0 * DEPTH * dim**2: {
                words: partial(_add_mm1, dim, language_model_lr=rate)
                for rate, words in starts.items()
            }
            for dim in START_DIMS
        },
        guess=FLAT_START,
        prepare=_prepare_world,
        seeds=START_SEEDS,
        stated=STATED,
    )


def _search(
    name: str,
    title: str,
    about: str,
    add_run: Callable[[int, StudyPlan, float, int], str],
) -> LrSearch:
    sizes = {
        12.0 * DEPTH * dim**2: partial(add_run, dim) for dim in (*DIMS, LARGER)
    }
    *small, larger = sizes.items()
    return LrSearch(
        name=name,
        title=title,
        about=about,
        sizes=dict(small),
        larger=larger,
        prepare=_prepare_world,
        guess=_guess,
    )


def _prepare_world(folder: Path) -> None:
    prepare_world(folder / "world")


def _guess(size: float) -> float:
    """The centre of a size's first grid: 1e-2 at 50k parameters, falling with their
    square root, from a few trials."""
    return float(f"{1e-2 * (size / 5e4) ** -0.5:.2g}")


def _add_language_model(dim: int, plan: StudyPlan, lr: float, seed: int) -> str:
    run = without_workers(miniature_decoder(str(plan.folder)), seed)
    run.steps = 120
    run.benchmarks = {}
    run.model.decoder = _decoder(run.model.decoder, dim)
    run.loader.batch_size = 16
    run.loader.micro_batch_size = 16
    run.optimizer.peak_lr = lr
    return plan.add("decoder", run)


def _add_mm1(
    dim: int,
    plan: StudyPlan,
    lr: float,
    seed: int,
    *,
    language_model_lr: float | None = None,
) -> str:
    """Its decoder starts from a language model of that rate, or from scratch."""
    run = without_workers(miniature_pretrain(str(plan.folder)), seed)
    run.steps = 100
    run.benchmarks = {}
    run.model.decoder = _decoder(run.model.decoder, dim)
    run.init = {
        "encoder": add_clip(plan, seed, small_vit()),
        "decoder": RANDOM
        if language_model_lr is None
        else _add_language_model(dim, plan, language_model_lr, seed),
    }
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
