"""Features that begin with a mean of zero: on one rank and on two, and what else
changes, which is nothing."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import worlds
from ranks import on_ranks
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.batch import Batch, PackedBatch, move
from mm1.config import ConfigError
from mm1.nn.mm1 import MM1
from mm1.train.centering import center_features
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.make_world(tmp_path_factory.mktemp("world"))


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {
        name: (
            value.full_tensor() if isinstance(value, DTensor) else value
        ).clone()
        for name, value in trainer.model.state_dict().items()
    }


def mean_feature(trainer: Trainer, batches: Sequence[Batch]) -> Tensor:
    """(E,), over the patches of all images of a step."""
    seen = []

    def add(_module: object, _inputs: object, features: Tensor) -> None:
        seen.append(features)

    model = trainer.model
    assert isinstance(model, MM1)
    hook = model.encoder.register_forward_hook(add)
    with torch.no_grad():
        for batch in batches:
            model(move(batch, trainer.device))
    hook.remove()
    used = []
    for each, batch in zip(seen, batches, strict=True):
        assert isinstance(batch, PackedBatch)
        used.append(each[: len(batch.slots)].flatten(0, 1))
    return torch.cat(used).mean(0)


def test_the_mean_of_the_first_step_becomes_zero(
    world: Path, tmp_path: Path
) -> None:
    trainer = worlds.pretrain(world).build(folder=tmp_path / "run")
    batches = next(trainer._steps()).micro_batches
    before = mean_feature(trainer, batches)
    assert before.norm() > 0.1
    was = state(trainer)
    center_features(trainer.model, batches, trainer.device)
    after = mean_feature(trainer, batches)
    assert after.norm() < 1e-5
    now = state(trainer)
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    assert changed == {"encoder.norm.bias"}
    torch.testing.assert_close(
        was["encoder.norm.bias"] - now["encoder.norm.bias"], before
    )


def centred_weights(world: Path, folder: Path) -> None:
    run = worlds.pretrain(world, center_features=True, steps=2)
    run.build(folder=folder).fit()


@pytest.mark.slow
def test_two_ranks_have_the_mean_of_both(world: Path, tmp_path: Path) -> None:
    one, two, plain = (tmp_path / name for name in ("one", "two", "plain"))
    centred_weights(world, one)
    on_ranks(2, centred_weights, world, two)
    worlds.pretrain(world, steps=2).build(folder=plain).fit()
    ours, theirs, without = (
        load_file(folder / "model.safetensors")["encoder.norm.bias"]
        for folder in (one, two, plain)
    )
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert (without - ours).norm() > 0.1


def test_models_that_cannot_be_centred_are_named(
    world: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="needs a model with a connector"):
        worlds.text_only(world, center_features=True).build(
            folder=tmp_path / "text"
        )
    run = worlds.pretrain(world, center_features=True)
    run.model.encoder.norm = "rms"
    with pytest.raises(ConfigError, match=r"encoder\.norm=rms has none"):
        run.build(folder=tmp_path / "rms")
    run = worlds.pretrain(world, center_features=True)
    run.loader.sources = {"text": run.loader.sources["text"]}
    run.loader.weights = {"text": 1.0}
    trainer = run.build(folder=tmp_path / "blind")
    with pytest.raises(ConfigError, match="no image in the first step"):
        trainer.fit()
    dist.stop()
