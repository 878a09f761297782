"""Loader workers share their imports."""

from multiprocessing.context import ForkServerContext
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from mm1.batch import ImageBatch
from mm1.loader.workers import load_batches


class Grey(Dataset):
    def __getitem__(self, level: int) -> ImageBatch:
        return ImageBatch(
            images=torch.full((1, 3, 4, 4), level, dtype=torch.uint8)
        )


def test_the_datasets_module_is_imported_once_for_all_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker unpickles its dataset only after these imports, and only then the next
    worker starts."""
    preloaded: list[Any] = []
    monkeypatch.setattr(
        ForkServerContext,
        "set_forkserver_preload",
        lambda _, names: preloaded.append(names),
    )
    levels = [
        int(batch.images[0, 0, 0, 0])
        for batch in load_batches(range(3), Grey(), workers=2)
    ]  # type: ignore[attr-defined]
    assert levels == [0, 1, 2]
    assert preloaded == [
        ["mm1.loader.workers", __name__, "datasets", "PIL.Image"]
    ]
