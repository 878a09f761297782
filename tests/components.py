"""Which classes a contract test runs over."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def classes_in(role: type, *packages: ModuleType) -> list[Any]:
    """Every class of a role in the files of the packages' folders: contract tests run
    over them."""
    modules = [
        importlib.import_module(f"{package.__name__}.{m.name}")
        for package in packages
        for m in pkgutil.iter_modules(package.__path__)
    ]
    return [
        c
        for m in modules
        for c in vars(m).values()
        if isinstance(c, type)
        and issubclass(c, role)
        and c.__module__ == m.__name__
    ]
