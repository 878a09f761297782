"""The meshes of a layout, on one rank and on four."""

import re

import pytest
from ranks import on_ranks

from mm1 import dist
from mm1.config import ConfigError
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.train.layout import ParallelLayout


def mixture(num_experts: int) -> LanguageModel.Config:
    return LanguageModel.Config(
        decoder=Decoder.Config(experts=MoE.Config(num_experts=num_experts))
    )


def test_one_rank_has_a_mesh_of_one() -> None:
    layout = ParallelLayout.Config().build(dist.start())
    assert layout.data_mesh.mesh_dim_names == ("dp_shard",)
    assert layout.data_mesh.size() == layout.data_size == 1
    assert layout.tensor_mesh is None
    assert layout.expert_mesh is None
    assert (dist.data_rank(), dist.data_size()) == (0, 1)


def test_a_recipe_that_names_many_expert_ranks_runs_on_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout = ParallelLayout.Config(experts=16).build(dist.start(), mixture(32))
    assert layout.experts == 1
    assert layout.expert_mesh is None
    assert (
        "layout.experts=16 is 1 on 1 rank: each holds 32 of 32 experts"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("layout", "model", "message"),
    [
        (
            ParallelLayout.Config(shard=3),
            None,
            "layout.shard=3, layout.tensor=1 take a multiple of 3 ranks, and this run"
            " has 1",
        ),
        (
            ParallelLayout.Config(tensor=2),
            None,
            "layout.tensor=2 take a multiple of 2 ranks",
        ),
        (
            ParallelLayout.Config(replicate=None),
            None,
            "layout.replicate and layout.shard are both None",
        ),
        (
            ParallelLayout.Config(experts=5),
            mixture(12),
            "layout.experts=5 does not divide the 12 experts",
        ),
        (
            ParallelLayout.Config(experts=2),
            LanguageModel.Config(),
            "layout.experts=2, but the model has no experts",
        ),
    ],
)
def test_what_ranks_or_experts_cannot_be_shared_out_so(
    layout: ParallelLayout.Config,
    model: LanguageModel.Config | None,
    message: str,
) -> None:
    device = dist.start()
    with pytest.raises(ConfigError, match=re.escape(message)):
        layout.build(device, model)


def four_ranks() -> None:
    device = dist.start()
    rank = dist.rank()

    hybrid = ParallelLayout.Config(replicate=2, experts=2).build(
        device, mixture(6)
    )
    assert hybrid.data_mesh.mesh_dim_names == ("dp_replicate", "dp_shard")
    assert hybrid.data_mesh.mesh.tolist() == [[0, 1], [2, 3]]
    assert hybrid.expert_mesh is not None
    assert hybrid.expert_mesh.mesh.tolist() == [[0, 1], [2, 3]][rank // 2]
    assert hybrid.expert_data_mesh.mesh_dim_names == ("dp_replicate", "efsdp")
    assert (
        hybrid.expert_data_mesh.mesh.tolist()
        == ([[[0], [2]], [[1], [3]]][rank % 2])
    )

    over_copies = ParallelLayout.Config(replicate=None, shard=2, experts=4)
    across = over_copies.build(device, mixture(8))
    assert across.replicate == 2
    assert across.expert_mesh is not None
    assert across.expert_mesh.mesh.tolist() == [0, 1, 2, 3]
    assert across.expert_data_mesh.mesh.tolist() == [rank]

    sharded = ParallelLayout.Config(experts=2).build(device, mixture(8))
    assert sharded.expert_data_mesh.mesh_dim_names == ("efsdp",)
    assert sharded.expert_data_mesh.mesh.tolist() == [[0, 2], [1, 3]][rank % 2]
    # Six ranks were wished for: the largest divisor of it that four have is two.
    assert (
        ParallelLayout.Config(experts=6).build(device, mixture(12)).experts == 2
    )

    tensor = ParallelLayout.Config(tensor=2).build(device)
    assert tensor.tensor_mesh is not None
    assert tensor.tensor_mesh.mesh.tolist() == [[0, 1], [2, 3]][rank // 2]
    assert tensor.data_mesh.mesh.tolist() == [[0, 2], [1, 3]][rank % 2]
    assert (dist.data_rank(), dist.data_size()) == (rank // 2, 2)
    with pytest.raises(ConfigError, match=r"set layout\.replicate=None or"):
        ParallelLayout.Config(shard=2).build(device)
    ParallelLayout.Config().build(device)
    assert (dist.data_rank(), dist.data_size()) == (rank, 4)


@pytest.mark.slow
def test_axes_of_four_ranks() -> None:
    on_ranks(4, four_ranks)
