"""Recipes: functions that need no argument and return a complete `Run.Config`.

A recipe's name is its function's; a variant is a function that takes another recipe's config and edits it. This is the
only place in the project where a number of the MM1 paper is written.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable

from mm1.config import ConfigError, nearest
from mm1.train.run import Run

Recipe = Callable[[], Run.Config]


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name, from every file of this folder."""
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules(__path__):
        file = importlib.import_module(f"{__name__}.{module.name}")
        for name, function in inspect.getmembers(file, inspect.isfunction):
            own = function.__module__ == file.__name__ and not name.startswith("_")
            signature = inspect.signature(function)
            complete = all(p.default is not p.empty for p in signature.parameters.values())
            if own and complete and signature.return_annotation is Run.Config:
                found[name] = function
    return found


def recipe(name: str) -> Run.Config:
    """The config of a recipe by name; raises ConfigError that names the nearest."""
    known = all_recipes()
    if name not in known:
        raise ConfigError(f"no recipe {name!r}{nearest(name, known)}; `mm1 list` shows all")
    return known[name]()
