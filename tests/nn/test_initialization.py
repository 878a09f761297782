"""Every layout over ranks starts from the same weights, those of one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nn.batches import DECODER, ENCODER, VOCABULARY
from ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from mm1 import dist
from mm1.config import ConfigError
from mm1.nn import initialization
from mm1.nn.block import LayerScale
from mm1.nn.clip import CLIP
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.initialization import initialize_buffers, initialize_weights
from mm1.nn.mm1 import MM1
from mm1.nn.model import Model
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

SEED = 11


def mixture() -> Model:
    """Widths that 2, 3 and 4 do not all divide."""
    decoder = DECODER.__class__(
        depth=2,
        dim=20,
        num_heads=2,
        hidden_dim=36,
        qk_norm="full",
        tied=False,
        experts=MoE.Config(num_experts=5, top_k=2, hidden_dim=12),
    )
    encoder = ENCODER.__class__(
        image_size=(8, 12),
        patch_size=2,
        depth=1,
        dim=16,
        num_heads=2,
        class_token=True,
        num_registers=3,
        layer_scale=0.1,
        positions="sincos",
    )
    connector = CAbstractor.Config(num_tokens=4, dim=10, depth=1)
    return MM1.Config(
        encoder=encoder, connector=connector, decoder=decoder
    ).build(vocab_size=VOCABULARY)


def contrastive() -> Model:
    text = TextTower.Config(max_length=7, depth=1, dim=12, num_heads=2)
    return CLIP.Config(
        encoder=ENCODER, text=text, dim=8, loss="sigmoid", pooling="attention"
    ).build(vocab_size=VOCABULARY)


def gains(module: nn.Module) -> dict[str, float]:
    """How much larger the outputs of its maps are than their inputs, to 5%."""
    maps = {n: p for n, p in module.named_parameters() if p.ndim > 1}
    return {
        name: round(20 * (p.std() * p.shape[-1] ** 0.5).item()) / 20
        for name, p in maps.items()
    }


def test_what_writes_to_the_residual_stream_starts_small_in_deep_models() -> (
    None
):
    """8 blocks are 16 writers: each starts at 16 ** -0.5, what it reads at 1."""
    torch.manual_seed(0)
    experts = MoE.Config(num_experts=4, top_k=2, hidden_dim=128)
    dense, sparse = (
        Decoder.Config(
            depth=8,
            dim=256,
            num_heads=4,
            hidden_dim=512,
            experts=experts,
        )
        .build(vocab_size=4)
        .blocks[:2]
    )
    assert gains(dense) == {
        "attention.qkv.weight": 1.0,
        "attention.out.weight": 0.25,
        "feed_forward.gate_up.weight": 1.0,
        "feed_forward.down.weight": 0.25,
    }
    assert gains(sparse.feed_forward) == {
        "router.weight": 1.0,
        "gate_up": 1.0,
        "down": 0.25,
    }
    encoder = ViT.Config(
        image_size=4, patch_size=4, depth=8, dim=256, num_heads=4
    )
    text = TextTower.Config(max_length=4, depth=8, dim=256, num_heads=4)
    for block in (
        encoder.build().blocks[0],
        text.build(vocab_size=4).blocks[0],
    ):
        assert gains(block) == {
            "attention.qkv.weight": 1.0,
            "attention.out.weight": 0.25,
            "feed_forward.up.weight": 1.0,
            "feed_forward.down.weight": 0.25,
        }


def on_meta(make: Callable[[], Model]) -> Model:
    with torch.device("meta"):
        return make()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Whole parameters and buffers by name."""
    return {
        name: value.full_tensor()
        if isinstance(value, DTensor)
        else value.detach().clone()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
    }


def alone(make: Callable[[], Model]) -> dict[str, Tensor]:
    model = on_meta(make)
    model.to_empty(device="cpu")
    initialize_weights(model, SEED)
    return weights(model)


@pytest.mark.parametrize("make", [mixture, contrastive])
def test_weights_are_those_of_the_constructors_in_distribution(
    make: Callable[[], Model],
) -> None:
    """Each tensor has the scale that building gives it; constants are the same."""
    drawn = alone(make)
    built = weights(make())
    assert drawn.keys() == built.keys()
    assert {"encoder.scale", "encoder.shift"} <= drawn.keys()
    for name, value in built.items():
        if len(value.unique()) == 1 or name in (
            "encoder.scale",
            "encoder.shift",
        ):
            assert torch.equal(drawn[name], value), name
        else:
            # of 16 numbers or more: ratios of their sizes are within these bounds
            ratio = drawn[name].square().mean() / value.square().mean()
            assert 0.2 < ratio < 5, name
    random = [value for value in drawn.values() if value.unique().numel() > 99]
    assert len(random) > 9
    firsts = {tuple(value.flatten()[:2].tolist()) for value in random}
    assert len(firsts) == len(random)  # no two tensors are drawn alike


def test_another_seed_or_path_is_another_weight() -> None:
    first = on_meta(mixture)
    first.to_empty(device="cpu")
    initialize_weights(first, SEED + 1)
    drawn = alone(mixture)
    changed = weights(first)
    name = "decoder.blocks.0.attention.qkv.weight"
    other = "decoder.blocks.1.attention.qkv.weight"
    assert not torch.equal(drawn[name], changed[name])
    assert not torch.equal(drawn[name], drawn[other])


def test_the_generator_of_the_process_is_left_as_it_was() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone(contrastive)
    assert torch.equal(before, torch.get_rng_state())


def tensor_parallel(model: Any, mesh: Any) -> None:
    for block in model.decoder.blocks:
        parallelize_module(
            block.attention,
            mesh,
            {"qkv": ColwiseParallel(), "out": RowwiseParallel()},
        )
    parallelize_module(
        model.decoder,
        mesh,
        {
            "embedding": RowwiseParallel(),
            "output": ColwiseParallel(),
            "blocks.0.feed_forward.down": RowwiseParallel(),
        },
    )


def experts_on(model: Any, mesh: Any) -> None:
    experts = model.decoder.blocks[1].feed_forward
    for name in ("gate_up", "down"):
        whole = getattr(experts, name)
        sharded = distribute_tensor(whole, mesh, [Shard(0)])
        setattr(experts, name, nn.Parameter(sharded))


def shard_flat(model: Any) -> None:
    for unit in model.units():
        fully_shard(unit)
    fully_shard(model)


def shard_hybrid(model: Any) -> None:
    mesh = init_device_mesh(
        "cpu", (2, 2), mesh_dim_names=("replicate", "shard")
    )
    for unit in model.units():
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shard_tensors(model: Any) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    tensor_parallel(model, mesh["tensor"])
    for unit in model.units():
        fully_shard(unit, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])


def shard_experts(model: Any) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "experts"))
    experts_on(model, mesh["experts"])
    fully_shard(model.decoder.blocks[1].feed_forward, mesh=mesh["data"])
    whole = init_device_mesh("cpu", (4,))
    for unit in model.units():
        fully_shard(unit, mesh=whole)
    fully_shard(model, mesh=whole)


def compare(whole: dict[str, dict[str, Tensor]]) -> None:
    """On each rank: what the ranks hold together, in each layout."""
    dist.start()
    initialization.BLOCK = 200
    for shard in (shard_flat, shard_hybrid, shard_tensors, shard_experts):
        for make in (mixture, contrastive):
            if make is contrastive and shard not in (shard_flat, shard_hybrid):
                continue
            model = on_meta(make)
            shard(model)
            model.to_empty(device="cpu")
            torch.manual_seed(dist.rank())
            initialize_weights(model, SEED)
            for name, value in weights(model).items():
                assert torch.equal(value, whole[make.__name__][name]), (
                    shard.__name__,
                    name,
                )


@pytest.mark.slow
def test_layouts_over_four_ranks_start_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flat, replicated, under tensor parallelism (rows and columns), with experts of
    their own on ranks; in blocks of few numbers, so that most tensors have several."""
    monkeypatch.setattr(initialization, "BLOCK", 200)
    whole = {make.__name__: alone(make) for make in (mixture, contrastive)}
    on_ranks(4, compare, whole)


def test_one_expert_is_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expert depends on its number alone, not on how many there are."""
    monkeypatch.setattr(initialization, "BLOCK", 2 * 6 * 8)
    shapes: set[tuple[int, ...]] = set()
    reset = MoE.reset_parameters
    monkeypatch.setattr(
        MoE,
        "reset_parameters",
        lambda self: (shapes.add(tuple(self.gate_up.shape)), reset(self)),
    )
    drawn = []
    for num_experts in (3, 5):
        config = MoE.Config(num_experts=num_experts, hidden_dim=6)
        with torch.device("meta"):
            experts = config.build(dim=8, hidden_dim=6, gain=0.5)
        shapes.clear()
        experts.to_empty(device="cpu")
        initialize_weights(experts, SEED)
        drawn.append(experts.gate_up.detach())
        assert (1, 12, 8) in shapes
    assert torch.equal(drawn[0], drawn[1][:3])
    assert not torch.equal(drawn[1][0], drawn[1][1])


def test_tied_parameters_stay_tied_and_are_drawn_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    before = model[1].bias.clone()
    initialize_weights(model, SEED)
    assert model[1].weight is model[0].weight
    alone = nn.Sequential(nn.Linear(4, 4))
    initialize_weights(alone, SEED)
    assert torch.equal(model[0].weight, alone[0].weight)
    assert not torch.equal(model[1].bias, before)


class Forgetful(nn.Module):
    """Sets one of its two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.set = nn.Parameter(torch.zeros(3))
        self.forgotten = nn.Parameter(torch.zeros(3))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.set)


class Silent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Forgetful(), r"Forgetful\.reset_parameters does not set 0\.forgotten"),
        (Silent(), r"Silent has no reset_parameters that sets 0\.weight"),
    ],
)
def test_a_parameter_that_nothing_sets_is_named(
    module: nn.Module, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        initialize_weights(nn.Sequential(module), SEED)


def test_buffers_are_set_without_drawing() -> None:
    """What a resumed run does before its checkpoint is loaded."""
    model = on_meta(mixture)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    initialize_buffers(model)
    assert all((parameter == 7).all() for parameter in model.parameters())
    built = mixture()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, built.get_buffer(name)), name


def test_weights_are_drawn_in_the_type_that_they_have() -> None:
    model = nn.Sequential(LayerScale(3, 0.5).bfloat16())
    initialize_weights(model, SEED)
    assert model[0].weight.tolist() == [0.5, 0.5, 0.5]
