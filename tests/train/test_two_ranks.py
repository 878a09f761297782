"""Two gloo processes under FSDP2 do what one does: the same losses, and checkpoints
that open on either."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import raw_files
from ranks import PATIENCE, on_ranks
from worlds import contrastive, make_world, pretrain, reconstructive, sparse

from mm1 import config as configs
from mm1.eval.classes.folders import Folders
from mm1.eval.zero_shot_classification import ZeroShotClassification
from mm1.nn.aim import AIM
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def fit(config: Trainer.Config, folder: Path, resume: bool) -> None:
    config.build(folder=folder, resume=resume).fit()


def train(
    config: Trainer.Config, folder: Path, *, ranks: int, resume: bool = False
) -> list[dict[str, Any]]:
    if ranks == 1:
        fit(config, folder, resume)
    else:
        on_ranks(ranks, fit, config, folder, resume)
    return metrics(folder)


def launch(config: Trainer.Config, folder: Path) -> list[dict[str, Any]]:
    """`mm1 train` on two ranks, as a user starts it."""
    stored = folder.with_suffix(".json")
    stored.write_text(json.dumps(configs.to_json(config)))
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    ]
    command = [
        *launcher,
        "-m",
        "mm1.cli",
        "train",
        str(stored),
        "--out",
        str(folder),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return metrics(folder)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_and_either_goes_on_from_the_other(
    world: Path, tmp_path: Path
) -> None:
    """Losses of 12 steps: worst measured 5.2e-8 relative; sums over ranks are taken in
    another order.

    One page in ten: some micro-batches have pictures on one rank and none on the other.
    """
    config = pretrain(world)
    config.loader.weights = {"pages": 0.1, "captions": 0.0, "text": 0.9}
    config.loader.micro_batch_size = 1
    one = train(config, tmp_path / "one", ranks=1)
    two = launch(config, tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert [line.get("tokens/pages") for line in two] == [
        line.get("tokens/pages") for line in one
    ]
    held = [
        [line["validation"] for line in lines if "validation" in line][-1]
        for lines in (one, two)
    ]
    assert held[1] == pytest.approx(held[0], rel=1e-4)

    config.steps = 16
    on_one = train(config, tmp_path / "two", ranks=1, resume=True)
    config.sync_each_micro_batch = False  # reduced once for both micro-batches
    on_two = train(config, tmp_path / "one", ranks=2, resume=True)
    assert losses(on_one) == pytest.approx(losses(on_two), rel=1e-4)
    assert len(losses(on_one)) == 8


@pytest.mark.slow
def test_contrast_is_taken_over_both_ranks(world: Path, tmp_path: Path) -> None:
    """Losses of 12 steps: worst measured 2.1e-7 relative; with one rank's negatives
    alone they would be far apart.

    Then 9 pictures are classified: of two ranks one has 5 of them and 3 names of
    classes, the other 4 and 2.
    """
    for i in range(9):  # words that the world's captions have
        path = (
            tmp_path
            / "zoo"
            / ("last", "number", "page", "picture", "words")[i % 5]
            / f"{i}.jpg"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw_files.jpeg(i))
    benchmark = ZeroShotClassification.Config(
        data=Folders.Config(test=str(tmp_path / "zoo")),
        templates=("{}", "{} at last"),
    )
    config = contrastive(world, benchmarks={"zoo": benchmark})
    runs = [
        train(config, tmp_path / str(ranks), ranks=ranks) for ranks in (1, 2)
    ]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-5)
    predictions = [
        (tmp_path / f"{n}/predictions/zoo-0shot.jsonl").read_text()
        for n in (1, 2)
    ]
    assert predictions[0] == predictions[1]
    assert len(predictions[0].splitlines()) == 9


@pytest.mark.long
def test_routers_on_two_ranks_do_what_they_do_on_one(
    world: Path, tmp_path: Path
) -> None:
    """Losses of 12 steps, recomputed, with equal micro-batches: routers see what they
    would see on one rank."""
    config = sparse(world, activation_checkpointing="full")
    config.loader.micro_batch_size = 1
    one, two = (
        train(config, tmp_path / str(ranks), ranks=ranks) for ranks in (1, 2)
    )
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for name in ("router/balance", "router/dropped", "router/load/1/2"):
        each = [
            [line[name] for line in lines if "loss" in line]
            for lines in (one, two)
        ]
        assert each[1] == pytest.approx(each[0], rel=1e-5)


def fit_without_draws(
    config: Trainer.Config, folder: Path, resume: bool
) -> None:
    """Prefixes as in evaluation, from the pixels: those of training are drawn, by each
    rank for itself."""
    drawn = AIM.prefixes
    AIM.prefixes = lambda self, images: (
        1 + images.sum((1, 2, 3)) % (self.num_patches - 1)
    )  # type: ignore[method-assign]
    try:
        fit(config, folder, resume)
    finally:
        AIM.prefixes = drawn  # type: ignore[method-assign]


@pytest.mark.long
def test_image_regression_on_two_ranks_equals_one(
    world: Path, tmp_path: Path
) -> None:
    """AIM, 6 steps of 8 pictures in micro-batches of 2."""
    config = reconstructive(world, steps=6)
    config.loader.micro_batch_size = 2
    fit_without_draws(config, tmp_path / "one", False)
    on_ranks(2, fit_without_draws, config, tmp_path / "two", False)
    one, two = (losses(metrics(tmp_path / name)) for name in ("one", "two"))
    assert len(one) == 3
    assert two == pytest.approx(one, rel=1e-5)
