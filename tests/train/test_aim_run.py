"""An AIM run: it resumes with the prefixes it would have drawn, and its encoder can
begin a multimodal run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worlds import make_world, pretrain, reconstructive

from mm1.config import ConfigError
from mm1.loader.loader import StepBatches
from mm1.nn.position import interpolate, sincos
from mm1.runs.weights import load_model
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def aim(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(reconstructive(world), tmp_path_factory.mktemp("runs") / "aim")


def fit(config: Trainer.Config, folder: Path, **facts: Any) -> Path:
    config.build(folder=folder, **facts).fit()
    return folder


def multimodal(world: Path, aim: Path, image_size: int) -> Trainer.Config:
    """An MM1 run whose encoder is the AIM run's, at some resolution."""
    config = pretrain(world, steps=2, init={"encoder": str(aim)})
    config.model.encoder = replace(
        reconstructive(world).model.encoder, image_size=image_size
    )
    return config


def test_learns_and_counts_images(aim: Path) -> None:
    lines = [
        json.loads(line)
        for line in (aim / "metrics.jsonl").read_text().splitlines()
    ]
    trained = [line for line in lines if "loss" in line]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert {line["images"] for line in trained} == {2 * 8}
    assert lines[-1].keys() == {"step", "validation"}
    summary = json.loads((aim / "summary.json").read_text())
    assert set(summary["params"]) == {"encoder", "head"}


@pytest.mark.slow
def test_an_interrupted_run_draws_the_same_prefixes(
    aim: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_step = Trainer.train_step

    def ending(self: Trainer, data: StepBatches) -> None:
        train_step(self, data)
        if self.step == 6:
            raise RuntimeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", ending)
        with pytest.raises(RuntimeError, match="gone"):
            fit(reconstructive(world), tmp_path / "cut")
    cut = fit(reconstructive(world), tmp_path / "cut", resume=True)
    assert (cut / "metrics.jsonl").read_bytes() == (
        aim / "metrics.jsonl"
    ).read_bytes()
    one = load_file(aim / "model.safetensors")
    two = load_file(cut / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one | two)


def test_a_multimodal_run_starts_from_the_encoder(
    aim: Path, world: Path, tmp_path: Path
) -> None:
    config = multimodal(world, aim, 8)
    config.frozen = ("encoder",)
    joint = load_file(fit(config, tmp_path / "joint") / "model.safetensors")
    origin = load_file(aim / "model.safetensors")
    names = [name for name in origin if name.startswith("encoder.")]
    assert all(torch.equal(joint[name], origin[name]) for name in names)
    assert not any(name.startswith("head.") for name in joint)
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    encoders = [
        load_model(run, torch.device("cpu"))[0].encoder
        for run in (aim, tmp_path / "joint")
    ]
    assert torch.equal(encoders[0](images), encoders[1](images))


@pytest.mark.slow
def test_at_another_resolution_fixed_positions_are_interpolated_and_stay(
    aim: Path, world: Path, tmp_path: Path
) -> None:
    joint = load_file(
        fit(multimodal(world, aim, 12), tmp_path / "joint")
        / "model.safetensors"
    )
    wanted = interpolate(
        sincos((2, 2), 16), (3, 3)
    )  # here in fp32 on the CPU; a GPU's sines differ in the last bit
    torch.testing.assert_close(
        joint["encoder.position"], wanted, atol=1e-6, rtol=0
    )
    origin = load_file(aim / "model.safetensors")
    assert not torch.equal(
        joint["encoder.patchify.weight"], origin["encoder.patchify.weight"]
    )


def test_an_encoder_of_another_shape_is_refused(
    aim: Path, world: Path, tmp_path: Path
) -> None:
    config = multimodal(world, aim, 8)
    config.model.encoder.patch_norm = False
    with pytest.raises(
        ConfigError,
        match=r"encoder of .*aim does not fit.*not known here \['patch_norm",
    ):
        config.build(folder=tmp_path / "joint")
