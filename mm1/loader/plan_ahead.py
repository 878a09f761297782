"""A process that plans ahead: what comes next is ready when it is asked for."""

import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from queue import Queue
from typing import Any, NoReturn, TypeVar

from mm1.config import UserError
from mm1.loader.workers import begin_worker, fork_server

Item = TypeVar("Item")
PLANNER_TIMEOUT = 600.0
"""Seconds without an item after which loading fails instead of hanging."""


class PlannerDied(UserError):
    """The process that plans ahead was killed, or hangs."""


def plan_ahead(
    make: Callable[..., Iterator[Item]],
    *args: Any,
    preload: str,
    num_ahead: int,
) -> Iterator[Item]:
    """Yields the items of `make(*args)`, made in a process of its own that is at most
    `num_ahead` and those on the way ahead of what was taken.

    `make` and `args` are pickled; `preload` is the module that the fork server imports
    for them. The process ends with this one, or when the iterator is closed.

    Raises:
        UserError: that of `make`, after the items before it.
        PlannerDied: the process was killed, or has made nothing for `PLANNER_TIMEOUT`
            seconds.
    """
    context = fork_server(preload)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_serve,
        args=(sender, num_ahead, make, args),
        name="planner",
        daemon=True,
    )
    process.start()
    sender.close()  # so that the pipe ends with the process
    try:
        while True:
            item = _receive(receiver)
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        process.kill()
        process.join()
        receiver.close()


def _receive(receiver: Connection) -> Any:
    try:
        if receiver.poll(PLANNER_TIMEOUT):
            return receiver.recv()
    except (EOFError, ConnectionError):
        pass
    raise PlannerDied(
        "the process that plans the loader's batches was killed or hangs: go on by the"
        " same command with --resume"
    )


class _Failure:
    """The error that ends the items."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _serve(
    sender: Connection,
    num_ahead: int,
    make: Callable[..., Iterator[Any]],
    args: tuple[Any, ...],
) -> None:
    """Sends the items, and at last the error that `make` ended with."""
    begin_worker()
    made: Queue[bytes] = Queue(num_ahead)
    threading.Thread(target=_send, args=(sender, made), daemon=True).start()
    try:
        for item in make(*args):
            made.put(pickle.dumps(item))
    except UserError as error:
        made.put(pickle.dumps(_Failure(error)))
    except Exception:
        made.put(pickle.dumps(_Failure(RuntimeError(traceback.format_exc()))))
    threading.Event().wait()  # until it is killed: all was sent by then


def _send(sender: Connection, made: "Queue[bytes]") -> NoReturn:
    while True:
        try:
            sender.send_bytes(made.get())
        except BrokenPipeError:
            os._exit(0)  # nobody takes them any more
