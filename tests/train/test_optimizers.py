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
from mm1.train.optimizers.adamw import AdamW
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


class TwoParts(Model):
    """A matrix and a vector in each of two parts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left = torch.nn.Linear(3, 2)
        self.right = torch.nn.Linear(2, 2)

    def parts(self) -> dict[str, torch.nn.Module]:
        return {"left": self.left, "right": self.right}


def gradients(model: Model, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for name, p in model.named_parameters():
        p.grad = torch.randn(p.shape, generator=draw)
        found[name] = p.grad.clone()
    return found


def test_adamw_takes_the_step_of_its_paper() -> None:
    """Algorithm 2 of arXiv:1711.05101 with torch's convention for the decay, over three
    steps: clipped gradients, decoupled decay of matrices alone, each part at its own
    multiple of the rate."""
    model = TwoParts()
    config = AdamW.Config(
        weight_decay=0.1, max_grad_norm=0.5, lr_factors={"left": 0.25}
    )
    optimizer = config.build(model=model)
    x = {n: p.detach().clone() for n, p in model.named_parameters()}
    m = {n: torch.zeros_like(v) for n, v in x.items()}
    v = {n: torch.zeros_like(value) for n, value in x.items()}
    b1, b2 = config.betas
    for step, lr in enumerate((1e-2, 3e-2, 2e-2), 1):
        grads = gradients(model, step)
        norm = sum(g.square().sum() for g in grads.values()) ** 0.5
        said, skipped = optimizer.step(lr)
        assert said == pytest.approx(float(norm), rel=1e-6)
        assert not skipped
        for name, p in model.named_parameters():
            g = grads[name] * min(1.0, 0.5 / float(norm))
            rate = lr * (0.25 if name.startswith("left") else 1.0)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g.square()
            ahead = m[name] / (1 - b1**step)
            spread = (v[name] / (1 - b2**step)).sqrt() + 1e-8
            decay = 0.1 if p.ndim > 1 else 0.0
            x[name] = x[name] - rate * (ahead / spread + decay * x[name])
            torch.testing.assert_close(
                p.detach(), x[name], rtol=2e-5, atol=1e-7
            )


def test_gradients_within_the_norm_are_left_alone() -> None:
    model = TwoParts()
    optimizer = AdamW.Config(max_grad_norm=1e3).build(model=model)
    kept = gradients(model, 1)
    seen = {}
    optimizer.update = lambda skipped: seen.update(  # type: ignore[method-assign]
        {n: p.grad.clone() for n, p in model.named_parameters()}  # type: ignore[union-attr]
    )
    optimizer.step(1e-2)
    for name, grad in kept.items():
        torch.testing.assert_close(seen[name], grad, rtol=0, atol=0)
