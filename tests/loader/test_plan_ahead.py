"""A process that plans ahead: the same items, errors and all; it never outlives its
parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from mm1.config import ConfigError
from mm1.loader.plan_ahead import PlannerDied, plan_ahead


def count(log: Path, error: Exception | None = None) -> Iterator[int]:
    """Numbers, each noted in a file when it is made; two before an error."""
    number = 0
    while True:
        if error and number == 2:
            raise error
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        yield number
        number += 1


def ahead(log: Path, *args: Exception) -> Iterator[int]:
    return plan_ahead(count, log, *args, preload=__name__, num_ahead=3)


def eventually(happened: Callable[[], bool]) -> None:
    for _ in range(400):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in 20 seconds")


def made(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()]


@pytest.fixture(autouse=True)
def no_others() -> None:
    """Planners that earlier tests have left to the garbage collector."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def test_items_are_made_elsewhere_before_they_are_asked_for(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    items = ahead(log)
    assert not log.exists()
    assert next(items) == 0
    # three wait, one is being sent, one waits for room; a pipe takes small items
    eventually(lambda: len(made(log)) >= 4)
    assert set(made(log)) == {multiprocessing.active_children()[0].pid}
    assert [next(items) for _ in range(5)] == [1, 2, 3, 4, 5]
    items.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_a_user_error_comes_after_the_items_before_it(tmp_path: Path) -> None:
    items = ahead(tmp_path / "log", ConfigError("no such weather"))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ConfigError, match=r"^no such weather$"):
        next(items)
    assert multiprocessing.active_children() == []


def test_another_error_shows_where_it_was_raised(tmp_path: Path) -> None:
    items = ahead(tmp_path / "log", KeyError("rain"))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(RuntimeError, match=r"in count[\s\S]*KeyError: 'rain'"):
        next(items)


def test_a_killed_planner_is_named(tmp_path: Path) -> None:
    items = ahead(tmp_path / "log")
    next(items)
    pid = multiprocessing.active_children()[0].pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PlannerDied, match="--resume"):
        list(islice(items, 100_000))


def test_ctrl_c_leaves_the_planner_alone(tmp_path: Path) -> None:
    items = ahead(tmp_path / "log")
    next(items)
    pid = multiprocessing.active_children()[0].pid
    assert pid
    os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    assert [next(items) for _ in range(5)] == [1, 2, 3, 4, 5]
    items.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_planner_dies_with_its_parent(tmp_path: Path) -> None:
    """Killed, so that it cleans up nothing."""
    log = tmp_path / "log"
    program = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_plan_ahead import ahead
items = ahead(Path({str(log)!r}))
next(items)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        eventually(lambda: log.exists() and bool(made(log)))
        time.sleep(0.2)
    finally:
        parent.kill()
        parent.wait()
    (pid,) = set(made(log))
    eventually(lambda: not Path(f"/proc/{pid}").exists())
