"""Sharing inference among ranks, and keeping them in step."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from mm1 import dist

Item = TypeVar("Item")

ITEMS_PER_CHUNK = 512
"""Items of a rank whose images are in memory at once."""


def chunked(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    return [
        list(items[start : start + size])
        for start in range(0, len(items), size)
    ]


def split_over_ranks(
    items: Sequence[Item], size: int = ITEMS_PER_CHUNK
) -> list[Sequence[Item]]:
    """This rank's items, dealt round-robin, in chunks of `size`.

    Every rank gets the same number of chunks, so some of them may be empty.
    """
    mine = items[dist.data_rank() :: dist.data_size()]
    most = -(-len(items) // dist.data_size())
    return [mine[start : start + size] for start in range(0, most, size)]


def gather_from_ranks(results: list[Any]) -> list[Any]:
    """All ranks' results for items dealt by `split_over_ranks`, in the items' order."""
    ranks = dist.all_gather_objects(results)
    by_rank = ranks[:: len(ranks) // dist.data_size()]
    total = sum(map(len, by_rank))
    return [by_rank[i % len(by_rank)][i // len(by_rank)] for i in range(total)]


def in_step(batches: Sequence[list[Item]]) -> Iterator[list[Item]]:
    """This rank's batches, then empty ones until all ranks are done.

    A sharded model needs every rank for each forward pass.
    """
    waiting = deque(batches)
    while not dist.all_true(not waiting):
        yield waiting.popleft() if waiting else []
