"""Numbers that are each in range and make no run together."""

from functools import reduce
from pathlib import Path

import pytest
from worlds import contrastive, make_world, text_only

from mm1.config import ConfigError
from mm1.overrides import override


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.weight_decay=200", r"weight_decay=200\.0 times .* is 2:"),
        ("steps=0", "steps=0 must be at least 1"),
        ("checkpoint_every=0", "checkpoint_every=0 must be at least 1"),
        ("keep_checkpoints=0", "keep_checkpoints=0 must be at least 1"),
        ("optimizer.max_grad_norm=0", r"max_grad_norm=0\.0 must be above 0"),
        (
            "model.decoder.num_heads=5",
            "dim=32 must be a multiple of num_heads=5",
        ),
        ("model.decoder.head_dim=5", "heads are 5 wide"),
        ("model.text.max_length=5", "loader.context=12 is more than"),
        ("model.text.num_heads=3", "dim=16 must be a multiple of num_heads=3"),
        ("model.decoder.num_kv_heads=3", "num_kv_heads"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    assignment: str, message: str, world: Path, tmp_path: Path
) -> None:
    config = (contrastive if "text" in assignment else text_only)(world)
    key, _, value = assignment.rpartition("=")
    *parents, name = key.split(".")
    holder = reduce(getattr, parents, config)
    setattr(holder, name, type(getattr(holder, name) or 1)(value))
    with pytest.raises(ConfigError, match=message):
        config.build(folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "scheduler.warmup_steps=24",
            "warmup_steps=24 are more than steps=12: the learning rate ends at 0.005,",
        ),
        (
            "loader.schedule={12: {'text': 1.0}}",
            "weights from step 12 on, which steps=12 never",
        ),
    ],
)
def test_what_may_be_a_trial_is_said(
    assignment: str,
    message: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = text_only(world)
    override(config, assignment)
    config.build(folder=tmp_path / "run")
    assert message in capsys.readouterr().err
