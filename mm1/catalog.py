"""What has a name on the command line: recipes and studies, from `mm1.recipes` and
`mm1.miniature`."""

import importlib
import inspect
import json
import pkgutil
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_origin

from mm1 import miniature, recipes
from mm1.config import ConfigError, nearest
from mm1.miniature.lr_law import LR_STUDIES, run_lr_study
from mm1.recipes import lr_law
from mm1.study.executors import Executor, LocalExecutor, RayExecutor, SlurmExecutor
from mm1.study.run_studies import run_studies
from mm1.study.study import Study
from mm1.train.trainer import Trainer

LESSONS = (
    "miniature_mixture",
    "miniature_text",
    "miniature_isolation",
    "miniature_tokens",
    "miniature_encoder_loss",
    "miniature_resolution",
)
"""What `mm1 study lessons` and `make lessons` run."""


Recipe = Callable[[], Trainer.Config]


def _functions() -> Iterator[tuple[str, Callable[..., Any], inspect.Signature]]:
    """The public functions of all files of recipes, each with its signature."""
    for package in (recipes, miniature):
        for module in pkgutil.iter_modules(package.__path__):
            file = importlib.import_module(f"{package.__name__}.{module.name}")
            for name, function in inspect.getmembers(file, inspect.isfunction):
                if function.__module__ == file.__name__ and not name.startswith("_"):
                    yield name, function, inspect.signature(function, eval_str=True)


def _returning(result: type) -> dict[str, Callable[[], Any]]:
    """The functions that need no argument and are annotated to return `result`."""
    return {
        name: function
        for name, function, signature in _functions()
        if _returns(signature) is result and not _needed(signature)
    }


def _returns(signature: inspect.Signature) -> Any:
    annotation = signature.return_annotation
    return get_origin(annotation) or annotation


def _needed(signature: inspect.Signature) -> list[str]:
    """The parameters without a default."""
    return [p.name for p in signature.parameters.values() if p.default is p.empty]


def _unknown(kind: str, result: type, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is no recipe or study.

    If a function of that name exists, the message says what it lacks; otherwise it
    names the nearest one.
    """
    for other, function, signature in _functions():
        if other != name or _returns(signature) not in (result, signature.empty):
            continue
        missing = []
        if _returns(signature) is not result:
            missing.append(f"annotate its return as -> {result.__qualname__}")
        if needed := _needed(signature):
            missing.append(f"give a default to {', '.join(needed)}")
        file = function.__module__.replace(".", "/") + ".py"
        return ConfigError(
            f"{name} in {file} is no {kind} yet: {' and '.join(missing)}"
        )
    listed = {"recipe": "mm1 list", "study": "mm1 study list"}[kind]
    return ConfigError(
        f"no {kind} {name!r}{nearest(name, known)}; `{listed}` shows all"
    )


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    return _returning(Trainer.Config)


def recipe(name: str) -> Trainer.Config:
    """The config of a recipe by name.

    Raises:
        ConfigError: there is no such recipe; the message names the nearest one, or what
            a function of that name lacks to be one.
    """
    known = all_recipes()
    if name not in known:
        raise _unknown("recipe", Trainer.Config, name, known)
    return known[name]()


def all_studies() -> dict[str, Callable[[], Study]]:
    """Every study by name."""
    return _returning(Study)


def list_studies() -> None:
    about = {
        name: (function.__doc__ or "").splitlines()[0]
        for name, function in all_studies().items()
    }
    about |= {
        "lessons": "MM1's lessons in miniature: " + ", ".join(LESSONS) + "."
    } | LR_STUDIES
    for name, line in about.items():
        print(f"{name:{max(map(len, about))}}  {line}")


def study_command(
    words: Sequence[str],
    out: Path | None,
    *,
    seeds: Sequence[int],
    jobs: int | None = None,
    launcher: str = "",
    on: str = "here",
    ask: Sequence[str] = (),
    fit: Path | None = None,
    predict: Sequence[float] = (),
) -> int | None:
    """Runs the studies that are named among the words, or one law of rates; the other
    words are overrides.

    `list` shows the studies. The law is not trained for where points are given to fit,
    or sizes are asked for alone.

    Raises:
        ConfigError: there is no such study, or no folder is given.
    """
    names, overrides = (
        [word for word in words if ("=" in word) == given] for given in (False, True)
    )
    if names == ["list"]:
        return list_studies()
    if names == ["lr-law"] and (fit or predict):
        return lr_law.print_lr_law(fit, predict)
    known = all_studies()
    for name in names:
        if name not in (*known, "lessons", *LR_STUDIES):
            raise _unknown("study", Study, name, (*known, "lessons", *LR_STUDIES))
    if out is None or not names:
        raise ConfigError(
            "a study needs a name and --out, the folder for its runs and its page"
        )
    how = {
        "seeds": seeds,
        "executor": _executor(on, ask, out, jobs, shlex.split(launcher)),
    }
    if LR_STUDIES.keys() & set(names):
        if len(names) > 1:
            raise ConfigError(
                f"{' and '.join(names)} are asked one after the other, in one folder if"
                " you like"
            )
        return run_lr_study(names[0], out, overrides=overrides, **how)
    chosen = [
        each for name in names for each in (LESSONS if name == "lessons" else (name,))
    ]
    title = (
        "MM1's lessons in miniature"
        if names == ["lessons"]
        else " \N{MIDDLE DOT} ".join(names)
    )
    return run_studies(
        title, {name: known[name]() for name in chosen}, out, overrides=overrides, **how
    )


def _executor(
    on: str, ask: Sequence[str], out: Path, jobs: int | None, launcher: Sequence[str]
) -> Executor:
    """Raises ConfigError where a wish is not NAME=VALUE, or made of this machine, which
    grants none."""
    if on == "here" and ask:
        raise ConfigError(
            f"--ask {ask[0]} is for --on slurm or ray; here, runs take what there is"
        )
    if wrong := [wish for wish in ask if "=" not in wish]:
        raise ConfigError(f"--ask {wrong[0]}: NAME=VALUE, such as gpus_per_node=8")
    asked = {
        name: _value(value) for name, _, value in (wish.partition("=") for wish in ask)
    }
    if on == "slurm":
        return SlurmExecutor(out / "slurm", jobs, launcher, asked)
    return (
        RayExecutor(jobs, launcher, asked)
        if on == "ray"
        else LocalExecutor(jobs, launcher)
    )


def _value(text: str) -> Any:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
