"""Every layout trains as one rank does: losses of each micro-batch, gradients, norms
and weights of three steps, against a model that reads the batches of all ranks."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from nn.batches import DECODER, language_model, packed
from ranks import on_ranks
from torch import Tensor

from mm1 import dist
from mm1.batch import PackedBatch
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.train.accumulation import accumulate_gradients
from mm1.train.layout import ParallelLayout
from mm1.train.optimizers import Optimizer
from mm1.train.optimizers.adafactor import AdaFactor
from mm1.train.optimizers.adamw import AdamW
from mm1.train.optimizers.muon import Muon
from mm1.train.parallel import parallelize

MIXTURE = replace(
    DECODER,
    experts=MoE.Config(num_experts=8, capacity_factor=1.25, hidden_dim=16),
)


ROUNDING = 1e-6
"""Of the largest number: losses and gradients of the first step, by the order of sums
in fp32; 2.3e-7 was the most measured."""
DRIFT = 1e-4
"""Of the largest number: later, since optimizers divide gradients by their size; 1.4e-5
was the most measured."""
MUON_DRIFT = 1e-2
"""It computes in bf16: 1.9e-3 was the most measured, as much as of dense models that
FSDP2 shards."""


def batches(step: int, rank: int) -> list[PackedBatch]:
    """Two micro-batches, of other lengths on each rank."""
    return [
        packed([5 + rank, 9 - rank, 4 + step], seed=97 * step + 2 * rank + i)
        for i in range(2)
    ]


def whole(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
    return full.detach().clone()


def reference_step(
    model: LanguageModel,
    optimizer: Optimizer,
    every: list[list[PackedBatch]],
    num_targets: Tensor,
) -> tuple[list[list[Tensor]], dict[str, Tensor], Tensor]:
    objectives: list[list[Tensor]] = [[] for _ in every]
    for own, seen in zip(every, objectives, strict=True):
        for batch in own:
            objective = model(batch).objective
            (objective / num_targets).backward()
            seen.append(objective.detach())
    gradients = {n: whole(p.grad) for n, p in model.named_parameters()}
    return objectives, gradients, optimizer.step(0.01)[0]


def compare(
    layout: ParallelLayout.Config,
    decoder: Decoder.Config,
    optimizer: Optimizer.Config,
    options: dict[str, Any],
) -> None:
    device = dist.start()
    single = language_model(decoder=decoder)
    model = language_model(decoder=decoder)
    built = layout.build(device, LanguageModel.Config(decoder=decoder))
    drift = MUON_DRIFT if isinstance(optimizer, Muon.Config) else DRIFT
    each: bool = options.pop("sync_each_micro_batch", True)
    parallelize(
        model,
        built,
        precision="fp32",
        **{"activation_checkpointing": "none", "compile_units": False}
        | options,
    )
    updates, single_updates = (
        optimizer.build(model=m) for m in (model, single)
    )
    for step in range(3):
        every = [batches(step, rank) for rank in range(dist.data_size())]
        num_targets = torch.tensor(
            float(sum(batch.num_targets for own in every for batch in own))
        )
        objectives, gradients, single_norm = reference_step(
            single, single_updates, every, num_targets
        )
        own = objectives[dist.data_rank()]
        seen = [
            losses.objective.detach()
            for _, losses in accumulate_gradients(
                model,
                batches(step, dist.data_rank()),
                device,
                num_targets=num_targets,
                sync_each_micro_batch=each,
            )
        ]
        share = drift if step else ROUNDING
        torch.testing.assert_close(seen, own, rtol=share, atol=0)
        for name, parameter in model.named_parameters():
            close(whole(parameter.grad), gradients[name], share, name)
        norm, _ = updates.step(0.01)
        torch.testing.assert_close(norm, single_norm, rtol=share, atol=0)
        wanted = dict(single.named_parameters())
        for name, parameter in model.named_parameters():
            close(whole(parameter), whole(wanted[name]), drift, name)


def close(found: Tensor, wanted: Tensor, share: float, name: str) -> None:
    largest = wanted.abs().max().clamp(min=1e-12)
    worst = (found - wanted).abs().max() / largest
    assert worst < share, f"{name}: {worst}"


def compare_all(cases: list[tuple[Any, ...]]) -> None:
    for case in cases:
        compare(*case)


def case(
    decoder: Decoder.Config,
    optimizer: Optimizer.Config | None = None,
    options: dict[str, Any] | None = None,
    **layout: int | None,
) -> tuple[Any, ...]:
    update = optimizer or AdamW.Config(max_grad_norm=0.5)
    return ParallelLayout.Config(**layout), decoder, update, options or {}


def test_copies_and_experts_on_two_ranks() -> None:
    cases = [case(DECODER, replicate=2), case(MIXTURE, experts=2)]
    on_ranks(2, compare_all, cases)


@pytest.mark.long
def test_layouts_of_four_ranks() -> None:
    once = {"sync_each_micro_batch": False}
    cases = [
        case(DECODER, replicate=2),
        case(DECODER, replicate=2, options=once),
        case(MIXTURE, experts=2),  # two ranks shard each expert
        case(MIXTURE, experts=2, options=once),
        case(MIXTURE, experts=4),
        case(MIXTURE, replicate=2, experts=2),  # two copies of each expert
        case(MIXTURE, replicate=2, experts=4),  # one copy over both replicas
        case(MIXTURE, replicate=4, shard=1, experts=2),
    ]
    on_ranks(4, compare_all, cases)


@pytest.mark.long
def test_optimizers_of_experts_on_four_ranks() -> None:
    cases = [
        case(MIXTURE, Muon.Config(max_grad_norm=0.5), experts=2),
        case(MIXTURE, AdaFactor.Config(relative=True), experts=2),
        case(MIXTURE, AdaFactor.Config(), replicate=2, experts=4),
    ]
    on_ranks(4, compare_all, cases)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["full", "selective"])
def test_experts_on_other_ranks_are_recomputed(mode: str) -> None:
    options = {"activation_checkpointing": mode}
    on_ranks(2, compare_all, [case(MIXTURE, options=options, experts=2)])


@pytest.mark.long
def test_attention_of_sparse_blocks_is_compiled() -> None:
    options = {"compile_units": True, "activation_checkpointing": "selective"}
    on_ranks(2, compare_all, [case(MIXTURE, options=options, experts=2)])
