"""Processes that fill batches: they start side by side."""

from multiprocessing.context import ForkServerContext
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from mm1.batch import ImageBatch
from mm1.loader.loader import load


class Grey(Dataset):
    def __getitem__(self, level: int) -> ImageBatch:
        return ImageBatch(images=torch.full((1, 3, 4, 4), level, dtype=torch.uint8))


def test_what_a_filler_needs_is_imported_once_for_all_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker reads its filler only after these imports, and the next worker is not
    started before."""
    asked: list[Any] = []
    monkeypatch.setattr(
        ForkServerContext,
        "set_forkserver_preload",
        lambda _, names: asked.append(names),
    )
    levels = [
        int(batch.images[0, 0, 0, 0]) for batch in load(range(3), Grey(), workers=2)
    ]  # type: ignore[attr-defined]
    assert levels == [0, 1, 2]
    assert asked == [["mm1.loader.loader", __name__, "datasets", "PIL.Image"]]
