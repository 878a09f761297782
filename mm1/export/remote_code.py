"""The Python files in an exported folder: `remote/`, and files of mm1 as they are.

    modeling_mm1.py  processing_mm1.py  base.py   written for transformers
    <connector>.py  connectors.py  ranges.py      the run's connector, its contract,
    position.py                                   ranges of numbers, tables over patches
    image_decoding.py  image_processing.py        images -> pixels

Three things change in mm1's files so that they run without mm1 and jaxtyping: imports
of mm1 become imports of the neighbouring files, that of jaxtyping is removed, and
annotations are not evaluated.
"""

import ast
import inspect
import re
from collections.abc import Mapping
from importlib.resources import files

from mm1 import config as configs
from mm1 import ranges
from mm1.config import ConfigError
from mm1.data import image_decoding, image_processing
from mm1.nn import connectors, position
from mm1.nn.connectors import Connector
from mm1.nn.connectors.c_abstractor import CAbstractor

WRITTEN = ("modeling_mm1", "processing_mm1", "base")

NEIGHBOURS = {
    "mm1.config": "base",
    "mm1.ranges": "ranges",
    "mm1.nn.model": "base",
    "mm1.nn.position": "position",
    "mm1.nn.connectors": "connectors",
    "mm1.data.image_decoding": "image_decoding",
    "mm1.data.image_processing": "image_processing",
}
"""Module of mm1 -> the file that takes its place."""


def remote_code(connector: Connector.Config) -> dict[str, str]:
    """File name -> content.

    Raises:
        ConfigError: the connector's file imports more of mm1 than a connector may.
    """
    module, _, name = configs.path_of(connector).partition(":")
    own = module.rpartition(".")[2]
    taken = {*WRITTEN, *NEIGHBOURS.values()}
    neighbours = NEIGHBOURS | {
        module: f"{own}_connector" if own in taken else own
    }
    folder = files("mm1.export.remote")
    contents = {
        file: (folder / f"{file}.py").read_text(encoding="utf-8")
        for file in WRITTEN
    }
    # modeling_mm1.py is written with one connector; the run's own takes its place.
    modeling = contents["modeling_mm1"].replace(CAbstractor.__module__, module)
    modeling = re.sub(rf"\b{CAbstractor.__name__}\b", name, modeling)
    contents["modeling_mm1"] = modeling
    code = {
        f"{file}.py": _without_mm1(text, neighbours, file)
        for file, text in contents.items()
    }
    connector_module = inspect.getmodule(connector.owner)
    for source in (
        image_decoding,
        image_processing,
        position,
        ranges,
        connectors,
        connector_module,
    ):
        assert source is not None
        text = _without_mm1(
            inspect.getsource(source), neighbours, source.__name__
        )
        code[f"{neighbours[source.__name__]}.py"] = _unevaluated(text)
    return code


def _without_mm1(text: str, neighbours: Mapping[str, str], origin: str) -> str:
    """The text with imports of neighbouring files in place of mm1's, and without that
    of jaxtyping."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            name = node.names[0].name
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
        else:
            continue
        first = node.lineno - 1
        if name.partition(".")[0] == "jaxtyping":
            for i in range(first, node.end_lineno or node.lineno):
                lines[i] = ""
        elif isinstance(node, ast.ImportFrom) and name in neighbours:
            there = f"from .{neighbours[name]} import"
            lines[first] = lines[first].replace(f"from {name} import", there)
        elif name.partition(".")[0] == "mm1":
            allowed = ", ".join(sorted(neighbours))
            raise ConfigError(
                f"{origin} imports {name}, which does not travel with an export; only"
                f" {allowed} do"
            )
    return "".join(lines)


def _unevaluated(text: str) -> str:
    """The text with annotations that are not evaluated; the import that says so has to
    come right after the docstring."""
    first = ast.parse(text).body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(
        first.value, ast.Constant
    )
    at = (first.end_lineno or 0) if docstring else 0
    lines = text.splitlines(keepends=True)
    return "".join(
        [*lines[:at], "\nfrom __future__ import annotations\n", *lines[at:]]
    )
