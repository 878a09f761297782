"""Units compiled whole, with few graphs, to the gradients of eager ones, and a run that
says what was not compiled."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nn.batches import DECODER, language_model, packed
from torch import Tensor, nn

from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.train.activation_checkpointing import KEPT, checkpoint_activations
from mm1.train.compilation import CompiledUnits

LONG = pytest.mark.long


@pytest.fixture(
    scope="module",
    params=[
        "selective",
        pytest.param("none", marks=LONG),
        pytest.param("full", marks=LONG),
    ],
)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """In a process of its own: the compiler cannot read through the shape checks of the
    tests."""
    script = Path(__file__).with_name("compiled_units.py")
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            script,
            request.param,
            tmp_path_factory.mktemp("tokenizer"),
        ],
        env={"PYTHONPATH": f"{root.parent}:{root}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(done.stdout)


@pytest.mark.slow
def test_each_kind_of_unit_has_one_or_two_graphs(
    compiled: tuple[str, dict[str, Any]],
) -> None:
    _, result = compiled
    assert len(result["images"]) > 5
    assert len(result["documents"]) > 5
    assert result["graphs"].keys() == {
        "Block of width 16",
        "CAbstractor of width 16",
        "Block of width 32",
        "MoEBlock of width 32",
        "ChunkLoss",
    }
    assert all(1 <= graphs <= 2 for graphs in result["graphs"].values())


def test_compiled_gradients_are_those_of_eager_units(
    compiled: tuple[str, dict[str, Any]],
) -> None:
    """In bf16. The operations are the same, in the same order: no difference was
    measured, on torch 2.11 and 2.13."""
    _, result = compiled
    assert result["worst"] == 0


def test_products_are_computed_again_only_under_full(
    compiled: tuple[str, dict[str, Any]],
) -> None:
    """The graphs of encoder block, connector, dense and sparse decoder block. Attention
    and convolutions have a backward operation of their own, all others two products:
    4 maps of a dense block, 11 of the connector."""
    mode, result = compiled
    least = {8, 22, 11}
    again = {11, 12, 34, 18}
    counts = set(result["products"]["backward"])
    assert counts == (again if mode == "full" else least)


class Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what "selective" keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func.name().partition(".")[0] in KEPT
        return func(*args, **(kwargs or {}))


def backward_products(
    mode: Any, decoder: Decoder.Config
) -> tuple[int, list[Tensor]]:
    model = language_model(decoder=decoder)
    checkpoint_activations(model.units(), mode)
    objective = model(packed([9, 7, 8])).objective
    with Counted() as counted:
        objective.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return counted.count, [
        gradient for gradient in gradients if gradient is not None
    ]


@pytest.mark.parametrize("experts", [None, MoE.Config(num_experts=3)])
def test_eager_units_repeat_no_product_under_selective(
    experts: MoE.Config | None,
) -> None:
    decoder = replace(DECODER, experts=experts)
    (none, expected), (selective, kept), (full, again) = (
        backward_products(mode, decoder)
        for mode in ("none", "selective", "full")
    )
    assert none == selective < full
    for gradients in (kept, again):
        for gradient, reference in zip(gradients, expected, strict=True):
            assert torch.equal(gradient, reference)


def test_what_is_not_compiled_is_said(capsys: pytest.CaptureFixture) -> None:
    def nothing(graph: Any, inputs: Any) -> Any:
        raise AssertionError("never reached")

    units = CompiledUnits([nn.Linear(3, 4)], backend=nothing, fullgraph=False)
    units.warn_once()
    units.warn_once()
    said = capsys.readouterr().err
    assert said.count("compile=true, but not compiled: Linear of width 3") == 1
