"""What has a name on the command line: recipes and studies, which are functions of
`mm1.recipes` and `mm1.miniature`, and components, which are files of open folders."""

import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import torch

from mm1 import miniature, recipes
from mm1.config import (
    ConfigError,
    Configurable,
    flatten,
    nearest,
    path_of,
    to_text,
)
from mm1.eval.classes import Classes
from mm1.eval.evaluator import Evaluator
from mm1.miniature.lr_law import LR_STUDIES
from mm1.nn.connectors import Connector
from mm1.overrides import component_names, override
from mm1.prepare.sources import Source
from mm1.runs.description import read_config
from mm1.runs.layout import CONFIG
from mm1.storage.remote_path import as_path
from mm1.study.plan import StudyPlan
from mm1.study.study import Study
from mm1.train.optimizers import Optimizer
from mm1.train.origins import adopt_architectures, origin_runs
from mm1.train.schedulers import Scheduler
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
                if function.__module__ == file.__name__ and not name.startswith(
                    "_"
                ):
                    yield (
                        name,
                        function,
                        inspect.signature(function, eval_str=True),
                    )


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
    return [
        p.name for p in signature.parameters.values() if p.default is p.empty
    ]


def _unknown(
    kind: str, result: type, name: str, known: Iterable[str]
) -> ConfigError:
    """The error for a name that is no recipe or study.

    If a function of that name exists, the message says what it lacks; otherwise it
    names the nearest one.
    """
    for other, function, signature in _functions():
        if other != name or _returns(signature) not in (
            result,
            signature.empty,
        ):
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
    listed = {"recipe": "mm1 list recipes", "study": "mm1 list studies"}[kind]
    close = nearest(name, known)
    near = close if "did you mean" in close else ""
    return ConfigError(f"no {kind} {name!r}{near}; `{listed}` shows all")


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


def check_studies(names: Sequence[str]) -> None:
    """Raises ConfigError for a name that is no study; the message is as for recipes."""
    known = names_of("studies")
    for name in names:
        if name not in known:
            raise _unknown("study", Study, name, known)


def studies_named(names: Sequence[str]) -> dict[str, Study]:
    """The ablations of these names; `lessons` stands for several."""
    known = all_studies()
    single = [
        each
        for name in names
        for each in (LESSONS if name == "lessons" else [name])
    ]
    return {name: known[name]() for name in single}


def run_config(name: str, overrides: Sequence[str] = ()) -> Trainer.Config:
    """The config of a recipe, a run folder or a config.json, with overrides.

    Parts that an override starts from another run take their shape from it; so do those
    of a recipe whose run is there.

    Raises:
        ConfigError: there is no such recipe or key, or the file is of something else.
    """
    path = as_path(name)
    is_path = path.is_dir() or path.suffix == ".json"
    if not is_path and ("/" in name or path.is_file()):
        raise ConfigError(
            f"no run folder at {name}"
            + (": it is a file" if path.is_file() else "")
            + "; a recipe has a name without slashes (`mm1 list recipes`)"
        )
    config = read_config(path) if is_path else recipe(name)
    if not isinstance(config, Trainer.Config):
        raise ConfigError(
            f"{name} is the config of a {path_of(config)}, not of a run"
        )
    before = origin_runs(config.init)
    for assignment in overrides:
        override(config, assignment)
    changed = {
        part: origin
        for part, origin in origin_runs(config.init).items()
        if before.get(part) != origin
        or (not is_path and (origin / CONFIG).is_file())
    }
    adopt_architectures(config, changed, overrides)
    return config


def finished_run_config(run: Path, overrides: Sequence[str]) -> Trainer.Config:
    """As `run_config`, for what takes a run folder alone.

    Raises:
        FileNotFoundError: it is no run folder.
        ConfigError: there is no such key, or the file is of something else.
    """
    read_config(run)
    return run_config(str(run), overrides)


ROLES: dict[str, type[Configurable]] = {
    "sources": Source,
    "benchmarks": Evaluator,
    "classes": Classes,
    "connectors": Connector,
    "optimizers": Optimizer,
    "schedulers": Scheduler,
}
"""The groups of components in `mm1 list`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of `mm1 list`."""

    name: str
    summary: str
    needs: str = ""
    """Folders that must be there, hardware, optional dependencies; or what it reads."""
    size: str = ""


def names_of(group: str) -> list[str]:
    """The names of `entries(group)`, without the seconds that these take."""
    if group == "recipes":
        return list(all_recipes())
    if group == "studies":
        return [*all_studies(), "lessons", *LR_STUDIES]
    return list(component_names(ROLES[group]))


def entries(group: str) -> list[Entry]:
    """All that `mm1 list` shows of "recipes", "studies" or one of `ROLES`.

    The size of a recipe is its number of parameters without the vocabulary's table (the
    models are built on the meta device, in some seconds), that of a study its runs for
    each seed.
    """
    if group == "recipes":
        counted: dict[str, str] = {}
        return [
            _recipe_entry(name, function, counted)
            for name, function in all_recipes().items()
        ]
    if group == "studies":
        studies = [
            _study_entry(name, function)
            for name, function in all_studies().items()
        ]
        lessons = f"MM1's lessons in miniature: {', '.join(LESSONS)}."
        named = {"lessons": lessons} | LR_STUDIES
        return studies + [
            Entry(name, summary) for name, summary in named.items()
        ]
    components = component_names(ROLES[group])
    return [_component_entry(name, each) for name, each in components.items()]


def _recipe_entry(
    name: str, function: Recipe, counted: dict[str, str]
) -> Entry:
    """`counted` caches the sizes of models."""
    config = function()
    hardware = re.findall(
        r"Hardware: ([^.]*)\.", inspect.getdoc(function) or ""
    )
    model = to_text(config.model)
    counted[model] = size = counted.get(model) or _num_params(config)
    needs = _phrase("needs", *_folders(config), *hardware, *_extras(function))
    return Entry(name, _summary(function), needs, size)


def _study_entry(name: str, function: Callable[[], Study]) -> Entry:
    plan = StudyPlan(Path("OUT"))
    function().rows(plan, 0)
    folders = [
        each for config in plan.runs.values() for each in _folders(config)
    ]
    outside = [
        each
        for each in dict.fromkeys(folders)
        if Path("OUT") not in Path(each).parents
    ]
    needs = _phrase("needs", *outside, *_extras(function))
    return Entry(name, _summary(function), needs, f"{len(plan.runs)} runs")


def _component_entry(name: str, component: type[Configurable]) -> Entry:
    """Of a source, what it reads; of others, options that are empty by default."""
    if issubclass(component, Source):
        reads = _phrase("reads", *component.PATTERNS)
        return Entry(name, _summary(component), reads)
    general = {
        field
        for base in component.__mro__
        if hasattr(sys.modules[base.__module__], "__path__")
        and base is not component
        for field in getattr(
            getattr(base, "Config", None), "__annotations__", ()
        )
    }
    empty = [
        key
        for key, value in flatten(component.Config()).items()
        if value == "" and key not in general
    ]
    needs = _phrase("options", *empty), _phrase("needs", *_extras(component))
    return Entry(name, _summary(component), "; ".join(filter(None, needs)))


def _phrase(verb: str, *objects: str) -> str:
    return f"{verb} {', '.join(objects)}" if objects else ""


def _folders(config: Trainer.Config) -> list[str]:
    """The prepared folders and runs that a run starts from."""
    sources = getattr(config.loader, "sources", ())
    data = sources.values() if isinstance(sources, dict) else sources
    runs = map(str, origin_runs(config.init).values())
    return list(dict.fromkeys((*data, *runs)))


def _summary(named: Any) -> str:
    """The first paragraph of a docstring: its own, or that of its file."""
    about = (
        vars(named).get("__doc__") if isinstance(named, type) else named.__doc__
    )
    about = about or sys.modules[named.__module__].__doc__ or ""
    return " ".join(about.partition("\n\n")[0].split())


def _extras(named: Any) -> list[str]:
    """The optional dependencies that the docstrings around it name, as `mm1[NAME]`."""
    *packages, _ = itertools.accumulate(
        named.__module__.split("."), "{}.{}".format
    )
    abouts = [
        named,
        sys.modules[named.__module__],
        *map(sys.modules.get, packages),
    ]
    return sorted(
        {e for a in abouts for e in re.findall(r"mm1\[\w+\]", a.__doc__ or "")}
    )


def _num_params(config: Trainer.Config) -> str:
    """Of a model whose vocabulary is empty but for one token: 3.66B."""
    with torch.device("meta"):
        model = config.model.build(vocab_size=1)
    count = sum(p.numel() for p in model.parameters())
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)
