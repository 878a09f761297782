"""A plan's arithmetic, on models of the meta device."""

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mm1.catalog import recipe
from mm1.config import ConfigError
from mm1.plan.accelerator import LINK_SHARE, accelerator
from mm1.plan.page import write_plan_page
from mm1.plan.plan import GIB, Assumptions, Planner, worth_a_change
from mm1.plan.step_time import RunSetting, Shape, StepTime
from mm1.plan.tables import as_dict, as_text


def planner(name: str, *, nodes: int = 1) -> Planner:
    config = recipe(name)
    config.loader.batch_size = 64  # type: ignore[attr-defined]
    config.activation_checkpointing = "full"
    return Planner(
        config,
        accelerator("h100"),
        nodes=nodes,
        gpus_per_node=8,
        assumptions=Assumptions(vocab_size=512),
    )


@cache
def _small() -> Planner:
    plan = planner("pretrain_small")
    plan.config.model.decoder.depth = 1  # type: ignore[attr-defined]
    plan.config.model.encoder.depth = 1  # type: ignore[attr-defined]
    return Planner(
        plan.config,
        plan.gpu,
        nodes=1,
        gpus_per_node=8,
        assumptions=plan.assumptions,
    )


def small(**changes: Any) -> Planner:
    """A small model on 8 GPUs; what its activations take is asked once."""
    plan = copy.copy(_small())
    for name, value in changes.items():
        setattr(plan, name, value)
    return plan


def step_time(plan: Planner, **shape: int) -> StepTime:
    return StepTime(
        plan.model,
        plan.gpu,
        Shape(**shape),
        compiled=True,
        recomputed=False,
        sync_each_micro_batch=True,
    )


@pytest.mark.parametrize("name", ["a100", "h100", "h200", "b200"])
def test_the_known_gpus(name: str) -> None:
    gpu = accelerator(name)
    assert gpu.node_link < gpu.gpu_link < gpu.memory_bandwidth < gpu.peak_flops
    share = gpu.rates().decoder_products / gpu.peak_flops
    assert share == pytest.approx(0.70, abs=0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peak_flops": "many"}, "peak_flops"),
        ({"memory_gib": -1}, "memory_gib"),
        ({"memory_gib": True}, "memory_gib"),
        ({"nodelink": 1e9}, "nodelink"),
        ({"node_link": None}, "node_link"),
    ],
)
def test_a_file_that_describes_no_gpu(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    known = Path("mm1/plan/gpus/h100.json")
    values = json.loads((Path(__file__).parents[2] / known).read_text())
    path = tmp_path / "own.json"
    path.write_text(json.dumps(values))
    assert accelerator(str(path)) == accelerator("h100")
    path.write_text(json.dumps(values | change))
    with pytest.raises(ConfigError, match=says):
        accelerator(str(path))


def test_an_unknown_gpu() -> None:
    with pytest.raises(
        ConfigError, match=r"as \S+a100\.json does, nor one of a100"
    ):
        accelerator("h10O")


def test_weights_move_over_the_links_that_their_ranks_have() -> None:
    """16 GPUs on 2 nodes: 8 bytes a parameter (gathered twice in bf16, reduced in
    fp32), of which each rank lacks all but its own share."""
    plan = small(nodes=2)
    gpu = plan.gpu
    own = 1_000_000
    flat = step_time(plan, shard=16, per_node=8)
    near = step_time(plan, shard=8, replicate=2, per_node=8)
    links = min(gpu.gpu_link, 8 * gpu.node_link)
    assert flat._moves(own) == pytest.approx(
        8 * own * 15 / 16 / (LINK_SHARE * links)
    )
    inside = 8 * own * 7 / 8 / (LINK_SHARE * gpu.gpu_link)
    # A shard's gradients are summed over both nodes through one card.
    across = 2 * 4 * own / 8 / 2 / (LINK_SHARE * gpu.node_link)
    assert near._moves(own) == pytest.approx(inside + across)
    assert step_time(plan, per_node=8)._moves(own) == 0


def test_experts_wait_for_tokens_and_move_less() -> None:
    plan = planner("pretrain_3b_moe", nodes=8)
    work = plan.work(1)
    kinds = [
        {
            unit.name: unit
            for unit in step_time(
                plan, shard=64, experts=experts, per_node=8
            ).micro_batch(work)
        }["sparse decoder blocks"]
        for experts in (1, 64)
    ]
    flat, spread = kinds
    assert flat.waits == 0
    assert flat.moves > 20 * spread.moves
    # dispatch and combine, forward and backward, two experts a token
    blocks, width = 13, 2 * work.num_tokens * 3072
    moved = blocks * 4 * 2 * width * 63 / 64
    slow = moved * 56 / 63 / plan.gpu.node_link
    fast = moved * 7 / 63 / plan.gpu.gpu_link
    assert spread.waits == pytest.approx((slow + fast) / LINK_SHARE)
    assert spread.total < flat.total


def test_memory_is_shared_by_all_ranks_but_what_is_gathered() -> None:
    plan = small()
    shape = Shape(shard=8, per_node=8)
    setting = RunSetting(
        shape=shape, micro_batch_size=1, activation_checkpointing="full"
    )
    memory = plan.outcome(setting).memory
    params = plan.num_params
    assert memory["weights"] == pytest.approx(4 * params / 8, rel=1e-4)
    assert memory["optimizer"] == pytest.approx(8 * params / 8, rel=1e-4)
    units = [
        sum(p.numel() for p in unit.parameters()) for unit in plan.model.units()
    ]
    apart = params - sum(units)
    # The last block is at work, and the connector comes next.
    assert memory["gathered weights"] == 4 * (apart + units[-1] + units[-2])
    one = replace(setting, shape=Shape())
    assert plan.outcome(one).memory["weights"] == 4 * params


def test_activations_grow_with_the_sequences_of_a_micro_batch() -> None:
    plan = small()

    def activations(micro: int) -> int:
        return plan.outcome(
            RunSetting(
                shape=Shape(),
                micro_batch_size=micro,
                activation_checkpointing="full",
            )
        ).memory["activations"]

    one = activations(1)
    two = activations(2)
    assert activations(4) == one + 3 * (two - one)
    assert two > 1.8 * one


def test_what_does_not_fit_says_how_much_and_what_would() -> None:
    plan = small(gpu=replace(accelerator("h100"), memory_gib=5.4))
    outcome = plan.outcome(
        RunSetting(
            shape=Shape(shard=8, per_node=8),
            micro_batch_size=8,
            activation_checkpointing="full",
        )
    )
    text = as_text(plan, outcome)
    lacking = (outcome.total_memory - 0.4 * GIB) / GIB
    assert f"it does not fit: {lacking:.1f} GiB too much" in text
    best = plan.fastest()
    assert best is not None
    assert best.total_memory <= 0.4 * GIB
    assert f"it would with {best.setting.overrides()}" in text
    assert worth_a_change(plan, outcome, best)
    assert not worth_a_change(plan, best, best)


def test_a_batch_that_does_not_divide() -> None:
    plan = small(nodes=3)
    with pytest.raises(ConfigError, match="multiple of 24"):
        plan.outcome(plan.as_configured())


def test_only_packed_sequences_are_planned() -> None:
    with pytest.raises(ConfigError, match="packed sequences"):
        planner("clip_l14_336")


def test_a_plan_in_numbers_and_as_a_page(tmp_path: Path) -> None:
    plan = small(assumptions=Assumptions(vocab_size=512, price=2.0))
    outcome = plan.outcome(plan.as_configured())
    facts = json.loads(json.dumps(as_dict(plan, outcome)))
    hours = facts["step_seconds"] * plan.config.steps * 8 / 3600
    assert facts["gpu_hours"] == pytest.approx(hours)
    assert facts["cost"] == pytest.approx(2 * hours)
    assert 0 < facts["mfu"] < 1
    assert facts["micro_batches_per_step"] == 8
    write_plan_page(
        tmp_path / "plan.html", "<recipe>", plan, outcome, plan.fastest()
    )
    page = (tmp_path / "plan.html").read_text()
    assert "Memory on each rank" in page
    assert "decoder blocks" in page
    assert "&lt;recipe&gt;" in page


def test_models_are_planned_without_weights() -> None:
    plan = planner("pretrain_30b")
    assert all(
        p.device == torch.device("meta") for p in plan.model.parameters()
    )
