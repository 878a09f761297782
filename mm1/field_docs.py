"""What the fields of a config mean: the docstrings below them, read from the source."""

import ast
import inspect
import sys
from dataclasses import fields
from functools import cache
from typing import Any

from mm1.config import Configurable


def explanations(value: Any, prefix: str = "", own: str = "") -> dict[str, str]:
    """Key -> its meaning, for the keys of `mm1.config.flatten` that have one: of a leaf
    that of its field, of a component also what its class is. `own` is that of the field
    that holds `value`."""
    if isinstance(value, Configurable.Config):
        found = {}
        if prefix:
            found[prefix] = " ".join(filter(None, (own, _summary(value.owner))))
        for field in fields(value):
            name = field.name
            found |= explanations(
                getattr(value, name),
                f"{prefix}.{name}".lstrip("."),
                _meaning(type(value), name),
            )
        return {key: text for key, text in found.items() if text}
    if isinstance(value, dict) and value:
        items = list(value.items())
    elif isinstance(value, (list, tuple)) and any(
        isinstance(item, Configurable.Config) for item in value
    ):
        items = list(enumerate(value))
    else:
        return {prefix: own} if own else {}
    found = {}
    for number, (key, item) in enumerate(items):
        # once for the whole
        found |= explanations(
            item, f"{prefix}.{key}", own if number == 0 else ""
        )
    return found


def _meaning(config_class: type, name: str) -> str:
    """Of a field: where a class that inherits it says nothing, its base does."""
    for each in config_class.__mro__:
        if text := _docstrings(each.__module__).get((each.__qualname__, name)):
            return text
    return ""


def _summary(component: type) -> str:
    """The first paragraph about a class, or about its file."""
    about = vars(component).get("__doc__") or (
        sys.modules[component.__module__].__doc__ or ""
    )
    return " ".join(about.partition("\n\n")[0].split())


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """(class, field) -> the string below the field, of all classes of a module; nothing
    of one without source."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return {}
    found: dict[tuple[str, str], str] = {}
    _read(ast.parse(source), "", found)
    return found


def _read(
    node: ast.Module | ast.ClassDef,
    path: str,
    found: dict[tuple[str, str], str],
) -> None:
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.ClassDef):
            _read(field, f"{path}.{field.name}".lstrip("."), found)
        elif (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            text = " ".join(below.value.value.split())
            found[path, field.target.id] = text
