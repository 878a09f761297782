"""Checkpoints of two ranks: what happens to the files of one is known to both."""

import errno
import os
from pathlib import Path

import pytest
from ranks import on_ranks
from torch.distributed.checkpoint import FileSystemWriter
from worlds import make_world, text_only

from mm1 import dist
from mm1.config import UserError
from mm1.train.trainer import Trainer


def config_of(world: Path) -> Trainer.Config:
    config = text_only(
        world, steps=6, checkpoint_every=2, keep_checkpoints=3, log_every=1
    )
    config.loader.micro_batch_size = 1
    return config


def fit(world: Path, folder: Path, resume: bool) -> None:
    config_of(world).build(folder=folder, resume=resume).fit()


def fit_with_a_full_disk(world: Path, folder: Path) -> None:
    """Rank 1 cannot write its file of the second checkpoint."""
    write_data = FileSystemWriter.write_data

    def full(self: FileSystemWriter, *arguments: object) -> object:
        if dist.rank() == 1 and "step-00000004" in str(self.path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_data(self, *arguments)  # type: ignore[arg-type]

    FileSystemWriter.write_data = full  # type: ignore[method-assign]
    try:
        trainer = config_of(world).build(folder=folder)
        trainer.fit()
    finally:
        FileSystemWriter.write_data = write_data  # type: ignore[method-assign]
    assert trainer.checkpoints.num_failed == 0
    assert trainer.checkpoints.steps() == [2, 6]


def fail_on_rank_zero() -> None:
    dist.start()

    def fail() -> None:
        raise UserError("no such thing")

    assert dist.on_rank_zero(dist.rank) == 0
    with pytest.raises(UserError, match="no such thing"):
        dist.on_rank_zero(fail)
    assert dist.all_gather_objects(f"rank {dist.rank()}") == [
        "rank 0",
        "rank 1",
    ]


@pytest.mark.slow
def test_a_fault_on_one_rank_is_a_fault_on_all(tmp_path: Path) -> None:
    on_ranks(2, fail_on_rank_zero)
    world = make_world(tmp_path / "world")
    run = tmp_path / "run"
    on_ranks(2, fit_with_a_full_disk, world, run)
    expected = {
        name: (run / name).read_bytes()
        for name in ("metrics.jsonl", "model.safetensors")
    }
    steps = run / "checkpoints"
    assert not list(steps.glob("*.unfinished"))
    shard = steps / "step-00000006" / "__1_0.distcp"
    data = bytearray(shard.read_bytes())
    data[-500] ^= 64
    shard.write_bytes(data)
    on_ranks(2, fit, world, run, True)
    assert sorted(path.name for path in steps.iterdir()) == [
        "step-00000002",
        "step-00000004",
        "step-00000006",
        "step-00000006.damaged",
    ]
    for name, content in expected.items():
        assert (run / name).read_bytes() == content
