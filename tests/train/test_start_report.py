"""What a run says of itself before its first step."""

import json
import re
from pathlib import Path

import pytest
import torch
from nn.batches import multimodal_model
from ranks import on_ranks
from worlds import contrastive, make_world, pretrain

from mm1 import dist
from mm1.nn.model import Model
from mm1.train.layout import ParallelLayout
from mm1.train.optimizers.adamw import AdamW
from mm1.train.optimizers.muon import Muon
from mm1.train.parallel import freeze, shard
from mm1.train.start_report import optimizer_memory, state_memory
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def said(
    config: Trainer.Config,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    resume: bool = False,
) -> dict[str, str]:
    capsys.readouterr()
    config.build(folder=folder, resume=resume).fit()
    found = re.findall(
        r"^  (\w+(?: \w+)?) +(.*)$", capsys.readouterr().err, flags=re.M
    )
    return dict(found)


def test_a_run_states_what_it_is(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = pretrain(world, steps=2, frozen=("encoder",))
    lines = said(config, tmp_path / "run", capsys)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    sizes = {k: f"{v:,}" for k, v in summary["params"].items()}
    assert re.match(
        r"1 rank on (cpu|cuda) \([^:]+\): \S+ \(1\)$", lines["ranks"]
    )
    assert re.search(
        r"text \d+ documents, \d+ tokens, 0 images, weight 0.1", lines["data"]
    )
    assert lines["precision"].startswith("fp32")
    assert lines["parameters"] == (
        f"encoder {sizes['encoder']} (frozen), connector {sizes['connector']},"
        f" decoder {sizes['decoder']}"
    )
    assert lines["starts from"] == (
        "encoder from scratch, connector from scratch, decoder from scratch"
    )
    assert lines["a step"].startswith("256 tokens, 4 sequences of 64")
    assert "GiB and activations" in lines["memory"]
    assert str(tmp_path / "run") in lines["writes to"]
    assert lines["writes to"].endswith("at step 0 of 2")
    config.steps = 4
    again = said(config, tmp_path / "run", capsys, resume=True)
    assert again["writes to"].endswith("at step 2 of 4")
    assert again["starts from"] == "its checkpoint of step 2"


def test_a_run_without_sequences_counts_examples(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(contrastive(world, steps=1), tmp_path / "run", capsys)
    assert re.match(
        r"\d+ examples on 1 data ranks; \d+ in all 1 steps$", lines["a step"]
    )


def sharded(layout: ParallelLayout) -> Model:
    model = multimodal_model()
    freeze(model, ("encoder",))
    shard(model, layout, precision="bf16")
    return model


def test_memory_is_that_of_all_tensors_on_one_rank() -> None:
    layout = ParallelLayout.Config().build(dist.start())
    model = sharded(layout)
    numbers = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for optimizer, states in ((AdamW.Config(), 2), (Muon.Config(), 0)):
        memory = state_memory(
            model,
            optimizer=optimizer_memory(optimizer.build(model=model)),
            precision="bf16",
            keeps_gathered=False,
        )
        assert memory.weights == 4 * numbers
        assert memory.gathered == 2 * numbers
        assert memory.gradients == 4 * trained
        if states:
            assert memory.optimizer == 4 * states * trained
        else:  # one number for each of Muon's parameters, two for AdamW's
            assert 4 * trained < memory.optimizer < 8 * trained


def share() -> None:
    """Each of two ranks holds half, and gathers units one by one."""
    layout = ParallelLayout.Config().build(dist.start())
    model = sharded(layout)
    numbers = sum(p.numel() for p in model.parameters())
    optimizer = AdamW.Config().build(model=model)
    memory, kept = (
        state_memory(
            model,
            optimizer=optimizer_memory(optimizer),
            precision="bf16",
            keeps_gathered=keeps_gathered,
        )
        for keeps_gathered in (False, True)
    )
    assert memory.weights == pytest.approx(2 * numbers, rel=0.05)
    assert memory.gathered < 1.6 * numbers < kept.gathered
    assert memory.gradients < 0.6 * kept.gradients
    # what AdamW really keeps, but for its counters
    for p in optimizer.parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step(1e-3)
    real = sum(
        value.to_local().nbytes
        for state in optimizer.optimizers[0].state.values()
        for value in state.values()
        if hasattr(value, "to_local")
    )
    assert memory.optimizer == real


def test_two_ranks_hold_half_each() -> None:
    on_ranks(2, share)
