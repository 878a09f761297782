"""A checkpoint of one layout opens on any other, with its experts and their moments,
and so does a dense run that experts start from."""

import json
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from worlds import make_world, sparse, text_only

from mm1.nn.experts import MoE
from mm1.runs.weights import load_model
from mm1.train.layout import ParallelLayout
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def four_experts(world: Path, steps: int, **layout: int) -> Trainer.Config:
    config = sparse(
        world,
        steps=steps,
        checkpoint_every=4,
        log_every=1,
        layout=ParallelLayout.Config(**layout),
    )
    # Equal micro-batches, so that routers see the same tokens on every layout.
    config.loader.micro_batch_size = 1
    config.model.decoder.experts = MoE.Config(num_experts=4)
    return config


def fit(config: Trainer.Config, folder: Path) -> None:
    resume = (folder / "config.json").exists()
    config.build(folder=folder, resume=resume).fit()


def losses(folder: Path) -> list[float]:
    text = (folder / "metrics.jsonl").read_text()
    lines = (json.loads(line) for line in text.splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.long
def test_a_run_goes_from_layout_to_layout(world: Path, tmp_path: Path) -> None:
    """Two expert ranks, one rank, four expert ranks, two copies of two expert ranks:
    the losses of a run that stays on one rank, up to the order of sums."""
    staying = tmp_path / "staying"
    moving = tmp_path / "moving"
    layouts: list[tuple[int, dict[str, int]]] = [
        (2, {"experts": 2}),
        (1, {}),
        (4, {"experts": 4}),
        (4, {"replicate": 2, "experts": 2}),
    ]
    for number, (ranks, layout) in enumerate(layouts):
        steps = 4 * (number + 1)
        fit(four_experts(world, steps), staying)
        config = four_experts(world, steps, **layout)
        if ranks == 1:
            fit(config, moving)
        else:
            on_ranks(ranks, fit, config, moving)
    assert len(losses(moving)) == 16
    assert losses(moving) == pytest.approx(losses(staying), rel=1e-5)
    assert_same_weights(moving, staying)


def assert_same_weights(one: Path, other: Path) -> None:
    """Up to the order of sums, which AdamW enlarges: without bound in biases of keys,
    whose gradients are nothing but rounding."""
    device = torch.device("cpu")
    found, wanted = (
        load_model(folder, device)[0].state_dict() for folder in (one, other)
    )
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        if not name.endswith("qkv.bias"):
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3)


@pytest.mark.long
def test_a_dense_decoder_is_upcycled_onto_expert_ranks(
    world: Path, tmp_path: Path
) -> None:
    fit(text_only(world, steps=2), tmp_path / "dense")
    for ranks in (1, 2):
        config = four_experts(world, 3, experts=ranks)
        config.init = {"decoder": str(tmp_path / "dense")}
        on_ranks(ranks, fit, config, tmp_path / str(ranks))
    both = [losses(tmp_path / str(ranks)) for ranks in (1, 2)]
    assert len(both[0]) == 3
    assert both[1] == pytest.approx(both[0], rel=1e-5)
    assert_same_weights(tmp_path / "2", tmp_path / "1")
