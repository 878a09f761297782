"""`mm1 study`: which studies there are, and what the command does with them."""

import importlib
import inspect
import os
import pkgutil
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from mm1 import recipes
from mm1.config import ConfigError, nearest
from mm1.study.ablation import Study
from mm1.study.run import run_studies

LESSONS = (
    "miniature_mixture",
    "miniature_text",
    "miniature_isolation",
    "miniature_tokens",
    "miniature_encoder_loss",
    "miniature_resolution",
)
"""What `mm1 study lessons` and `make lessons` run: as much as two CPU cores do in an hour and a half."""


def all_studies() -> dict[str, Callable[[], Study]]:
    """Every function of `mm1.recipes` that needs no argument and returns a study, by its name."""
    found: dict[str, Callable[[], Study]] = {}
    for module in pkgutil.iter_modules(recipes.__path__):
        file = importlib.import_module(f"{recipes.__name__}.{module.name}")
        for name, function in inspect.getmembers(file, inspect.isfunction):
            signature = inspect.signature(function)
            own = function.__module__ == file.__name__ and not signature.parameters
            if own and signature.return_annotation is Study:
                found[name] = function
    return found


def list_studies() -> None:
    functions = all_studies()
    about = {name: (function.__doc__ or "").splitlines()[0] for name, function in functions.items()}
    about |= {"lessons": ", ".join(LESSONS), "lr-law": "The law of the peak learning rate."}
    for name, line in about.items():
        print(f"{name:{max(map(len, about))}}  {line}")


def study(words: Sequence[str], out: Path | None, *, seeds: Sequence[int], jobs: int | None, launcher: str = "") -> int:
    """Runs the studies that are named among the words; the others are overrides.

    Raises:
        ConfigError: there is no such study, or no folder is given.
    """
    names = [word for word in words if "=" not in word]
    known = all_studies()
    if names == ["lessons"]:
        names = list(LESSONS)
    for name in names:
        if name not in known:
            raise ConfigError(f"no study {name!r}{nearest(name, [*known, 'lessons'])}; `mm1 study list` shows all")
    if out is None:
        raise ConfigError("a study needs --out, the folder for its runs and its page")
    return run_studies(
        "MM1's lessons in miniature" if names == list(LESSONS) else ", ".join(names),
        {name: known[name]() for name in names},
        out,
        seeds=seeds,
        jobs=jobs or len(os.sched_getaffinity(0)),
        launcher=shlex.split(launcher),
        overrides=[word for word in words if "=" in word],
    )
