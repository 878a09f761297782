"""The grids and numbers of tokens that each connector takes, found by asking it."""

from dataclasses import fields

import pytest
from components import classes_in

from mm1.config import ConfigError
from mm1.nn import connectors
from mm1.nn.connectors import Connector

Grid = tuple[int, int]
Case = tuple[Connector.Config, Grid]

GRIDS: list[Grid] = [
    (6, 6),
    (12, 12),
    (16, 16),
    (24, 24),
    (27, 27),
    (8, 8),
    (5, 9),
    (6, 10),
    (7, 30),
]
NUM_TOKENS = (9, 0, 64, 144)
"""Besides each connector's default."""

CONNECTORS: list[type[Connector]] = classes_in(Connector, connectors)
every_connector = pytest.mark.parametrize(
    "cls", CONNECTORS, ids=lambda c: c.__name__
)


SMALL = {"dim": 32, "depth": 1}
"""Options set in every connector that has them."""


def small_configs(cls: type[Connector]) -> list[Connector.Config]:
    """One for each number of tokens."""
    options = {
        f.name: SMALL[f.name] for f in fields(cls.Config) if f.name in SMALL
    }
    counts = dict.fromkeys([*NUM_TOKENS, cls.Config().num_tokens])
    return [cls.Config(num_tokens=num, **options) for num in counts]


def takes(config: Connector.Config, grid: Grid) -> bool:
    try:
        config.tokens_for(grid)
    except ConfigError:
        return False
    return True


def accepted(cls: type[Connector]) -> list[Case]:
    """Small configs and the grids they take."""
    cases = [
        (c, grid)
        for c in small_configs(cls)
        for grid in GRIDS
        if takes(c, grid)
    ]
    assert cases, f"{cls.__name__} takes none of GRIDS: add one that it takes"
    return cases


def refused(cls: type[Connector]) -> list[Case]:
    """Small configs and the grids they do not take."""
    return [
        (c, grid)
        for c in small_configs(cls)
        for grid in GRIDS
        if not takes(c, grid)
    ]


def one_per_grid(cls: type[Connector]) -> list[Case]:
    """The first config that takes a grid, for each grid of up to 60 patches."""
    cases = {grid: (c, grid) for c, grid in reversed(accepted(cls))}
    return [
        cases[grid]
        for grid in GRIDS
        if grid in cases and grid[0] * grid[1] <= 60
    ]


def two_grids(cls: type[Connector]) -> tuple[Connector.Config, Grid, Grid]:
    """A config with two grids that it takes, the smaller one first."""
    cases = accepted(cls)
    for config, grid in cases:
        others = [
            g
            for c, g in cases
            if c is config and g[0] * g[1] > grid[0] * grid[1]
        ]
        if others:
            return config, grid, others[0]
    pytest.skip(f"no config of {cls.__name__} takes two grids")
