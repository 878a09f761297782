"""The Python files that travel with an exported model: `remote/`, and files of mm1 as
they are.

    modeling_mm1.py  processing_mm1.py  base.py     written for transformers
    <connector>.py  connectors.py  position.py      the run's connector, its contract, tables over patches
    image_processing.py                             images -> pixels

Of mm1's files three things change, so that they run where there is neither mm1 nor
jaxtyping: imports of mm1 name the files beside them, that of jaxtyping goes, and
annotations are not evaluated.
"""

import ast
import inspect
import re
from importlib.resources import files

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data import image_processing
from mm1.nn import connectors, position
from mm1.nn.connectors import Connector
from mm1.nn.connectors.c_abstractor import CAbstractor

WRITTEN = ("modeling_mm1", "processing_mm1", "base")

BESIDE = {
    "mm1.config": "base",
    "mm1.nn.model": "base",
    "mm1.nn.position": "position",
    "mm1.nn.connectors": "connectors",
    "mm1.data.image_processing": "image_processing",
}
"""Module of mm1 -> the file that stands for it."""


def remote_code(connector: Connector.Config) -> dict[str, str]:
    """File name -> text.

    Raises:
        ConfigError: the connector's file imports more of mm1 than a connector may.
    """
    module, _, name = configs.path_of(connector).partition(":")
    own = module.rpartition(".")[2]
    taken = {*WRITTEN, *BESIDE.values()}
    beside = BESIDE | {module: own if own not in taken else f"{own}_connector"}
    found = {
        f"{file}.py": (
            (files("mm1.export.remote") / f"{file}.py").read_text(encoding="utf-8")
        )
        for file in WRITTEN
    }
    # What is written for transformers names one connector; the run's own takes its
    # place.
    written = found["modeling_mm1.py"].replace(CAbstractor.__module__, module)
    found["modeling_mm1.py"] = re.sub(rf"\b{CAbstractor.__name__}\b", name, written)
    found = {file: _rewritten(text, beside, file) for file, text in found.items()}
    for source in (
        image_processing,
        position,
        connectors,
        inspect.getmodule(connector.owner),
    ):
        assert source is not None
        text = _rewritten(inspect.getsource(source), beside, source.__name__)
        found[f"{beside[source.__name__]}.py"] = _unevaluated(text)
    return found


def _rewritten(text: str, beside: dict[str, str], origin: str) -> str:
    """The text with its imports of mm1 from the files beside it, and without that of
    jaxtyping."""
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [getattr(node, "module", None) or ""]
        )
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or names[0].split(".")[
            0
        ] not in ("mm1", "jaxtyping"):
            continue
        whole = range(node.lineno - 1, node.end_lineno or node.lineno)
        if names[0].startswith("jaxtyping"):
            for i in whole:
                lines[i] = ""
        elif isinstance(node, ast.ImportFrom) and names[0] in beside:
            lines[whole[0]] = lines[whole[0]].replace(
                f"from {names[0]} import", f"from .{beside[names[0]]} import"
            )
        else:
            allowed = ", ".join(sorted(beside))
            raise ConfigError(
                f"{origin} imports {names[0]}, which does not travel with an export;"
                f" only {allowed} do"
            )
    return "".join(lines)


def _unevaluated(text: str) -> str:
    """The text with annotations as mere words; the line comes after the docstring, as
    Python asks."""
    first = ast.parse(text).body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    at = (first.end_lineno or 0) if docstring else 0
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:at], "\nfrom __future__ import annotations\n", *lines[at:]])
