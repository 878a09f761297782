"""The contract of an optimizer, over every file in mm1/train/optimizers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from components import classes_in
from ranks import on_ranks
from safetensors.torch import load_file
from torch import Tensor
from worlds import make_world, pretrain, text_only

from mm1.config import ConfigError
from mm1.nn.model import Model
from mm1.train import optimizers
from mm1.train.optimizers import Optimizer
from mm1.train.optimizers.muon import Muon
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

OPTIMIZERS = classes_in(Optimizer, optimizers)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", params=OPTIMIZERS, ids=lambda c: c.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def configured(kind: Any, world: Path, **fields: Any) -> Trainer.Config:
    config = pretrain(world, steps=8, **fields)
    config.optimizer = kind.Config(peak_lr=1e-2)
    config.scheduler = WarmupCosine.Config(warmup_steps=2, min_lr_ratio=0.0)
    return config


def fit(config: Trainer.Config, folder: Path, resume: bool = False) -> Path:
    config.build(folder=folder, resume=resume).fit()
    return folder


def losses(folder: Path) -> list[float]:
    text = (folder / "metrics.jsonl").read_text()
    lines = (json.loads(line) for line in text.splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def runs(
    kind: Any, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two runs: `whole`, and `cut`, killed after it had saved its first checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    save = Trainer._save_checkpoint

    def killed(self: Trainer) -> None:
        save(self)
        self.checkpoints.finish()
        raise RuntimeError("killed")

    fit(configured(kind, world), folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint", killed)
        with pytest.raises(RuntimeError, match="killed"):
            fit(configured(kind, world), folder / "cut")
    return folder


def test_there_are_optimizers() -> None:
    assert {"AdamW", "AdaFactor", "Muon"} <= {
        kind.__name__ for kind in OPTIMIZERS
    }


def test_it_learns(runs: Path) -> None:
    assert losses(runs / "whole")[-1] < losses(runs / "whole")[0]


def test_its_state_is_saved_and_resumed_to_the_bit(
    kind: Any, world: Path, runs: Path, tmp_path: Path
) -> None:
    cut = Path(shutil.copytree(runs / "cut", tmp_path / "cut"))
    fit(configured(kind, world), cut, resume=True)
    assert losses(cut) == losses(runs / "whole")
    one, two = (
        load_file(folder / "model.safetensors")
        for folder in (runs / "whole", cut)
    )
    assert all(torch.equal(one[name], two[name]) for name in one | two)


@pytest.mark.long
def test_two_ranks_resume_as_one_does(
    kind: Any, world: Path, runs: Path, tmp_path: Path
) -> None:
    """Weights after three steps on two gloo ranks, from one rank's checkpoint.

    Sums over ranks are taken in another order. Worst measured: AdamW equal, AdaFactor
    1.2e-7, Muon 7.7e-6 (it orthogonalises in bf16). Biases of keys cancel out: their
    gradients are rounding errors, which optimizers amplify.
    """
    tolerance = 2e-5 if kind is Muon else 1e-6
    cut = Path(shutil.copytree(runs / "cut", tmp_path / "cut"))
    on_ranks(2, fit, configured(kind, world), cut, True)
    assert losses(cut) == pytest.approx(losses(runs / "whole"), rel=1e-5)
    one, two = (
        load_file(folder / "model.safetensors")
        for folder in (runs / "whole", cut)
    )
    for name in one | two:
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(
                two[name], one[name], rtol=0.0, atol=tolerance
            )


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    kind: Any, world: Path, tmp_path: Path
) -> None:
    config = text_only(world, steps=2)
    config.optimizer = kind.Config()
    run = config.build(folder=tmp_path / "run")
    # first a good step, so that there is state to spoil
    for value, is_skipped in ((1.0, 0), (torch.nan, 1), (torch.inf, 1)):
        before = whole_state(run)
        set_gradients(run.model, value)
        _, skipped = run.optimizer.step(1e-3)
        after = whole_state(run)
        assert skipped == is_skipped
        assert all(p.grad is None for p in run.model.parameters())
        same = before.keys() == after.keys() and all(
            torch.equal(before[name], after[name]) for name in before
        )
        assert same == bool(is_skipped)


def set_gradients(model: Model, value: float) -> None:
    for p in model.parameters():
        p.grad = torch.full_like(p, value)


def whole_state(run: Trainer) -> dict[str, Tensor]:
    """Weights and the optimizers' state of them, unsharded."""
    tensors = {}
    for name, p in run.model.named_parameters():
        tensors[name] = p
        for optimizer in run.optimizer.optimizers:
            for key, value in optimizer.state.get(p, {}).items():
                tensors[f"{name} {key}"] = value
    return {
        name: getattr(tensor, "full_tensor", lambda t=tensor: t)().clone()
        for name, tensor in tensors.items()
    }


def test_only_matrices_decay_and_a_part_has_its_own_rate(
    kind: Any, world: Path
) -> None:
    """A gradient of zero leaves the decay alone: lr * weight_decay of the weights."""
    model = pretrain(world).model.build(vocab_size=30)
    config = kind.Config(weight_decay=0.5, lr_factors={"encoder": 0.1})
    optimizer = config.build(model=model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(
                0.1
            )  # biases start at zero, and a decay of them would not show
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    set_gradients(model, 0.0)
    optimizer.step(1e-2)
    for name, p in model.named_parameters():
        lr = 1e-3 if name.startswith("encoder.") else 1e-2
        share = 1 - 0.5 * lr if p.ndim > 1 else 1.0
        torch.testing.assert_close(p.detach(), share * before[name])


def test_gradients_are_clipped_to_the_norm(kind: Any, world: Path) -> None:
    """The norm that is returned is that before clipping."""
    model = text_only(world).model.build(vocab_size=30)
    optimizer = kind.Config(max_grad_norm=0.5).build(model=model)
    norms = []
    for inner in optimizer.optimizers:
        inner.register_step_pre_hook(
            lambda inner, *_: norms.append(
                sum(
                    float(p.grad.square().sum())
                    for group in inner.param_groups
                    for p in group["params"]
                )
            )
        )
    set_gradients(model, 1.0)
    norm, _ = optimizer.step(1e-3)
    assert norm == pytest.approx(
        sum(p.numel() for p in model.parameters()) ** 0.5
    )
    assert sum(norms) ** 0.5 == pytest.approx(0.5, rel=1e-4)


def test_a_part_that_does_not_exist_and_nothing_to_train_are_errors(
    kind: Any, world: Path
) -> None:
    model = pretrain(world).model.build(vocab_size=30)
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        kind.Config(lr_factors={"encodr": 0.1}).build(model=model)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="every part is frozen"):
        kind.Config().build(model=model)
