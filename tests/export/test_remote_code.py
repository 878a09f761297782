"""The Python files of an export: mm1's do the same where mm1 is not installed."""

import importlib
import inspect
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from nn.connector_cases import accepted, every_connector

from mm1.config import ConfigError
from mm1.export.remote_code import remote_code
from mm1.nn.connectors import Connector
from mm1.nn.connectors.average_pool import AveragePool


def packaged(
    folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Imports one of the files as transformers does: as a module of a package of its
    own."""
    package = folder / "carried"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in files.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "carried"
    ]:
        monkeypatch.delitem(sys.modules, name)
    return lambda name: importlib.import_module(f"carried.{name}")


@every_connector
def test_every_connector_travels(
    cls: type[Connector], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, grid = accepted(cls)[0]
    files = remote_code(config)
    for name, text in files.items():
        assert not re.search(
            r"^\s*(from|import) (mm1|jaxtyping)\b", text, re.MULTILINE
        ), name
    load = packaged(tmp_path, files, monkeypatch)
    module = cls.__module__.rpartition(".")[2]
    assert f"from .{module} import {cls.__name__}\n" in files["modeling_mm1.py"]
    sizes: dict[str, Any] = {"grid": grid, "input_dim": 16, "output_dim": 24}
    torch.manual_seed(0)
    ours = config.build(**sizes)
    theirs_class = getattr(load(module), cls.__name__)
    theirs = theirs_class(theirs_class.Config(**asdict(config)), **sizes)
    theirs.load_state_dict(ours.state_dict())
    patches = torch.randn(2, grid[0] * grid[1], 16)
    assert torch.equal(theirs(patches), ours(patches))


def test_the_text_of_a_carried_file_is_untouched() -> None:
    ours = inspect.getsource(
        importlib.import_module(AveragePool.__module__)
    ).splitlines()
    theirs = remote_code(AveragePool.Config())["average_pool.py"].splitlines()
    assert [line for line in ours if line not in theirs] == [
        "from jaxtyping import Float",
        "from mm1.nn.connectors import Connector, on_grid, pool, square_side",
        "from mm1.ranges import NonNegativeInt",
    ]
    assert [line for line in theirs if line and line not in ours] == [
        "from __future__ import annotations",
        "from .connectors import Connector, on_grid, pool, square_side",
        "from .ranges import NonNegativeInt",
    ]


def test_a_connector_that_needs_more_of_mm1_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = inspect.getsource(importlib.import_module(AveragePool.__module__))
    (tmp_path / "greedy.py").write_text(
        f"from mm1.nn.block import MLP\n{source}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    greedy = importlib.import_module("greedy").AveragePool
    with pytest.raises(
        ConfigError,
        match=r"greedy imports mm1\.nn\.block, which does not travel",
    ):
        remote_code(greedy.Config())
