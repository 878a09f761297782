"""Gradient accumulation under FSDP2 with and without a reduction for each
micro-batch."""

import os
import subprocess
import sys
from typing import Literal

import pytest
import torch
from nn.batches import multimodal_model, packed
from torch import Tensor

from mm1 import dist
from mm1.config import ConfigError
from mm1.train.accumulation import set_gradient_sync
from mm1.train.layout import ParallelLayout
from mm1.train.parallel import parallelize, shard


def accumulated(
    precision: Literal["fp32", "bf16"], *, by_unit: bool, each: bool
) -> dict[str, Tensor]:
    """Gradients of three micro-batches, one of them without a picture."""
    device = dist.start()
    model = multimodal_model()
    shard(
        model,
        ParallelLayout.Config().build(device),
        precision=precision,
        by_unit=by_unit,
    )
    for number in range(3):
        set_gradient_sync(
            model, is_last=each or number == 2, sync_each_micro_batch=False
        )
        batch = packed([9, 7, 8], num_pictures=number, seed=number)
        (model(batch).objective / 30).backward()
    return {
        name: parameter.grad.full_tensor()  # type: ignore[union-attr]
        for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("by_unit", [True, False])
def test_one_reduction_a_step_gives_the_same_bits(
    precision: Literal["fp32", "bf16"], by_unit: bool
) -> None:
    each, once = (
        accumulated(precision, by_unit=by_unit, each=each)
        for each in (True, False)
    )
    assert all(gradient.any() for gradient in each.values())
    assert each.keys() == once.keys()
    for name, gradient in each.items():
        assert gradient.dtype == torch.float32
        assert torch.equal(gradient, once[name]), name


def test_weights_are_cast_once_for_a_step() -> None:
    """Not for each micro-batch: unsharded weights stay where they are."""
    model = multimodal_model()
    layout = ParallelLayout.Config().build(dist.start())
    shard(model, layout, precision="bf16", by_unit=True)
    addresses = []
    for number in range(3):
        set_gradient_sync(
            model, is_last=number == 2, sync_each_micro_batch=True
        )
        model(packed([9, 7], num_pictures=1, seed=number)).objective.backward()
        weight = model.decoder.blocks[0].attention.out.weight
        addresses.append((weight.dtype, weight.data_ptr()))
    kept, again, sharded = addresses
    assert kept == again
    assert kept[0] == torch.bfloat16
    assert sharded[0] == torch.float32


def test_a_memory_budget_needs_the_compiler() -> None:
    with pytest.raises(ConfigError, match="compile=true"):
        parallelize(
            multimodal_model(),
            ParallelLayout.Config().build(dist.start()),
            precision="fp32",
            activation_checkpointing="memory_budget",
            compile_units=False,
        )


@pytest.mark.parametrize(
    "name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"]
)
def test_memory_segments_are_expandable_unless_the_user_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(variable, "")  # restored afterwards
        monkeypatch.delenv(variable)
    dist.start()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv(name, "max_split_size_mb:512")
    dist.start()
    assert os.environ[name] == "max_split_size_mb:512"
    assert ("PYTORCH_ALLOC_CONF" in os.environ) == (
        name == "PYTORCH_ALLOC_CONF"
    )


@pytest.mark.gpu
def test_the_allocator_heard_of_it() -> None:
    """In a process of its own, since the allocator reads its settings once."""
    read = (
        "from mm1 import dist; import torch; d = dist.start();"
        " torch.ones(3, device=d);"
        " print(torch.cuda.memory._snapshot()['allocator_settings'])"
    )
    names = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
    run = subprocess.run(
        [sys.executable, "-c", read],
        env={k: v for k, v in os.environ.items() if k not in names},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'expandable_segments': True" in run.stdout
