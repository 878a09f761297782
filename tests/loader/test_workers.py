"""Loader workers share their imports."""

import subprocess
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
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


HELD_UNTIL_THE_END = """
from itertools import count

import torch
from torch.utils.data import Dataset

from mm1.batch import ImageBatch
from mm1.loader.plan_ahead import plan_ahead
from mm1.loader.workers import load_batches


class Grey(Dataset):
    def __getitem__(self, level):
        images = torch.full((1, 3, 4, 4), level, dtype=torch.uint8)
        return ImageBatch(images=images)


if __name__ == "__main__":
    kept = [
        load_batches(range(100), Grey(), workers=1),
        plan_ahead(count, preload="mm1.batch", num_ahead=2),
    ]
    kept.append(kept)  # as an error holds what its traceback shows
    print(next(kept[0]).images.sum().item(), next(kept[1]))
"""


def test_a_process_ends_with_a_loader_that_something_still_holds(
    tmp_path: Path,
) -> None:
    """Its workers live through the signal by which multiprocessing ends them."""
    script = tmp_path / "script.py"
    script.write_text(HELD_UNTIL_THE_END)
    done = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "0 0\n"), done.stderr
