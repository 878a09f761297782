"""Shared memory blocks are reused: never while a tensor in them is alive, and soon
after."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mm1.batch import ImageBatch
from mm1.loader import shared_memory
from mm1.loader.workers import load_batches


class Numbered(Dataset):
    """Batches of one to three images, all of one grey level."""

    def __getitem__(self, number: int) -> ImageBatch:
        return ImageBatch(
            images=shared_memory.empty_images(1 + number % 3, (4, 4)).fill_(
                number
            )
        )


def level(images: Tensor) -> int:
    (value,) = images.unique().tolist()
    return value


def test_blocks_are_reused_only_after_their_tensors_are_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a batch for a GPU is a pinned copy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    others = set(shared_memory._pools)
    batches: Iterator[Any] = load_batches(range(120), Numbered(), workers=1)
    held = [
        next(batches).images for _ in range(40)
    ]  # more than there are blocks
    (mine,) = (
        made
        for number, made in shared_memory._pools.items()
        if number not in others
    )
    assert [level(images) for images in held] == list(range(40))
    assert mine.in_use.all()
    part = held[7][:1]
    busy = []
    held.clear()
    for number in range(40, 120):
        assert level(next(batches).images) == number
        busy.append(int(mine.in_use.sum()))
    assert level(part) == 7
    assert (
        min(busy[20:]) > 1
    )  # beside the one that is still held in part, those of batches made ahead
    assert max(busy) < shared_memory.BLOCKS_PER_WORKER
