"""Typed configuration in Python: choices are fields, facts are `build` arguments.

A configurable class nests its own `Config`; the role it plays declares which facts
`build` takes:

    class AveragePool(Connector):
        @dataclass(kw_only=True, slots=True)
        class Config(Connector.Config): ...

    connector = AveragePool.Config(num_tokens=64).build(grid=(16, 16), input_dim=1024,
    output_dim=2048)

There is no registry. A class is named by where it lives, in Python, on the command line
and in `config.json` alike: `mm1.nn.connectors.average_pool:AveragePool`.
"""

import ast
import copy
import difflib
import importlib
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_type_hints

from beartype.door import is_bearable


class UserError(Exception):
    """What a user can mend: the message says what is wrong and the remedy, and is shown
    without a traceback."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be: the message names the key and the nearest thing
    that exists."""


class Configurable:
    """A class that is built from its nested, typed `Config`."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        owner: ClassVar[type]

        def make(self, **facts: Any) -> Any:
            """Builds the owner from a private copy of this config; roles wrap it as a
            typed `build`."""
            return self.owner(copy.deepcopy(self), **facts)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "Config" not in cls.__dict__:
            # Module and name are set by hand so that the class pickles for worker
            # processes.
            own = {
                "__module__": cls.__module__,
                "__qualname__": f"{cls.__qualname__}.Config",
            }
            cls.Config = dataclass(kw_only=True, slots=True)(
                type("Config", (cls.Config,), own)
            )
        if "__slots__" not in cls.Config.__dict__:
            raise TypeError(
                f"{cls.__name__}.Config needs @dataclass(kw_only=True, slots=True)"
            )
        cls.Config.owner = cls


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for an error message, or the list of what is known when
    nothing is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; known: {', '.join(known) or 'nothing'}"
    )


def path_of(config: Configurable.Config) -> str:
    return f"{config.owner.__module__}:{config.owner.__qualname__}"


def find(path: str) -> type[Configurable]:
    """The configurable class at `package.module:Class`."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no class at {path!r} (expected 'package.module:Class'): {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Configurable)):
        raise ConfigError(f"{path!r} is not configurable")
    return found


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """One entry for each leaf: `model.connector.num_tokens` -> 144; a component's own
    entry is its class path."""
    if isinstance(value, Configurable.Config):
        leaves = {prefix: path_of(value)} if prefix else {}
        for f in fields(value):
            leaves |= flatten(getattr(value, f.name), f"{prefix}.{f.name}".lstrip("."))
        return leaves
    if isinstance(value, dict) and value:
        return {
            k: v
            for key, item in value.items()
            for k, v in flatten(item, f"{prefix}.{key}").items()
        }
    if isinstance(value, (list, tuple)) and any(
        isinstance(item, Configurable.Config) for item in value
    ):
        return {
            k: v
            for i, item in enumerate(value)
            for k, v in flatten(item, f"{prefix}.{i}").items()
        }
    return {prefix: value}


def text(config: Configurable.Config) -> str:
    """The whole config, a line for each leaf: what `mm1 show` prints and golden tests
    compare."""
    return "".join(f"{key} = {value!r}\n" for key, value in flatten(config).items())


def diff(
    old: Configurable.Config, new: Configurable.Config
) -> dict[str, tuple[Any, Any]]:
    """What an ablation changes: `{"model.connector": (old, new)}`; a leaf that one side
    lacks is None there."""
    a = flatten(old)
    b = flatten(new)
    return {k: (a.get(k), b.get(k)) for k in a | b if a.get(k) != b.get(k)}


def to_json(value: Any) -> Any:
    if isinstance(value, Configurable.Config):
        return {"class": path_of(value)} | {
            f.name: to_json(getattr(value, f.name)) for f in fields(value)
        }
    if isinstance(value, dict):
        return {k: to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`; unknown keys, values of a wrong type and what is
    missing are errors."""
    if isinstance(value, dict) and "class" in value:
        config_class = find(str(value["class"])).Config
        known = {f.name for f in fields(config_class)}
        kwargs: dict[str, Any] = {}
        for key, item in value.items():
            if key == "class":
                continue
            if key not in known:
                raise ConfigError(
                    f"{value['class']} has no {key!r}{nearest(key, known)}"
                )
            kwargs[key] = _checked(config_class, key, from_json(item), key)
        needed = {
            f.name
            for f in fields(config_class)
            if f.default is f.default_factory is MISSING
        } - kwargs.keys()
        if needed:
            raise ConfigError(f"{value['class']} needs {', '.join(sorted(needed))}")
        return config_class(**kwargs)
    if isinstance(value, dict):
        return {k: from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(v) for v in value]
    return value


def override(config: Configurable.Config, assignment: str) -> None:
    """Applies one `a.b=value` from the command line; a class path swaps a whole
    component, None leaves out one.

    Raises:
        ConfigError: the key does not exist (the nearest one is named) or the value has
            the wrong type.
    """
    key, equals, raw = assignment.partition("=")
    if not equals:
        raise ConfigError(f"{assignment!r} is not an assignment; write key=value")
    *parents, name = key.split(".")
    node: Any = config
    hint: Any = None
    for i, parent in enumerate(parents):
        hint = (
            get_type_hints(type(node)).get(parent)
            if isinstance(node, Configurable.Config)
            else None
        )
        node = _child(node, parent, ".".join(parents[: i + 1]))
    if isinstance(node, dict):
        kind, item = get_args(hint) or (str, object)
        holds_configs = isinstance(item, type) and issubclass(item, Configurable.Config)
        at: Any = int(name) if kind is int and name.isdecimal() else name
        node[at] = (
            find(raw).Config()
            if holds_configs
            else _parsed(raw, "" if item is str else node.get(at))
        )
        return
    old = _child(node, name, key)
    hint = get_type_hints(type(node)).get(name)
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if any(
        isinstance(kind, type) and issubclass(kind, Configurable.Config)
        for kind in kinds
    ):
        setattr(
            node,
            name,
            None if raw == "None" and NoneType in kinds else find(raw).Config(),
        )
        return
    setattr(node, name, _checked(type(node), name, _parsed(raw, old), key))


def _child(node: Any, name: str, key: str) -> Any:
    if isinstance(node, dict):
        known = {str(k): v for k, v in node.items()}
    elif isinstance(node, (list, tuple)):
        known = {str(i): v for i, v in enumerate(node)}
    elif isinstance(node, Configurable.Config):
        known = {f.name: getattr(node, f.name) for f in fields(node)}
    else:
        known = {}
    if name not in known:
        raise ConfigError(f"no key {key!r}{nearest(name, known)}")
    return known[name]


def _parsed(raw: str, old: Any) -> Any:
    """A Python literal where the text is one, else the text itself; a text field takes
    the text as it stands."""
    if isinstance(old, str) and raw != "None":
        return raw
    try:
        return ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(raw, raw)


def _checked(config_class: type, name: str, value: Any, key: str) -> Any:
    hint = get_type_hints(config_class)[name]
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and not is_bearable(value, hint)
    ):
        value = float(value)
    if isinstance(value, list) and not is_bearable(value, hint):
        value = tuple(value)
    if isinstance(value, dict) and not is_bearable(
        value, hint
    ):  # the keys of JSON are texts
        value = {
            int(k) if isinstance(k, str) and k.isdecimal() else k: item
            for k, item in value.items()
        }
    if not is_bearable(value, hint):
        wanted = (
            getattr(hint, "__name__", None)
            if isinstance(hint, type)
            else str(hint).replace("typing.", "")
        )
        raise ConfigError(f"{key} must be {wanted}, not {value!r}")
    return value
