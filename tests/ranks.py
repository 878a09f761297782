"""Several ranks in a test: processes forked from a server that has imported torch and
mm1 once (see `conftest.py`)."""

import faulthandler
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mm1 import dist

PATIENCE = 240  # seconds, so that a hang is a failure


def on_ranks(
    number: int,
    function: Callable[..., Any],
    *arguments: Any,
    codes: Sequence[int] | None = None,
) -> None:
    """Calls the function once on each of so many ranks; fails where one of them does,
    or does not end with its exit code of `codes`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    ranks = [
        context.Process(
            target=_rank, args=(n, number, port, function, arguments)
        )
        for n in range(number)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE)
    hanging = [rank for rank in ranks if rank.is_alive()]
    for rank in hanging:
        rank.kill()
    assert not hanging, f"{len(hanging)} of {number} ranks hang"
    ended = [rank.exitcode for rank in ranks]
    expected = list(codes or [0] * number)
    # This file's assertions are not rewritten, so that it says what it has seen.
    assert ended == expected, f"exit codes {ended} in place of {expected}"


def _rank(
    rank: int,
    number: int,
    port: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(number),
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    faulthandler.enable()  # a crash in C++ says where
    try:
        function(*arguments)
    finally:
        dist.stop()
