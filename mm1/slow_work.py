"""Work on large files: ranks that wait for it do so outside of collectives, whose
time-out ends whoever waits longer.

Ranks hear of one another through the process group's store, and wait for as long as
anyone makes progress, however slow the disk is.
"""

import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch.distributed import PrefixStore, Store
from torch.distributed.distributed_c10d import (
    _get_default_store,  # the only way to the store of the group
)

from mm1 import dist
from mm1.config import UserError
from mm1.peers import listed

Value = TypeVar("Value")
Tick = Callable[[], None]

TICK_SECONDS = 1.0
"""Between two notes of progress in the store."""
POLL_SECONDS = 0.25
"""Between two questions whether all are done; the first few come sooner."""

_calls = itertools.count()


def slow_work(work: Callable[[Tick], Value]) -> Value:
    """Calls `work` on this rank, and returns what it returns once all ranks have done
    theirs. All ranks must call this.

    `work` calls its argument whenever it has made progress, so that the others go on
    waiting: for `patience` seconds (`mm1.dist.start`) from then on.

    Raises:
        Exception: what `work` has raised on any rank, the same on all.
        UserError: no rank makes progress any more; those that hang are named.
    """
    if dist.world_size() == 1:
        return work(lambda: None)
    store = PrefixStore(f"slow_work/{next(_calls)}", _get_default_store())
    value: Any = None
    try:
        value = work(_ticker(store))
    except Exception as error:  # the other ranks would wait for ever
        store.set("error", pickle.dumps(error))  # type: ignore[arg-type]
    store.set(f"done/{dist.rank()}", "")
    if store.add("done", 1) == dist.world_size():
        store.set("all done", "")
    _wait(store)
    if store.check(["error"]):
        raise pickle.loads(store.get("error"))
    return value


def slow_work_on_rank_zero(work: Callable[[Tick], Value]) -> Value:
    """`slow_work` of rank 0 alone, whose value every rank returns."""
    value = slow_work(lambda tick: work(tick) if dist.rank() == 0 else None)
    return dist.from_first_rank(value)  # type: ignore[return-value]


@contextmanager
def ticking(tick: Tick) -> Iterator[None]:
    """Shows progress inside the block, whose requests have deadlines of their own."""
    done = threading.Event()

    def keep_ticking() -> None:
        while not done.wait(TICK_SECONDS):
            tick()

    thread = threading.Thread(target=keep_ticking, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _ticker(store: Store) -> Tick:
    noted = time.monotonic()

    def tick() -> None:
        nonlocal noted
        if time.monotonic() - noted >= TICK_SECONDS:
            store.add("ticks", 1)
            noted = time.monotonic()

    return tick


def _wait(store: Store) -> None:
    """Until all ranks are done. Short questions, not `Store.wait`, which would keep
    other threads of this process from the store."""
    patience = dist.PATIENCE if dist.peers is None else dist.peers.patience
    pause = 0.001
    seen = -1
    progress = time.monotonic()
    while not store.check(["all done"]):
        time.sleep(pause)
        pause = min(2 * pause, POLL_SECONDS)
        if pause == POLL_SECONDS and (now := store.add("ticks", 0)) != seen:
            seen = now
            progress = time.monotonic()
        if time.monotonic() - progress > patience:
            hanging = [
                str(rank)
                for rank in range(dist.world_size())
                if not store.check([f"done/{rank}"])
            ]
            raise UserError(
                f"{listed(hanging)} did not get on with files of the run for"
                f" {patience:g} s (patience in the config): can the run folder still be"
                " read and written there? Resume the run with --resume"
            )
