"""`a.b=value` on the command line: a key of a config is set, a component is swapped.

    loader.batch_size=4              a value, which must be of the field's type
    model.connector=average_pool     another class, with its default options
    lora=None                        no component, where the field may be empty

A component goes by the name of its class (`AveragePool`, `average_pool`) or, in an open
folder, of its file. Which folder is searched follows from the field's type: the
`Connector.Config` of `model.connector` leads to the package of `Connector`. Any other
class is `package.module:Class`, which is also what `config.json` keeps.
"""

import ast
import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from types import ModuleType, NoneType
from typing import Any, TypeVar, get_args, get_origin

from mm1.config import (
    ConfigError,
    Configurable,
    as_field,
    as_type,
    check_ranges,
    field_types,
    find_class,
    flatten,
    make_config,
    nearest,
)

MINIATURE = "mm1.miniature"
"""A package with components of several roles, searched after a role's own."""
MOST_CANDIDATES = 5
"""Keys named in an error message."""

Role = TypeVar("Role", bound=Configurable)


def override(config: Configurable.Config, assignment: str) -> None:
    """Applies one `a.b=value` to a config.

    Raises:
        ConfigError: the key or the component does not exist (the message names the
            nearest), the value has the wrong type, or a number is out of its range.
    """
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(
            f"{assignment!r} is not an assignment; write key=value"
        )
    *parents, name = key.split(".")
    holder: Any = config
    types: tuple[Any, ...] = ()
    for depth, parent in enumerate(parents):
        types = _types_of(holder, parent)
        holder = _child(config, key, holder, depth)
    if isinstance(holder, dict):
        _set_item(holder, types, name, text, key)
        check_ranges(config)
        return
    old = _child(config, key, holder, len(parents))
    types = _types_of(holder, name)
    if text == "None" and NoneType in types:
        new = None
    elif (role := _role_among(types)) is not None:
        new = default_config(role, text, key)
    else:
        new = as_field(type(holder), name, _parse(text, old), key)
    setattr(holder, name, new)


def default_config(role: type[Role], name: str, key: str = "") -> Any:
    """The config of a component with its default options; see `find_component`."""
    return make_config(find_component(role, name, key), {})


def find_component(role: type[Role], name: str, key: str = "") -> type[Role]:
    """The class that plays a role, by a short name or as `package.module:Class`.

    Raises:
        ConfigError: there is no such class, or it plays another role; the message
            starts with `key` if there is one.
    """
    prefix = f"{key}: " if key else ""
    if ":" in name:
        component = find_class(name)
        if not issubclass(component, role):
            raise ConfigError(f"{prefix}{name} is no {role.__name__}")
        return component
    for package in _packages(role):
        matches = [
            each
            for each in _components(role, package)
            if name in _short_names(each)
        ]
        if matches:
            break
    else:
        known = nearest(name, component_names(role))
        raise ConfigError(f"{prefix}no {role.__name__} {name!r}{known}")
    if len(matches) > 1:
        paths = " or ".join(
            f"{each.__module__}:{each.__name__}" for each in matches
        )
        raise ConfigError(f"{prefix}{name!r} is ambiguous; write {paths}")
    return matches[0]


def component_names(role: type[Role]) -> dict[str, type[Role]]:
    """Every class that plays a role, by its short name."""
    components = [
        each
        for package in _packages(role)
        for each in _components(role, package)
    ]
    firsts = [_short_names(each)[0] for each in components]
    return {
        first if firsts.count(first) == 1 else each.__name__: each
        for first, each in zip(firsts, components, strict=True)
    }


def _packages(role: type[Configurable]) -> list[str]:
    """The package that defines a role, then the miniature: it is imported only for what
    the other does not have."""
    own = importlib.import_module(role.__module__)
    is_package = hasattr(own, "__path__")
    folder = (
        role.__module__ if is_package else role.__module__.rpartition(".")[0]
    )
    return list(dict.fromkeys((folder or role.__module__, MINIATURE)))


def _components(role: type[Role], package: str) -> Iterator[type[Role]]:
    """The classes of a package that implement a role."""
    for module in _modules(package):
        for each in vars(module).values():
            if (
                isinstance(each, type)
                and issubclass(each, role)
                and each.__module__ == module.__name__
                and not each.__name__.startswith("_")
                and not _is_abstract(each)
            ):
                yield each


def _modules(package: str) -> Iterator[ModuleType]:
    """A package and its files."""
    own = importlib.import_module(package)
    yield own
    for file in pkgutil.walk_packages(
        getattr(own, "__path__", ()), f"{package}."
    ):
        yield importlib.import_module(file.name)


def _is_abstract(component: type) -> bool:
    """Does it leave a method of its role to subclasses, as `raise NotImplementedError`
    says?"""
    codes = (
        getattr(inspect.unwrap(member), "__code__", None)
        for _, member in inspect.getmembers(component, inspect.isfunction)
    )
    return any(
        code and code.co_names == ("NotImplementedError",) for code in codes
    )


def _short_names(component: type) -> list[str]:
    """The first is the one that is shown: the file's where the folder's `__init__`
    defines a role."""
    name = component.__name__
    names = [re.sub("(?<=.)(?=[A-Z][a-z])", "_", name).lower(), name]
    folder, _, file = component.__module__.rpartition(".")
    if any(base.__module__ == folder for base in component.__mro__):
        names.insert(0, file)
    return names


def _types_of(holder: Any, name: str) -> tuple[Any, ...]:
    """The alternatives of a field's type; nothing for what is no field."""
    if not isinstance(holder, Configurable.Config) or name not in _children(
        holder
    ):
        return ()
    return field_types(type(holder), name)


def _role_among(types: Sequence[Any]) -> type[Configurable] | None:
    """The role whose configs are among a field's types."""
    for kind in types:
        plain = get_origin(kind) or kind
        if isinstance(plain, type) and issubclass(plain, Configurable.Config):
            return plain.owner
    return None


def _set_item(
    holder: dict[Any, Any], types: Sequence[Any], name: str, text: str, key: str
) -> None:
    kind, item = get_args(types[0]) if types else (str, object)
    at = as_type(int, _parse(name, None), key) if kind is int else name
    if (role := _role_among((item,))) is not None:
        holder[at] = default_config(role, text, key)
    else:
        value = _parse(text, "" if item is str else holder.get(at))
        holder[at] = as_type(item, value, key)


def _parse(text: str, old: Any) -> Any:
    """A Python literal where the text is one, else the text itself; the value of a
    string field is the text as it stands."""
    if isinstance(old, str) and text != "None":
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text, text)


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, dict):
        return {str(k): v for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return {str(i): v for i, v in enumerate(node)}
    if isinstance(node, Configurable.Config):
        return {f.name: getattr(node, f.name) for f in fields(node)}
    return {}


def _child(config: Configurable.Config, key: str, node: Any, depth: int) -> Any:
    """What `node` has at the part of a key that lies `depth` parts deep.

    Raises:
        ConfigError: it has nothing there; the closest keys of the whole config, or else
            all of `node`, are named.
    """
    parts = key.split(".")
    children = _children(node)
    if parts[depth] in children:
        return children[parts[depth]]
    missing = ".".join(parts[: depth + 1])
    if isinstance(node, dict):
        remedy = f" ({missing}=NAME adds it)" if parts[depth + 1 :] else ""
        near = nearest(parts[depth], children)
        raise ConfigError(f"no key {missing!r}{remedy}{near}")
    if not (closest := _closest_keys(key, list(flatten(config)))):
        siblings = [".".join((*parts[:depth], child)) for child in children]
        names = difflib.get_close_matches(
            parts[depth], children, n=1, cutoff=0.5
        )
        closest = [key for key in siblings if key.rpartition(".")[2] in names]
    if not closest:
        raise ConfigError(
            f"no key {missing!r}{nearest(parts[depth], children)}"
        )
    *others, last = map(repr, closest)
    options = f"{', '.join(others)} or {last}" if others else last
    raise ConfigError(f"no key {key!r}; did you mean {options}?")


def _closest_keys(key: str, known: Sequence[str]) -> list[str]:
    """The known keys that a wrong one may stand for, the closest first: nearly the same
    key, or else keys whose last part is the same, similar, or has the same words."""
    name = key.rpartition(".")[2]
    names = {each: each.rpartition(".")[2] for each in known}
    words = set(name.split("_"))
    closest = (
        difflib.get_close_matches(key, known, n=1, cutoff=0.95)
        or [each for each in known if names[each] == name]
        or difflib.get_close_matches(key, known, n=1, cutoff=0.85)
        or [each for each in known if _likeness(names[each], name) > 0.75]
        or [each for each in known if words <= set(names[each].split("_"))]
    )
    closest.sort(key=lambda each: _likeness(each, key), reverse=True)
    return closest[:MOST_CANDIDATES]


def _likeness(a: str, b: str) -> float:
    """As difflib ranks close matches: from 0 to 1, of equal strings."""
    return difflib.SequenceMatcher(None, a, b).ratio()
