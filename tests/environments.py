"""Which packages a plain `pip install` of mm1 brings, and which only an extra does."""

import re
from functools import cache
from importlib.metadata import (
    PackageNotFoundError,
    distribution,
    packages_distributions,
)

from packaging.requirements import Requirement


def requirements_of(name: str, extra: str = "") -> list[Requirement]:
    """What an installed distribution needs here, without extras of its own; with
    `extra`, only what that one adds."""
    needed = map(Requirement, distribution(name).requires or ())
    return [
        each
        for each in needed
        if (each.marker is None or each.marker.evaluate({"extra": extra}))
        and (not extra or "extra ==" in str(each.marker))
    ]


@cache
def base_distributions() -> frozenset[str]:
    """The distributions of a plain install but for mm1 itself, by normal name."""
    found: set[str] = set()
    waiting = requirements_of("mm1")
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found:
            continue
        try:
            waiting += requirements_of(name)
            for extra in requirement.extras:
                waiting += requirements_of(name, extra)
        except PackageNotFoundError:
            continue  # an alternative that this platform does without
        found.add(name)
    return frozenset(found)


@cache
def base_modules() -> frozenset[str]:
    """The names that can be imported after a plain install."""
    return frozenset(
        module
        for module, names in packages_distributions().items()
        if base_distributions() & set(map(normal, names))
    )


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
