"""The contract of a connector, asked of every file in `mm1/nn/connectors`."""

import ast
from pathlib import Path

import pytest
import torch
from conftest import classes_in
from nn.batches import multimodal_model, reset_parameters

from mm1.config import ConfigError
from mm1.nn import connectors
from mm1.nn.connectors import Connector
from mm1.nn.connectors.attention_pool import AttentionPool
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.connectors.linear import LinearConnector
from mm1.nn.connectors.mlp import MLPConnector
from mm1.nn.model import adapt

ENCODER = 16
DECODER = 24
SQUARE = (6, 6)
WIDE = (5, 9)

CONNECTORS = classes_in(Connector, connectors)
every_connector = pytest.mark.parametrize("cls", CONNECTORS, ids=lambda c: c.__name__)


def make(
    cls: type[Connector], grid: tuple[int, int] = SQUARE, num_tokens: int = 9
) -> Connector:
    torch.manual_seed(0)
    narrow = {"dim": 32} if "dim" in cls.Config.__slots__ else {}  # type: ignore[attr-defined]
    config = cls.Config(num_tokens=num_tokens, **narrow)
    return config.build(grid=grid, input_dim=ENCODER, output_dim=DECODER)


def patches(grid: tuple[int, int] = SQUARE, num_images: int = 2) -> torch.Tensor:
    return torch.randn(num_images, grid[0] * grid[1], ENCODER)


@every_connector
@pytest.mark.parametrize("num_tokens", [64, 144])
@pytest.mark.parametrize(
    "grid", [(16, 16), (24, 24), (27, 27), (8, 8), (24, 36), (7, 30)]
)
def test_gives_num_tokens_of_the_decoders_width(
    cls: type[Connector], num_tokens: int, grid: tuple[int, int]
) -> None:
    connector = make(cls, grid, num_tokens)
    assert connector.num_tokens == num_tokens
    assert connector(patches(grid)).shape == (2, num_tokens, DECODER)


@every_connector
def test_images_do_not_mix(cls: type[Connector]) -> None:
    connector = make(cls)
    x = patches(num_images=3).requires_grad_()
    (gradient,) = torch.autograd.grad(connector(x)[1].square().sum(), x)
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


@every_connector
@pytest.mark.parametrize("grid", [SQUARE, WIDE])
def test_every_patch_counts_and_every_parameter_learns(
    cls: type[Connector], grid: tuple[int, int]
) -> None:
    connector = make(cls, grid)
    x = patches(grid).requires_grad_()
    connector(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.any(-1).all()
    assert [
        n for n, p in connector.named_parameters() if p.grad is None or not p.grad.any()
    ] == []


@every_connector
def test_builds_on_meta_and_initialises_after(cls: type[Connector]) -> None:
    with torch.device("meta"):
        connector = make(cls)
    assert all(p.is_meta for p in connector.parameters())
    connector.to_empty(device="cpu")
    for parameter in connector.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    reset_parameters(connector)
    assert connector(patches()).isfinite().all()


@every_connector
def test_runs_in_bfloat16(cls: type[Connector]) -> None:
    out = make(cls).bfloat16()(patches().bfloat16())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@every_connector
def test_weights_move_to_another_grid(cls: type[Connector]) -> None:
    old = make(cls, SQUARE)
    new = make(cls, WIDE)
    new.load_state_dict(adapt(new, old.state_dict()))
    assert new(patches(WIDE)).isfinite().all()
    unchanged = adapt(old, old.state_dict())
    assert all(
        torch.equal(unchanged[name], value) for name, value in old.state_dict().items()
    )


@every_connector
def test_flops_grow_with_the_grid_or_stay(cls: type[Connector]) -> None:
    small = make(cls, (6, 6)).flops()
    large = make(cls, (12, 12)).flops()
    assert 0 < small <= large


@every_connector
def test_a_file_imports_torch_and_the_contract_alone(cls: type[Connector]) -> None:
    source = Path(
        connectors.__path__[0], f"{cls.__module__.rsplit('.', 1)[1]}.py"
    ).read_text()
    imported = {
        name.partition(".")[0] if name.partition(".")[0] != "mm1" else name
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {
        "dataclasses",
        "typing",
        "torch",
        "jaxtyping",
        "mm1.nn.connectors",
    }


@every_connector
def test_another_number_of_patches_is_refused(cls: type[Connector]) -> None:
    """As when a class token is left in: 37 in place of 36."""
    with pytest.raises(
        ValueError,
        match=(
            r"grid of 6 x 6 = 36 patches, got 37; .*leave class and register tokens out"
        ),
    ):
        make(cls)(torch.randn(1, 37, ENCODER))


@pytest.mark.parametrize(
    "cls", [AveragePool, CAbstractor, LinearConnector, MLPConnector]
)
@pytest.mark.parametrize(("num_tokens", "near"), [(10, "4, 9, 16"), (-9, "1")])
def test_spatial_connectors_need_a_square_number(
    cls: type[Connector], num_tokens: int, near: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=(
            f"square number for a spatial connector, got {num_tokens}; near it are"
            f" {near}"
        ),
    ):
        make(cls, num_tokens=num_tokens)


@pytest.mark.parametrize("cls", [AveragePool, AttentionPool, CAbstractor])
def test_no_tokens_are_refused_where_0_does_not_mean_all(cls: type[Connector]) -> None:
    with pytest.raises(ConfigError, match="num_tokens"):
        make(cls, num_tokens=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            AttentionPool.Config(dim=24, num_heads=5),
            "dim=24 must be a multiple of num_heads=5",
        ),
        (AttentionPool.Config(depth=0), "depth must be at least 1"),
        (CAbstractor.Config(depth=0), "depth >= 1.*got depth=0"),
        (CAbstractor.Config(dim=2), "dim >= 4.*dim=2"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    config: Connector.Config, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config.build(grid=SQUARE, input_dim=ENCODER, output_dim=DECODER)


@pytest.mark.parametrize("cls", [LinearConnector, MLPConnector])
def test_zero_is_one_token_for_each_patch(cls: type[Connector]) -> None:
    connector = make(cls, WIDE, num_tokens=0)
    x = patches(WIDE)
    assert connector.num_tokens == 45
    together = connector(x)
    alone = make(cls, (1, 1), num_tokens=0)(x[:1, 7:8])
    # One patch or 45: the same sums in another order; worst seen over 200 draws 2.4e-7.
    torch.testing.assert_close(together[:1, 7:8], alone, atol=1e-6, rtol=0)


def test_the_model_asks_the_built_connector_for_its_tokens() -> None:
    model = multimodal_model(MLPConnector.Config())
    assert model.tokens_per_image == model.encoder.grid[0] * model.encoder.grid[1]


def test_linear_with_a_number_of_tokens_is_average_pooling() -> None:
    linear = make(LinearConnector)
    pooled = make(AveragePool)
    x = patches()
    assert torch.equal(linear(x), pooled(x))


def test_average_pool_averages_its_share_of_the_grid() -> None:
    connector = make(AveragePool)
    x = patches()
    expected = x.view(2, 3, 2, 3, 2, ENCODER).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(
        connector(x),
        torch.nn.functional.linear(expected, *connector.output.parameters()),
    )


@pytest.mark.parametrize(
    ("rows", "side", "windows"),
    [
        (16, 12, [2] * 12),
        (24, 12, [2] * 12),
        (27, 8, [4, 4, 5, 4, 4, 5, 4, 4]),
        (27, 12, [3] * 12),
        (32, 12, [3, 4, 3, 3, 4, 3, 3, 4, 3, 3, 4, 3]),
    ],
)
def test_windows_are_as_the_docs_say(rows: int, side: int, windows: list[int]) -> None:
    """One map for each row of patches, with 1 in that row: a window's mean is above 0
    for the rows that it covers."""
    means = connectors.pool(
        torch.eye(rows)[:, :, None, None].expand(-1, -1, rows, 1), side
    )[:, :, 0, 0]
    assert (means > 0).sum(0).tolist() == windows


@pytest.mark.parametrize(
    ("width", "expected"), [(1024, 15_828_480), (1280, 17_534_528)]
)
def test_c_abstractor_has_honeybees_parameters(width: int, expected: int) -> None:
    with torch.device("meta"):
        connector = CAbstractor.Config().build(
            grid=(24, 24), input_dim=width, output_dim=2048
        )
    stages = (connector.before, connector.after)
    assert sum(p.numel() for stage in stages for p in stage.parameters()) == expected


def test_c_abstractor_looks_at_neighbours_and_attention_pool_does_not() -> None:
    """The order of patches means something to a spatial connector; to queries patches
    are a set."""
    shuffled = torch.randperm(36)
    x = patches()
    for cls, order_matters in ((CAbstractor, True), (AttentionPool, False)):
        connector = make(cls)
        assert (
            torch.allclose(connector(x), connector(x[:, shuffled]), atol=1e-5)
            != order_matters
        )
