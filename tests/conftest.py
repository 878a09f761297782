"""What several test modules share."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import Any

import pytest
import torch
from browser import NoBrowser, chromium


def pytest_configure() -> None:
    # nohup has it ignored, by whatever the tests start, too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Threads of one test that wait for a core which another test has spin: they take
    # up to nine times as long.
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # of what the tests start
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """Ranks and workers of loaders are forked from a server that has imported these: an
    import costs seconds."""
    multiprocessing.set_forkserver_preload(
        ["mm1.train.trainer", "mm1.loader.packed", "datasets", "PIL.Image"]
    )
    forkserver.ensure_running()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; without one the tests of pages are skipped."""
    try:
        with chromium() as browser:
            yield browser
    except NoBrowser as error:
        pytest.skip(str(error))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests first: with quick ones at the end, workers end together.
    slow = {
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.get_closest_marker("long")
    }
    items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            # Not `item.keywords`, which holds the names of folders, too.
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite tests/golden from the code",
    )
