"""The contract of a connector, tested on every file in `mm1/nn/connectors`."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from nn.batches import multimodal_model, reset_parameters, without_gradient
from nn.connector_cases import (
    GRIDS,
    SMALL,
    Grid,
    accepted,
    every_connector,
    one_per_grid,
    refused,
    two_grids,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mm1.config import ConfigError
from mm1.nn import connectors
from mm1.nn.connectors import Connector
from mm1.nn.connectors.attention_pool import AttentionPool
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.connectors.linear import LinearConnector
from mm1.nn.connectors.mlp import MLPConnector
from mm1.nn.connectors.pixel_shuffle import PixelShuffle
from mm1.nn.model import adapt

ENCODER = 16
DECODER = 24
SQUARE = (6, 6)
WIDE = (5, 9)


def build(config: Connector.Config, grid: Grid = SQUARE) -> Connector:
    torch.manual_seed(0)
    return config.build(grid=grid, input_dim=ENCODER, output_dim=DECODER)


def make(
    cls: type[Connector], grid: Grid = SQUARE, num_tokens: int = 9
) -> Connector:
    options = {
        f.name: SMALL[f.name] for f in fields(cls.Config) if f.name in SMALL
    }
    return build(cls.Config(num_tokens=num_tokens, **options), grid)


def patches(grid: Grid = SQUARE, num_images: int = 2) -> torch.Tensor:
    return torch.randn(num_images, grid[0] * grid[1], ENCODER)


@every_connector
def test_gives_as_many_tokens_as_it_says(cls: type[Connector]) -> None:
    for config, grid in accepted(cls):
        num_tokens = config.tokens_for(grid)
        assert config.num_tokens in (0, num_tokens)
        connector = build(config, grid)
        assert (connector.num_tokens, connector.grid) == (num_tokens, grid)
        tokens = connector(patches(grid, num_images=1))
        assert tokens.shape == (1, num_tokens, DECODER)


@every_connector
def test_names_what_it_cannot_take(cls: type[Connector]) -> None:
    """The grid and the number of tokens, before any weight is made."""
    for config, grid in refused(cls):
        with pytest.raises(
            ConfigError, match=rf"num_tokens={config.num_tokens}\b"
        ) as e:
            build(config, grid)
        assert f"grid of {grid[0]} x {grid[1]} patches" in str(e.value)


@every_connector
def test_images_do_not_mix(cls: type[Connector]) -> None:
    config, grid = accepted(cls)[0]
    x = patches(grid, num_images=3).requires_grad_()
    (gradient,) = torch.autograd.grad(
        build(config, grid)(x)[1].square().sum(), x
    )
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


@every_connector
def test_every_patch_counts_and_every_parameter_learns(
    cls: type[Connector],
) -> None:
    for config, grid in one_per_grid(cls):
        connector = build(config, grid)
        x = patches(grid).requires_grad_()
        connector(x).square().sum().backward()
        assert x.grad is not None
        assert x.grad.any(-1).all()
        assert without_gradient(connector) == []


@every_connector
def test_builds_on_meta_and_initialises_after(cls: type[Connector]) -> None:
    config, grid = accepted(cls)[0]
    with torch.device("meta"):
        connector = build(config, grid)
    assert all(p.is_meta for p in connector.parameters())
    connector.to_empty(device="cpu")
    for parameter in connector.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    reset_parameters(connector)
    assert connector(patches(grid)).isfinite().all()


@every_connector
def test_runs_in_bfloat16(cls: type[Connector]) -> None:
    config, grid = accepted(cls)[0]
    out = build(config, grid).bfloat16()(patches(grid).bfloat16())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@every_connector
def test_weights_move_to_another_grid(cls: type[Connector]) -> None:
    config, grid, larger = two_grids(cls)
    old = build(config, grid)
    new = build(config, larger)
    new.load_state_dict(adapt(new, old.state_dict()))
    assert new(patches(larger)).isfinite().all()
    unchanged = adapt(old, old.state_dict())
    assert all(
        torch.equal(unchanged[name], value)
        for name, value in old.state_dict().items()
    )


@every_connector
def test_flops_grow_with_the_grid_or_stay(cls: type[Connector]) -> None:
    config, grid, larger = two_grids(cls)
    assert 0 < build(config, grid).flops() <= build(config, larger).flops()


@every_connector
def test_flops_are_those_of_torchs_counter(cls: type[Connector]) -> None:
    """Forward, and twice as many backward."""
    for config, grid in one_per_grid(cls):
        connector = build(config, grid)
        # torch does not count its fused attention on the CPU.
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            connector(patches(grid, num_images=1))
        assert connector.flops() == 3 * counter.get_total_flops()


@every_connector
def test_a_file_imports_torch_and_the_contract_alone(
    cls: type[Connector],
) -> None:
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
        "mm1.ranges",
    }


@every_connector
def test_another_number_of_patches_is_refused(cls: type[Connector]) -> None:
    """For example because a class token is left in."""
    config, (h, w) = accepted(cls)[0]
    with pytest.raises(
        ValueError,
        match=(
            f"grid of {h} x {w} = {h * w} patches, got {h * w + 1}; "
            ".*leave class and register tokens out"
        ),
    ):
        build(config, (h, w))(torch.randn(1, h * w + 1, ENCODER))


@pytest.mark.parametrize("cls", [AveragePool, AttentionPool, CAbstractor])
def test_pooling_takes_any_grid(cls: type[Connector]) -> None:
    assert {
        grid for config, grid in accepted(cls) if config.num_tokens == 9
    } == {*GRIDS}


@pytest.mark.parametrize(
    "cls", [AveragePool, CAbstractor, LinearConnector, MLPConnector]
)
@pytest.mark.parametrize(
    ("num_tokens", "nearest"), [(10, "4, 9, 16"), (99, "81, 100, 121")]
)
def test_pooling_to_a_grid_needs_a_square_number(
    cls: type[Connector], num_tokens: int, nearest: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"num_tokens={num_tokens} .* 5 x 9 patches .* such as {nearest}\b",
    ):
        make(cls, WIDE, num_tokens=num_tokens)


@pytest.mark.parametrize("cls", [AveragePool, AttentionPool, CAbstractor])
def test_no_tokens_are_refused_where_0_does_not_mean_all(
    cls: type[Connector],
) -> None:
    with pytest.raises(ConfigError, match="num_tokens=0"):
        make(cls, num_tokens=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            AttentionPool.Config(dim=24, num_heads=5),
            "dim=24 must be a multiple of num_heads=5",
        ),
        (AttentionPool.Config(depth=0), "depth=0 must be at least 1"),
        (CAbstractor.Config(depth=0), "depth=0 must be at least 1"),
        (CAbstractor.Config(dim=2), "dim=2 must be at least 4"),
        (AveragePool.Config(num_tokens=-9), "num_tokens=-9 must be at least 0"),
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


def shuffled(x: torch.Tensor, grid: Grid, side: int) -> torch.Tensor:
    """Pixel shuffle, block by block: first blocks by row, then patches by row."""
    h, w = grid
    return torch.stack(
        [
            torch.cat(
                [
                    x[:, (top + row) * w + left + column]
                    for row in range(side)
                    for column in range(side)
                ],
                -1,
            )
            for top in range(0, h, side)
            for left in range(0, w, side)
        ],
        1,
    )


@pytest.mark.parametrize(
    ("grid", "side"), [((6, 6), 2), ((6, 6), 3), ((4, 6), 2), ((3, 3), 1)]
)
def test_pixel_shuffle_puts_a_block_of_patches_into_channels(
    grid: Grid, side: int
) -> None:
    connector = build(PixelShuffle.Config(scale_factor=side), grid)
    assert isinstance(connector, PixelShuffle)
    x = patches(grid)
    expected = torch.nn.functional.linear(
        shuffled(x, grid, side), connector.output.weight
    )
    assert torch.equal(connector(x), expected)


@pytest.mark.parametrize(
    ("config", "grid", "possible"),
    [
        (
            PixelShuffle.Config(),
            (27, 27),
            "1 (729 tokens), 3 (81 tokens), 9 (9 tokens)",
        ),
        (
            PixelShuffle.Config(scale_factor=0),
            (4, 6),
            "1 (24 tokens), 2 (6 tokens)",
        ),
        (
            PixelShuffle.Config(num_tokens=4),
            (4, 6),
            "1 (24 tokens), 2 (6 tokens)",
        ),
    ],
)
def test_pixel_shuffle_names_the_factors_that_fit(
    config: PixelShuffle.Config, grid: Grid, possible: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=(
            f"scale_factor={config.scale_factor} with num_tokens={config.num_tokens}"
            f" does not fit a grid of {grid[0]} x {grid[1]} patches; possible scale"
            f" factors are {re.escape(possible)}"
        ),
    ):
        build(config, grid)


def test_the_model_asks_the_built_connector_for_its_tokens() -> None:
    model = multimodal_model(MLPConnector.Config())
    assert (
        model.tokens_per_image == model.encoder.grid[0] * model.encoder.grid[1]
    )


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
def test_windows_are_as_the_docs_say(
    rows: int, side: int, windows: list[int]
) -> None:
    """One map for each row of patches, with 1 in that row: a window's mean is above 0
    for the rows that it covers."""
    means = connectors.pool(
        torch.eye(rows)[:, :, None, None].expand(-1, -1, rows, 1), side
    )[:, :, 0, 0]
    assert (means > 0).sum(0).tolist() == windows


@pytest.mark.parametrize(
    ("width", "expected"), [(1024, 15_828_480), (1280, 17_534_528)]
)
def test_c_abstractor_has_honeybees_parameters(
    width: int, expected: int
) -> None:
    with torch.device("meta"):
        connector = CAbstractor.Config().build(
            grid=(24, 24), input_dim=width, output_dim=2048
        )
    stages = (connector.before, connector.after)
    assert (
        sum(p.numel() for stage in stages for p in stage.parameters())
        == expected
    )


def test_c_abstractor_looks_at_neighbours_and_attention_pool_does_not() -> None:
    """The order of patches means something to a spatial connector; to queries patches
    are a set."""
    order = torch.randperm(36)
    x = patches()
    for cls, order_matters in ((CAbstractor, True), (AttentionPool, False)):
        connector = make(cls)
        assert (
            torch.allclose(connector(x), connector(x[:, order]), atol=1e-5)
            != order_matters
        )


def test_attention_pooling_is_a_resampler_with_residuals() -> None:
    """Against torch's own attention, put together as in Flamingo's resampler
    (arXiv:2204.14198, appendix A.1.1) but for keys, which are of the patches alone:
    queries plus what they attend to, then plus a feed-forward of it."""
    config = AttentionPool.Config(num_tokens=9, dim=32, num_heads=4, depth=2)
    connector = build(config)
    reset_parameters(connector)
    x = patches()
    memory = connector.input_norm(connector.input(x))
    out = connector.queries.expand(2, -1, -1)
    for layer in connector.layers:
        attention = torch.nn.MultiheadAttention(32, 4, batch_first=True)
        with torch.no_grad():
            attention.in_proj_weight.copy_(
                torch.cat((layer.query.weight, layer.key_value.weight))
            )
            attention.in_proj_bias.copy_(
                torch.cat((layer.query.bias, layer.key_value.bias))
            )
            attention.out_proj.load_state_dict(layer.mix.state_dict())
        attended, _ = attention(layer.query_norm(out), memory, memory)
        out = out + attended
        out = out + layer.feed_forward(layer.feed_forward_norm(out))
    expected = connector.output(connector.output_norm(out))
    torch.testing.assert_close(connector(x), expected, rtol=1e-4, atol=1e-5)
