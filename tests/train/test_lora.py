"""Adapters: the base stays, they learn, a resumed run ends alike, and the finished run
is a plain model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from worlds import make_world, pretrain, text_only

from mm1.batch import move
from mm1.config import ConfigError
from mm1.runs.weights import load_model
from mm1.train.lora import Lora
from mm1.train.trainer import Trainer

pytest.importorskip("peft", reason="the extra `lora` is not installed")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def adapted(world: Path, origin: Path) -> Trainer.Config:
    return text_only(
        world,
        steps=8,
        init={"decoder": str(origin)},
        lora=Lora.Config(rank=4, alpha=8.0),
    )


def fit(
    config: Trainer.Config, folder: Path, resume: bool = False
) -> dict[str, torch.Tensor]:
    config.build(folder=folder, resume=resume).fit()
    return load_file(folder / "model.safetensors")


def test_a_killed_run_with_adapters_ends_as_a_plain_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out loss of the merged model against the adapted one: measured 0, where the
    origin's is half as large again.

    Products are added to weights in place of outputs, so that fp32 sums may differ.
    """
    origin = fit(text_only(world, steps=2), tmp_path / "origin")
    run = adapted(world, tmp_path / "origin").build(folder=tmp_path / "whole")
    trained = {
        name for name, p in run.model.named_parameters() if p.requires_grad
    }
    assert (
        len(trained) == 2 * 4 * 2
    )  # two matrices for each of four maps in each of two blocks
    assert all(".lora_" in name for name in trained)
    run.fit()
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert whole.keys() == origin.keys()
    changed = {
        name for name in whole if not torch.equal(whole[name], origin[name])
    }
    assert {
        name.rpartition(".")[0].rpartition(".")[2] for name in changed
    } == set(Lora.Config().targets)
    assert len(changed) == 2 * 4

    batch = next(iter(run.loader.validation(rank=0, world_size=1)))
    batch = move(batch, run.device)
    model, _, _ = load_model(tmp_path / "whole", run.device)
    with torch.no_grad():
        mean = run.model(batch).means["loss"]
        plain = model(batch).means["loss"]
    torch.testing.assert_close(plain.total, mean.total, rtol=1e-5, atol=0.0)

    save = Trainer._save_checkpoint

    def gone(self: Trainer) -> None:
        save(self)
        self.checkpoints.finish()
        raise RuntimeError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint", gone)
        with pytest.raises(RuntimeError, match="gone"):
            fit(adapted(world, tmp_path / "origin"), tmp_path / "cut")
    cut = fit(
        adapted(world, tmp_path / "origin"), tmp_path / "cut", resume=True
    )
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_parts_and_maps_that_are_not_there_are_named(world: Path) -> None:
    model: Any = pretrain(world).model.build(vocab_size=30)
    with pytest.raises(ConfigError, match="did you mean 'decoder'"):
        Lora.Config(parts=("decodr",)).build().inject(model)
    with pytest.raises(
        ConfigError,
        match=r"'gate_upp', which decoder lacks; did you mean 'gate_up'",
    ):
        Lora.Config(targets=("gate_upp",)).build().inject(model)
    Lora.Config(parts=("encoder",), targets=("qkv",)).build().inject(model)
    assert isinstance(model.connector, nn.Module)
    assert all(p.requires_grad for p in model.connector.parameters())
    assert {
        n.split(".")[0]
        for n, p in model.named_parameters()
        if not p.requires_grad
    } == {"encoder"}
