"""What several ranks do when one of them is told to stop, is killed or hangs, and what
they refuse to start with."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import on_ranks
from worlds import make_world, text_only

from mm1 import dist, peers
from mm1.loader.loader import StepBatches
from mm1.lost_ranks import LostRank, one_voice
from mm1.train import agreement
from mm1.train.agreement import RanksDisagree, check_ranks_agree
from mm1.train.shutdown import Interrupted
from mm1.train.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def config_of(world: Path, **fields: Any) -> Trainer.Config:
    config = text_only(
        world,
        **({"steps": 9, "log_every": 4, "checkpoint_every": 100} | fields),
    )
    config.loader.micro_batch_size = 1
    return config


class Happens:
    """A trainer to whose rank 1 something happens in its fourth step."""

    def __init__(self, trainer: Trainer, what: str) -> None:
        self.trainer = trainer
        self.what = what
        self.train_step = trainer.train_step
        self.steps = trainer._steps
        trainer.train_step = self.step  # type: ignore[method-assign]
        trainer._steps = self.data  # type: ignore[method-assign]

    def is_now(self) -> bool:
        return dist.rank() == 1 and self.trainer.step == 3

    def step(self, data: StepBatches) -> None:
        self.train_step(data)
        if self.is_now() and self.what == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        elif self.is_now() and self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.is_now() and self.what == "error":
            raise ValueError("no such number")

    def data(self) -> Iterator[StepBatches]:
        for batches in self.steps():
            if self.is_now() and self.what == "hang":
                time.sleep(1000)
            yield batches


def stopped(world: Path, folder: Path) -> None:
    trainer = config_of(world).build(folder=folder)
    Happens(trainer, "signal")
    with pytest.raises(Interrupted, match="saved at step 4 of 9; go on with"):
        trainer.fit()
    assert trainer.checkpoints.steps() == [4]


def fit(world: Path, folder: Path, resume: bool) -> None:
    config_of(world).build(folder=folder, resume=resume).fit()


def test_a_signal_to_one_rank_stops_all_before_the_next_step(
    world: Path, tmp_path: Path
) -> None:
    """Between lines of metrics; the run resumes to the same bytes."""
    on_ranks(2, stopped, world, tmp_path / "cut")
    on_ranks(2, fit, world, tmp_path / "cut", True)
    on_ranks(2, fit, world, tmp_path / "whole", False)
    for name in ("metrics.jsonl", "model.safetensors"):
        one, two = (
            (tmp_path / run / name).read_bytes() for run in ("cut", "whole")
        )
        assert one == two


LINES = {
    "kill": "rank 1 on .* does not answer: it was killed",
    "hang": r"rank 1 on .* \(after step 3, waiting for data\) kept the others waiting"
    r" for 3 s \(patience in the config\)",
    "error": "rank 1 on .* stopped: no such number",
}


def lose(what: str, world: Path, folder: Path) -> None:
    peers.EXIT_SECONDS = 2.0
    trainer = config_of(world, patience=3.0).build(folder=folder)
    Happens(trainer, what)
    if dist.rank() == 1:
        with one_voice():
            trainer.fit()
    with pytest.raises(LostRank, match=LINES[what]) as lost:
        trainer.fit()
    assert "--resume" in str(lost.value)
    assert "\n" not in str(lost.value)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("kill", -signal.SIGKILL),
        pytest.param("hang", peers.LOST_CODE, marks=pytest.mark.long),
        pytest.param("error", 1, marks=pytest.mark.long),
    ],
)
def test_a_lost_rank_is_one_line(
    what: str, code: int, world: Path, tmp_path: Path
) -> None:
    """Which one, where, since when and why, whatever gloo makes of it. Afterwards the
    run can be started again, and a rank that hangs does not stay behind."""
    on_ranks(2, lose, what, world, tmp_path / "run", codes=[0, code])


def alone(folder: Path) -> None:
    """Rank 0 of two, of which there is no other."""
    os.environ["WORLD_SIZE"] = "2"
    with (
        pytest.raises(
            LostRank,
            match=r"^rank 0 of 2 did not find the others at 127\.0\.0\.1:",
        ),
        one_voice(),
    ):
        dist.start(patience=0.5)


def test_a_rank_that_is_alone_says_so(tmp_path: Path) -> None:
    on_ranks(1, alone, tmp_path)


def disagree(world: Path, folder: Path) -> None:
    agreement.SHARED_SECONDS = 0.5
    dist.start()
    own = folder / str(dist.rank())
    own.mkdir()
    os.chdir(own)
    (own / "text").symlink_to(world / ("text", "captions")[dist.rank()])
    config = config_of(world)
    check_ranks_agree(folder, config)
    with pytest.raises(
        RanksDisagree, match=r"is not shared: rank 1 on \S+ cannot"
    ):
        check_ranks_agree(own, config)
    config.optimizer.peak_lr += dist.rank()
    with pytest.raises(
        RanksDisagree, match=r"rank 1 .* optimizer.peak_lr=1\.01"
    ):
        check_ranks_agree(folder, config)
    config = config_of(Path())
    with pytest.raises(
        RanksDisagree, match=r"^text is not the same data on rank 1"
    ):
        check_ranks_agree(folder, config)
    dist.barrier()
    assert not list(folder.glob("nonce-*"))


def test_ranks_start_with_the_same_folder_config_and_data(
    world: Path, tmp_path: Path
) -> None:
    on_ranks(2, disagree, world, tmp_path)
