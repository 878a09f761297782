"""Typed configuration in Python: choices are fields, facts are `build` arguments.

A configurable class nests its own `Config`; the role it plays declares which facts
`build` takes:

    class AveragePool(Connector):
        @dataclass(kw_only=True, slots=True)
        class Config(Connector.Config): ...

    config = AveragePool.Config(num_tokens=64)
    connector = config.build(grid=(16, 16), input_dim=1024, output_dim=2048)

There is no registry. A class is named by where it lives, in Python and in `config.json`
alike: `mm1.nn.connectors.average_pool:AveragePool`. The command line also takes a short
name (`mm1.overrides`). A config.json may come from a stranger, and an import runs code:
classes outside this package are imported only from modules that were given to `trust`.
"""

import copy
import difflib
import importlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import (
    Any,
    ClassVar,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from beartype.door import is_bearable

from mm1.ranges import out_of_range

TRUSTED: list[str] = ["mm1"]
"""Modules and packages whose classes a config may name."""


class UserError(Exception):
    """An error the user can fix: the message says what is wrong and how to fix it, and
    is shown without a traceback."""

    exit_code: ClassVar[int] = 2
    """Of a command that ends with it."""
    said: bool = False
    """Whether it has been shown already."""


class ConfigError(UserError, ValueError):
    """An invalid configuration: the message names the key and the nearest valid one."""


class Configurable:
    """A class that is built from its nested, typed `Config`."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        owner: ClassVar[type]

        def make(self, **facts: Any) -> Any:
            """Builds the owner from a private copy of this config.

            Roles wrap it as a typed `build`.

            Raises:
                ConfigError: a number is out of its range.
            """
            check_ranges(self)
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
    """`"; did you mean 'x'?"` for an error message, or a list of all known names when
    none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; known: {', '.join(known) or 'nothing'}"
    )


def path_of(config: Configurable.Config) -> str:
    """The class a config builds, as `package.module:Class`."""
    return f"{config.owner.__module__}:{config.owner.__qualname__}"


def trust(module: str) -> None:
    """Lets configs name classes of a module, or of a package and all below it, for the
    rest of this process: `--trust MODULE` on the command line.

    Raises:
        ConfigError: it is no name of a module.
    """
    if not _is_dotted_name(module):
        raise ConfigError(
            f"--trust {module}: it takes the name of a module, such as my_models.vit"
        )
    if module not in TRUSTED:
        TRUSTED.append(module)


def find_class(path: str) -> type[Configurable]:
    """The configurable class at `package.module:Class`.

    Raises:
        ConfigError: there is none, or its module is not trusted and was therefore not
            imported.
    """
    module, _, name = path.partition(":")
    if not (_is_dotted_name(module) and name.isidentifier()):
        raise ConfigError(
            f"no class at {path!r} (expected 'package.module:Class')"
        )
    if not any(f"{module}.".startswith(f"{each}.") for each in TRUSTED):
        raise ConfigError(
            f"{path!r} is outside mm1, and importing it runs its code: add --trust"
            f" {module} if you trust that code"
        )
    try:
        there = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no class at {path!r} (expected 'package.module:Class'): {error}"
        ) from error
    if not (isinstance(there, type) and issubclass(there, Configurable)):
        raise ConfigError(f"{path!r} is not configurable")
    return there


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """One entry for each leaf, such as `model.connector.num_tokens` -> 144; a component
    has an entry of its own with its class path."""
    if isinstance(value, Configurable.Config):
        leaves = {prefix: path_of(value)} if prefix else {}
        for f in fields(value):
            leaves |= flatten(
                getattr(value, f.name), f"{prefix}.{f.name}".lstrip(".")
            )
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


def check_ranges(config: Configurable.Config) -> None:
    """Checks the numbers of a config and of all components in it.

    Raises:
        ConfigError: one is out of its range; the message has its key, value and range.
    """
    for key, node in _components(config):
        for f in fields(node):
            name = f"{key}.{f.name}" if key else f.name
            _check_field(type(node), f.name, getattr(node, f.name), name)


def _components(
    node: Any, key: str = ""
) -> Iterator[tuple[str, Configurable.Config]]:
    """A config and all those in it, each with its key."""
    if isinstance(node, Configurable.Config):
        yield key, node
        items = {f.name: getattr(node, f.name) for f in fields(node)}
    elif isinstance(node, dict):
        items = node
    elif isinstance(node, (list, tuple)):
        items = dict(enumerate(node))
    else:
        return
    for name, item in items.items():
        yield from _components(item, f"{key}.{name}" if key else str(name))


def _check_field(config_class: type, name: str, value: Any, key: str) -> None:
    hint = _annotated_types(config_class)[name]
    for number, wanted in out_of_range(hint, value):
        which = "" if number is value else f": {number!r}"
        rule = wanted if math.isfinite(number) else "finite"
        raise ConfigError(f"{key}={value!r}{which} must be {rule}")


@cache
def _annotated_types(config_class: type) -> dict[str, Any]:
    return get_type_hints(config_class, include_extras=True)


def to_text(config: Configurable.Config) -> str:
    """The whole config, one line for each leaf: what `mm1 show` prints and the golden
    tests compare."""
    return "".join(
        f"{key} = {value!r}\n" for key, value in flatten(config).items()
    )


def differences(
    old: Configurable.Config, new: Configurable.Config
) -> dict[str, tuple[Any, Any]]:
    """The leaves that differ: `{"model.connector": (old, new)}`, with None for a leaf
    that one side lacks."""
    a = flatten(old)
    b = flatten(new)
    return {k: (a.get(k), b.get(k)) for k in a | b if a.get(k) != b.get(k)}


def to_json(value: Any) -> Any:
    """A config, or anything inside one, as JSON; a component names its class."""
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
    """The inverse of `to_json`.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type, or a class
            that `find_class` does not find or does not trust.
    """
    if isinstance(value, dict) and "class" in value:
        component = find_class(str(value["class"]))
        return make_config(
            component,
            {k: from_json(v) for k, v in value.items() if k != "class"},
        )
    if isinstance(value, dict):
        return {k: from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(v) for v in value]
    return value


def make_config(
    component: type[Configurable], values: dict[str, Any]
) -> Configurable.Config:
    """The config of a component with these values, and defaults for the others.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type.
    """
    config_class = component.Config
    path = f"{component.__module__}:{component.__qualname__}"
    known = {f.name for f in fields(config_class)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{path} has no {key!r}{nearest(key, known)}")
    needed = {
        f.name
        for f in fields(config_class)
        if f.default is f.default_factory is MISSING
    } - values.keys()
    if needed:
        raise ConfigError(f"{path} needs {', '.join(sorted(needed))}")
    return config_class(
        **{k: as_field(config_class, k, v, k) for k, v in values.items()}
    )


def field_types(config_class: type, name: str) -> tuple[Any, ...]:
    """The alternatives of a field's annotation, type variables as their bounds."""
    hint = get_type_hints(config_class)[name]
    alternatives = (
        get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    )
    return tuple(
        (kind.__bound__ or object) if isinstance(kind, TypeVar) else kind
        for kind in alternatives
    )


def as_field(config_class: type, name: str, value: Any, key: str) -> Any:
    """A value read from JSON or the command line as a field's type has it: ints become
    floats, lists tuples and digits the keys of a dict where they must.

    Raises:
        ConfigError: it is of another type, or a number out of its range; `key` is what
            the message calls the field.
    """
    hint = get_type_hints(config_class)[name]
    value = as_type(hint, value, key)
    _check_field(config_class, name, value, key)
    return value


def as_type(hint: Any, value: Any, key: str) -> Any:
    """As `as_field` does it for the type of a field, whatever its range."""
    if isinstance(hint, TypeVar):
        hint = hint.__bound__ or object
    if is_bearable(value, hint):
        return value
    if isinstance(value, list):
        value = tuple(value)
    elif isinstance(value, dict):  # the keys of JSON are strings
        value = {
            int(k) if isinstance(k, str) and k.isdecimal() else k: item
            for k, item in value.items()
        }
    for candidate in (value, _with_floats(value)):
        if is_bearable(candidate, hint):
            return candidate
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    raise ConfigError(
        f"{key} must be {wanted.replace('typing.', '')}, not {value!r}"
    )


def _with_floats(value: Any) -> Any:
    """The same value with floats in place of ints, also inside containers."""
    if isinstance(value, tuple):
        return tuple(map(_with_floats, value))
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_int else value
