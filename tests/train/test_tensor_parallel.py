"""Ranks that share each product do what one rank does: the same outputs, gradients,
steps, answers and checkpoints."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.distributed
import train.varlen_on_cpu as varlen_on_cpu
from nn.batches import DECODER, language_model, multimodal_model, packed
from ranks import on_ranks
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from train.test_two_ranks import losses, train
from worlds import contrastive, make_world, pretrain

from mm1 import dist
from mm1.config import ConfigError
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.nn.shards import fused_widths, own_regions
from mm1.train.layout import ParallelLayout
from mm1.train.optimizers import Optimizer
from mm1.train.optimizers.adafactor import AdaFactor
from mm1.train.optimizers.adamw import AdamW
from mm1.train.optimizers.muon import Muon
from mm1.train.parallel import parallelize, prepare_units, shard
from mm1.train.tensor_parallel import apply_tensor_parallelism


@dataclass(frozen=True)
class Case:
    """A model, and how it is trained."""

    decoder: Decoder.Config
    activation_checkpointing: Any = "none"
    z_loss: float = 0.0
    float8: bool = False
    optimizer: Optimizer.Config = field(default_factory=AdamW.Config)


CASES = [
    # 31 tokens on two ranks: 16 and 15
    Case(DECODER),
    Case(
        replace(DECODER, qk_norm=None, qkv_bias=True, tied=False),
        activation_checkpointing="full",
        z_loss=1e-2,
    ),
    Case(replace(DECODER, qk_norm="full", norm_placement="post")),
    Case(
        replace(DECODER, experts=MoE.Config(num_experts=3)),
        activation_checkpointing="selective",
    ),
    Case(replace(DECODER, dim=32, head_dim=16, hidden_dim=64), float8=True),
]
OPTIMIZERS: list[Optimizer.Config] = [
    Muon.Config(),
    AdaFactor.Config(relative=True),
]


def build(case: Case) -> MM1:
    model = multimodal_model(decoder=case.decoder)
    model.z_loss = case.z_loss
    return model


def prepared(case: Case, layout: ParallelLayout) -> MM1:
    model = build(case)
    parallelize(
        model,
        layout,
        precision="fp32",
        float8=case.float8,
        activation_checkpointing=case.activation_checkpointing,
        compile_units=False,
    )
    return model


def gathered(tensor: Tensor | None, widths: tuple[int, ...]) -> Tensor:
    """A whole tensor, from what each rank says it holds."""
    assert isinstance(tensor, DTensor)
    whole = torch.zeros(tensor.shape)
    count = torch.zeros(tensor.shape)
    for region in own_regions(tensor, widths):
        whole[region.whole] = tensor.to_local()[region.own].detach()
        count[region.whole] = 1
    torch.distributed.all_reduce(whole)
    torch.distributed.all_reduce(count)
    assert count.all()
    return whole / count


def assert_equal_to_one_rank(cases: list[Case], layout: Any) -> None:
    """Gradients: worst measured 5e-6 of up to 8; after three steps of AdamW weights
    1.4e-5, norms 1.1e-5 relative."""
    device = dist.start()
    single = ParallelLayout.Config(replicate=None, shard=1)
    batch = packed([9, 7, 8], num_pictures=2)
    for case in cases:
        shared = prepared(case, layout.build(device))
        # copies of the model, which do not divide its products
        alone = prepared(case, single.build(device))
        layout.build(device)
        widths = fused_widths(alone)
        optimizers = [
            case.optimizer.build(model=model) for model in (alone, shared)
        ]
        for expected, given in zip(
            alone.log_probs(batch), shared.log_probs(batch), strict=True
        ):
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
        # Rounding to float8, or Muon's to bf16, makes steps out of differences in the
        # last bit.
        exact = not (case.float8 or isinstance(case.optimizer, Muon.Config))
        for step in range(3 if exact else 1):
            objectives = []
            for model in (alone, shared):
                losses = model(batch)
                losses.objective.backward()
                objectives.append(losses.objective.detach())
            torch.testing.assert_close(
                objectives[1], objectives[0], rtol=1e-5, atol=1e-5
            )
            for (name, own), theirs in zip(
                alone.named_parameters(), shared.parameters(), strict=True
            ):
                if step == 0:
                    torch.testing.assert_close(
                        gathered(theirs.grad, widths.get(name, ())),
                        gathered(own.grad, ()),
                        rtol=1e-4,
                        atol=2e-5,
                        msg=lambda text, name=name: f"{name}: {text}",
                    )
            norms = [optimizer.step(1e-2)[0] for optimizer in optimizers]
            torch.testing.assert_close(
                norms[1], norms[0], rtol=1e-4 if step else 1e-6, atol=0.0
            )
        for (name, own), theirs in zip(
            alone.named_parameters(), shared.parameters(), strict=True
        ):
            # A bias of keys has no effect: its gradient is rounding, which AdamW
            # makes a step of full size.
            if not name.endswith("qkv.bias"):
                torch.testing.assert_close(
                    gathered(theirs, widths.get(name, ())),
                    gathered(own, ()),
                    rtol=1e-3,
                    atol=2e-4,
                    msg=lambda text, name=name: f"{name}: {text}",
                )


def test_two_ranks_share_products_and_step_as_one() -> None:
    layout = ParallelLayout.Config(tensor=2)
    on_ranks(2, assert_equal_to_one_rank, CASES, layout)


@pytest.mark.long
@pytest.mark.parametrize("replicate", [1, 2])
def test_four_ranks_share_products_and_weights(replicate: int) -> None:
    layout = ParallelLayout.Config(tensor=2, replicate=replicate)
    cases = CASES + [
        replace(case, optimizer=optimizer)
        for case in CASES[:2]
        for optimizer in OPTIMIZERS
    ]
    on_ranks(4, assert_equal_to_one_rank, cases, layout)


def assert_compiled_whole() -> None:
    """Gradients of units that are compiled as on a GPU, in bf16: the same bits."""
    varlen_on_cpu.imitate()
    layout = ParallelLayout.Config(tensor=2).build(dist.start())
    assert layout.tensor_mesh is not None
    batch = packed([9, 7, 8])
    gradients = []
    for compiled in (False, True):
        model = language_model()
        apply_tensor_parallelism(model, layout.tensor_mesh)
        units = prepare_units(
            model,
            activation_checkpointing="selective",
            activation_memory_budget=1.0,
            compile_units=compiled,
            fullgraph=True,
            compile_backend="aot_eager",
        )
        shard(model, layout, precision="bf16")
        model(batch).objective.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert units is not None
    assert set(units.graphs) == {"Block of width 24", "ChunkLoss"}
    for eager, compiled in zip(*gradients, strict=True):
        assert isinstance(eager, DTensor)
        assert isinstance(compiled, DTensor)
        assert torch.equal(compiled.to_local(), eager.to_local())


@pytest.mark.long
def test_shared_products_compile_whole() -> None:
    on_ranks(2, assert_compiled_whole)


def answers(folder: Path) -> list[Any]:
    predictor = tiny.predictor(folder, tokens_per_batch=70)
    documents = tiny.prompts(9)
    return [
        predictor.generate(documents, max_tokens=6),
        predictor.log_likelihood(documents),
    ]


def assert_same_answers(folder: Path, expected: list[Any]) -> None:
    place = folder / os.environ["RANK"]
    place.mkdir()
    made = tiny.predictor(place, tokens_per_batch=70)
    layout = ParallelLayout.Config(tensor=2).build(dist.start())
    parallelize(
        made.model,
        layout,
        precision="fp32",
        activation_checkpointing="none",
        compile_units=False,
    )
    documents = tiny.prompts(9)
    assert made.generate(documents, max_tokens=6) == expected[0]
    torch.testing.assert_close(
        made.log_likelihood(documents), expected[1], rtol=1e-5, atol=1e-5
    )


def test_two_ranks_answer_as_one(tmp_path: Path) -> None:
    on_ranks(2, assert_same_answers, tmp_path, answers(tmp_path))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.slow
def test_a_checkpoint_opens_on_any_layout(world: Path, tmp_path: Path) -> None:
    """Saved by two ranks that share products and read by one, and the other way
    round."""
    config = pretrain(world, steps=6, checkpoint_every=4)
    config.model.decoder.num_heads = 4
    config.model.decoder.num_kv_heads = 2
    shared = replace(config, layout=ParallelLayout.Config(tensor=2))
    one = train(config, tmp_path / "one", ranks=1)
    two = train(shared, tmp_path / "two", ranks=2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert two[-1]["validation"] == pytest.approx(
        one[-1]["validation"], rel=1e-4
    )
    weights = [
        load_file(tmp_path / name / "model.safetensors")
        for name in ("one", "two")
    ]
    for name, tensor in weights[0].items():
        if not name.endswith("qkv.bias"):  # of keys: rounding, as above
            torch.testing.assert_close(
                weights[1][name], tensor, rtol=1e-3, atol=1e-4
            )
    for run in (config, shared):
        run.steps = 8
    from_two = train(config, tmp_path / "two", ranks=1, resume=True)
    from_one = train(shared, tmp_path / "one", ranks=2, resume=True)
    assert losses(from_one) == pytest.approx(losses(from_two), rel=1e-4)
    assert len(losses(from_one)) == 4


@pytest.mark.long
def test_parts_of_other_runs_are_read_in_shares(
    world: Path, tmp_path: Path
) -> None:
    origin = pretrain(world, steps=2)
    origin.model.decoder.qk_norm = "head"
    train(origin, tmp_path / "origin", ranks=1)
    config = replace(
        origin,
        seed=1,
        init={"decoder": str(tmp_path / "origin")},
        log_every=1,
    )
    one = train(config, tmp_path / "one", ranks=1)
    config.layout = ParallelLayout.Config(tensor=2)
    two = train(config, tmp_path / "two", ranks=2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


def assert_refused(world: Path, folder: Path) -> None:
    def start(config: Any, message: str) -> None:
        config.layout = ParallelLayout.Config(tensor=2)
        with pytest.raises(ConfigError, match=message):
            config.build(folder=folder)

    config = pretrain(world)
    config.model.decoder = replace(
        config.model.decoder, num_heads=3, head_dim=8
    )
    start(config, r"layout\.tensor=2 .* model\.decoder\.num_heads=3")
    config.model.decoder = replace(
        config.model.decoder, num_heads=4, num_kv_heads=1
    )
    start(config, r"layout\.tensor=2 .* model\.decoder\.num_kv_heads=1")
    config.model.decoder = replace(
        config.model.decoder, num_kv_heads=2, hidden_dim=33
    )
    start(config, r"layout\.tensor=2 .* model\.decoder\.hidden_dim=33")
    config = pretrain(world, float8=True)
    config.model.decoder.hidden_dim = 80
    start(config, "40 of 80 channels, and float8 needs multiples of 16")
    start(contrastive(world), "for decoders, and CLIP has none")


def test_what_ranks_cannot_share_is_refused(
    world: Path, tmp_path: Path
) -> None:
    on_ranks(2, assert_refused, world, tmp_path / "run")
    assert not (tmp_path / "run").exists()
