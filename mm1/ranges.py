"""The range of each number in a config, declared with its type:

    steps: PositiveInt = 200_000
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.95)

`mm1.config` checks it wherever a value is set (on the command line, in a config.json)
and again whenever something is built.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from `low` to `high`, or between them where an end is open."""

    low: int | float = -math.inf
    high: int | float = math.inf
    low_is_open: bool = False
    high_is_open: bool = False

    def __contains__(self, value: int | float) -> bool:
        return (
            not isinstance(value, bool)
            and (isinstance(value, int) or math.isfinite(value))
            and (self.low < value if self.low_is_open else self.low <= value)
            and (value < self.high if self.high_is_open else value <= self.high)
        )

    def __str__(self) -> str:
        low = f"{'above' if self.low_is_open else 'at least'} {self.low}"
        high = f"{'below' if self.high_is_open else 'at most'} {self.high}"
        if math.isinf(self.low) and math.isinf(self.high):
            return "a finite number"
        if math.isinf(self.high):
            return low
        return high if math.isinf(self.low) else f"{low} and {high}"


AnyFloat: TypeAlias = Annotated[float, Range()]
PositiveInt: TypeAlias = Annotated[int, Range(1)]
NonNegativeInt: TypeAlias = Annotated[int, Range(0)]
PositiveFloat: TypeAlias = Annotated[float, Range(0, low_is_open=True)]
NonNegativeFloat: TypeAlias = Annotated[float, Range(0)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
PositiveShare: TypeAlias = Annotated[float, Range(0, 1, low_is_open=True)]
ShareBelowOne: TypeAlias = Annotated[float, Range(0, 1, high_is_open=True)]
Seed: TypeAlias = Annotated[int, Range(0, 2**31 - 1)]
"""Small enough to be multiplied by the number of a step."""


def out_of_range(hint: Any, value: Any) -> Iterator[tuple[Any, Range]]:
    """The numbers of a field's value that lie outside, each with its range; `hint` is
    the field's type with its annotations."""
    kind = get_origin(hint)
    arguments = get_args(hint)
    if kind is Annotated and isinstance(value, (int, float)):
        for wanted in arguments[1:]:
            if isinstance(wanted, Range) and value not in wanted:
                yield value, wanted
    elif kind in (Union, UnionType):
        for each in arguments:
            yield from out_of_range(each, value)
    elif kind is dict and isinstance(value, dict):
        for key, item in value.items():
            yield from out_of_range(arguments[0], key)
            yield from out_of_range(arguments[1], item)
    elif kind is tuple and isinstance(value, tuple):
        each = arguments[:1] * len(value) if ... in arguments else arguments
        for inner, item in zip(each, value, strict=False):
            yield from out_of_range(inner, item)
