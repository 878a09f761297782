"""Checkpoints of two ranks: what happens to the files of one is known to both."""

import errno
import os
import resource
from pathlib import Path

import pytest
from ranks import on_ranks
from torch.distributed.checkpoint import FileSystemWriter
from worlds import make_world, text_only

from mm1 import dist
from mm1.config import UserError
from mm1.loader.loader import StepBatches
from mm1.train import agreement, checkpoint
from mm1.train.checkpoint import SaveFailed
from mm1.train.checkpoint_files import CheckpointFolder
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


def fit_with_small_files(world: Path, folder: Path) -> None:
    """As on a disk that fills up while the second checkpoint is written: what is beyond
    20 kB of a file is refused by the kernel, on both ranks."""
    trainer = config_of(world).build(folder=folder)
    train_step = trainer.train_step
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

    def step(data: StepBatches) -> None:
        if trainer.step == 5:
            trainer.checkpoints.finish()
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        train_step(data)
        if trainer.step == 3:
            trainer.checkpoints.finish()
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))

    trainer.train_step = step  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.checkpoints.steps() == [2, 6]


def keep_apart(world: Path, folder: Path) -> None:
    """Rank 1's files end up on another machine, though it saw the folder at first."""
    trainer = config_of(world).build(folder=folder)
    agreement.SHARED_SECONDS = 0.2
    checkpoint.MAX_FAILED_SAVES = 1
    if dist.rank() == 1:
        trainer.checkpoints.files = CheckpointFolder(
            folder.with_name("elsewhere")
        )
    with pytest.raises(
        SaveFailed, match=r"__1_0.distcp, .* do all machines see"
    ):
        trainer.fit()
    assert trainer.checkpoints.steps() == []


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


@pytest.mark.long
def test_full_disks_and_folders_that_come_apart(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    on_ranks(2, fit_with_small_files, world, tmp_path / "small")
    on_ranks(2, keep_apart, world, tmp_path / "apart")
