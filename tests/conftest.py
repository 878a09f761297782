"""What several test modules share."""

import importlib
import multiprocessing
import pkgutil
from multiprocessing import forkserver
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """Ranks and workers of loaders are forked from a server that has imported these: an
    import costs seconds."""
    multiprocessing.set_forkserver_preload(
        ["mm1.train.trainer", "mm1.loader.packed", "datasets", "PIL.Image"]
    )
    forkserver.ensure_running()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden from the code",
    )
