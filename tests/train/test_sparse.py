"""Decoders of experts in the loop: logged, recomputed, started from dense ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worlds import make_world, sparse, text_only

from mm1.config import ConfigError
from mm1.data.tokenizer import Tokenizer
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.runs.weights import load_model, load_part
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def fit(config: Trainer.Config, folder: Path) -> list[dict[str, Any]]:
    config.build(folder=folder).fit()
    return [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.long
def test_a_run_with_experts_learns_logs_its_routers_and_can_be_recomputed(
    world: Path, tmp_path: Path
) -> None:
    plain, again = (
        fit(sparse(world, activation_checkpointing=mode), tmp_path / mode)
        for mode in ("none", "full")
    )
    assert losses(plain)[-1] < losses(plain)[0]
    assert losses(again) == pytest.approx(losses(plain), rel=1e-6)
    line = next(line for line in reversed(plain) if "loss" in line)
    loads = [line[f"router/load/1/{expert}"] for expert in range(3)]
    assert sum(loads) == pytest.approx(3)
    assert {
        "router/balance",
        "router/z",
        "router/dropped",
        "router/entropy/1",
    } <= line.keys()
    load_model(tmp_path / "none", torch.device("cpu"))


def test_a_decoder_of_experts_starts_from_a_dense_run(
    world: Path, tmp_path: Path
) -> None:
    fit(text_only(world, steps=2), tmp_path / "dense")
    config = sparse(world, steps=2, init={"decoder": str(tmp_path / "dense")})
    model = config.model.build(
        vocab_size=load_model(tmp_path / "dense", torch.device("cpu"))[
            0
        ].decoder.vocab_size
    )
    assert isinstance(model, MM1)
    tokenizer = Tokenizer.Config(path=str(tmp_path / "dense")).build()
    load_part(model, "decoder", tmp_path / "dense", tokenizer=tokenizer)
    origin = load_file(tmp_path / "dense" / "model.safetensors")
    experts = model.decoder.blocks[1].feed_forward
    assert isinstance(experts, MoE)
    for expert in range(3):
        assert torch.equal(
            experts.gate_up[expert],
            origin["decoder.blocks.1.feed_forward.gate_up.weight"],
        )
        assert torch.equal(
            experts.down[expert],
            origin["decoder.blocks.1.feed_forward.down.weight"],
        )
    assert losses(fit(config, tmp_path / "sparse"))


def test_experts_of_another_width_than_the_dense_run_are_refused(
    world: Path, tmp_path: Path
) -> None:
    fit(text_only(world, steps=1), tmp_path / "dense")
    config = sparse(world, init={"decoder": str(tmp_path / "dense")})
    config.model.decoder.experts.hidden_dim = 40
    with pytest.raises(
        ConfigError,
        match=r"does not fit.*feed_forward\.gate_up: \(3, 96, 32\), not \(3, 80, 32\)",
    ):
        fit(config, tmp_path / "sparse")
