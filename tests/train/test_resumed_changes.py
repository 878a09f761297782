"""A change of the config on resuming takes effect or is refused, key by key."""

import json
import shutil
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from worlds import (
    contrastive,
    make_world,
    pretrain,
    reconstructive,
    sparse,
    text_only,
)

from mm1.config import ConfigError, Configurable, flatten
from mm1.overrides import override
from mm1.runs.description import read_config, write_config
from mm1.train.lora import Lora
from mm1.train.optimizers.adafactor import AdaFactor
from mm1.train.optimizers.muon import Muon
from mm1.train.origins import check_resumable
from mm1.train.schedulers import WarmupConstant, WarmupCosine, WarmupStableDecay
from mm1.train.trainer import Trainer

REFUSED = (
    "model",
    "model.*",
    "loader",
    "optimizer",
    "tokenizer",
    "tokenizer.*",
    "lora",
    "lora.*",
    "init",
    "init.*",
    "frozen",
    "center_features",
    "seed",
)
ACTS: dict[str, tuple[str, str, str]] = {
    "model.*.balance_loss": ("sparse", "9.0", "weights"),
    "model.*.router_z_loss": ("sparse", "9.0", "weights"),
    "model.*.capacity_factor": ("sparse", "0.2", "weights"),
    "optimizer.peak_lr": ("text", "3e-3", "weights"),
    "optimizer.weight_decay": ("text", "5.0", "weights"),
    "optimizer.max_grad_norm": ("adafactor", "1e-9", "weights"),
    "optimizer.lr_factors": ("text", "{'decoder': 0.1}", "weights"),
    "optimizer.betas": ("text", "(0.5, 0.6)", "weights"),
    "optimizer.momentum": ("muon", "0.2", "weights"),
    "optimizer.relative": ("adafactor", "True", "weights"),
    "scheduler": ("text", "warmup_constant", "weights"),
    "scheduler.warmup_steps": ("text", "9", "weights"),
    "scheduler.min_lr_ratio": ("cosine", "0.9", "weights"),
    "scheduler.decay_ratio": ("stable", "1.0", "weights"),
    "loader.sources.*": ("pretrain", "gone", "refused by the loader"),
    "loader.sources": ("images", "('gone',)", "refused by the loader"),
    "loader.weights.*": ("pretrain", "0.3", "refused by the loader"),
    "loader.weights_of": ("pretrain", "documents", "metrics"),
    "loader.schedule": (
        "pretrain",
        "{3: {'pages': 1.0}}",
        "refused by the loader",
    ),
    "loader.batch_size": ("text", "8", "metrics"),
    "loader.sequence_length": ("text", "128", "metrics"),
    "loader.packing_window": ("text", "3", "metrics"),
    "loader.max_images": ("pretrain", "1", "metrics"),
    "loader.isolate": ("text", "False", "weights"),
    "loader.resize": ("pretrain", "crop", "weights"),
    "loader.context": ("pairs", "3", "weights"),
    "loader.min_tiles": ("pretrain", "9", "refused by the loader"),
    "loader.max_tiles": ("pretrain", "64", "refused by the loader"),
    "steps": ("text", "5", "weights"),
    "precision": ("text", "bf16", "weights"),
    "log_every": ("text", "2", "metrics"),
    "validate_every": ("text", "1", "metrics"),
}
"""Key -> a kind of run, another value, and where that shows after two more steps."""
OTHERWISE = (
    "loader.split",  # acts where images are larger than the encoder takes
    "loader.split_last",
    "loader.index_tokens",
    # acts where documents see one another: rotary positions are relative
    "loader.restart_positions",
    # the same result in another way
    "loader.workers",
    "loader.micro_batch_size",
    "loader.image_multiple",
    "loader.balance_by",
    "attention_kernel",
    "activation_checkpointing",
    "activation_memory_budget",
    "sync_each_micro_batch",
    "compile",
    "float8",
    "layout",
    "layout.replicate",
    "layout.shard",
    "layout.tensor",
    "layout.experts",
    # after the training, or around it
    "benchmarks",
    "shots",
    "checkpoint_every",
    "keep_checkpoints",
    "trackers",
    "patience",
)
"""Read anew by every process, and not seen in weights or metrics."""


def matching(key: str, patterns: Any) -> list[str]:
    return [each for each in patterns if fnmatchcase(key, each)]


def kinds(world: Path) -> dict[str, Trainer.Config]:
    common = {"steps": 2, "log_every": 1, "checkpoint_every": 2}
    configs: dict[str, Any] = {
        "text": text_only(world, **common),
        "stable": text_only(
            world, **common, scheduler=WarmupStableDecay.Config(warmup_steps=0)
        ),
        "cosine": text_only(
            world, **common, scheduler=WarmupCosine.Config(warmup_steps=0)
        ),
        "constant": text_only(
            world, **common, scheduler=WarmupConstant.Config()
        ),
        "muon": text_only(world, **common, optimizer=Muon.Config(peak_lr=1e-2)),
        "adafactor": text_only(
            world, **common, optimizer=AdaFactor.Config(peak_lr=1e-2)
        ),
        "pretrain": pretrain(world, **common),
        "sparse": sparse(world, **common),
        "pairs": contrastive(world, **common),
        "images": reconstructive(world, **common),
    }
    return configs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
def test_every_key_of_a_config_is_decided(world: Path, tmp_path: Path) -> None:
    keys = set()
    for kind, config in kinds(world).items():
        config.lora = Lora.Config() if kind == "text" else None
        config.init = {"decoder": "somewhere"} if kind == "text" else {}
        (tmp_path / kind).mkdir()
        write_config(tmp_path / kind, config)
        for key in flatten(config):
            keys.add(key)
            refused = matching(key, REFUSED) and not matching(key, ACTS)
            assert refused or matching(key, ACTS) or key in OTHERWISE, key
            with pytest.MonkeyPatch.context() as patch:
                change(config, key, patch)
                if refused:
                    with pytest.raises(ConfigError, match=f"with {key} "):
                        check_resumable(tmp_path / kind, config)
                else:
                    check_resumable(tmp_path / kind, config)
    assert {f.name for f in fields(Trainer.Config)} <= {
        key.partition(".")[0] for key in keys
    }
    unused = [
        each for each in ACTS if not any(fnmatchcase(k, each) for k in keys)
    ]
    assert unused == []


def change(config: Any, key: str, patch: pytest.MonkeyPatch) -> None:
    """Puts something else at a key, for the time of the patch."""
    *parents, name = key.split(".")
    holder = config
    for parent in parents:
        holder = (
            holder[parent]
            if isinstance(holder, dict)
            else getattr(holder, parent)
        )
    if isinstance(holder, dict):
        patch.setitem(holder, name, "changed")
        return
    old = getattr(holder, name)
    if isinstance(old, Configurable.Config):  # its class
        others = {"optimizer": Muon.Config(momentum=0.1)}
        new = others.get(name, Boiler.Config())
        if type(old) is Muon.Config:
            new = AdaFactor.Config()
    else:
        new = 10**6 if name == "steps" else "changed"
    patch.setattr(holder, name, new)


class Boiler(Configurable):
    """Another class, of whatever role."""


@pytest.fixture(scope="module")
def stopped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of two steps, made when they are asked for, and resumed for two more."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            kinds(world)[kind].build(folder=folder / kind).fit()
            made[kind] = (folder / kind, resumed(folder / kind, "plain"))
        return made[kind]

    return get


def resumed(run: Path, name: str, assignment: str = "") -> Path:
    """A copy of a run, trained for two more steps."""
    folder = Path(shutil.copytree(run, run.with_name(f"{run.name}-{name}")))
    config = read_config(folder)
    for each in ("steps=4", *filter(None, [assignment])):
        override(config, each)
    config.build(folder=folder, resume=True).fit()
    return folder


def shown(run: Path, where: str) -> Any:
    if where == "metrics":
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]
    state = load_file(run / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


SHORT = ("optimizer.weight_decay", "optimizer.lr_factors", "optimizer.momentum")


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(each, marks=() if each in SHORT else pytest.mark.long)
        for each in ACTS
    ],
)
def test_a_change_shows_after_the_next_steps(
    pattern: str, stopped: Any
) -> None:
    kind, value, where = ACTS[pattern]
    run, plain = stopped(kind)
    config = read_config(run)
    key = next(k for k in flatten(config) if fnmatchcase(k, pattern))
    if where == "refused by the loader":
        before = (run / "config.json").read_bytes()
        config.steps = 4
        override(config, f"{key}={value}")
        with pytest.raises((ConfigError, OSError)):
            config.build(folder=run, resume=True)
        assert (run / "config.json").read_bytes() == before
        return
    changed = resumed(run, key, f"{key}={value}")
    assert shown(changed, where) != shown(plain, where)


@pytest.mark.parametrize("kind", ["text", "muon", "adafactor"])
def test_weight_decay_acts_with_every_optimizer(
    kind: str, stopped: Any
) -> None:
    run, plain = stopped(kind)
    changed = resumed(run, "decay", "optimizer.weight_decay=20")
    assert shown(changed, "weights") != shown(plain, "weights")


def test_fewer_steps_than_were_trained_are_refused(stopped: Any) -> None:
    run, _ = stopped("text")
    config = read_config(run)
    config.steps = 1
    with pytest.raises(ConfigError, match="steps=1: it has trained 2"):
        config.build(folder=run, resume=True)


def test_lost_lines_of_metrics_are_noticed(
    stopped: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = stopped("text")
    copy = Path(shutil.copytree(run, run.with_name("lost")))
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[1:]))
    resumed(copy, "again")
    said = capsys.readouterr().err
    assert f"metrics.jsonl has {len(lines) - 1} lines up to step 2" in said
    assert f"there were {len(lines)}" in said
