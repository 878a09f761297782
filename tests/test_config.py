"""Typed configs on small classes: text, differences and JSON."""

import copy
import importlib
import json
import pickle
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest

import mm1
from mm1 import config as configs
from mm1.config import ConfigError, Configurable
from mm1.overrides import override
from mm1.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Share,
)


class Engine(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        power: int = 3
        fuel: Literal["gas", "wind"] = "gas"

        def build(self, *, wheels: int) -> "Engine":
            return self.make(wheels=wheels)

    def __init__(self, config: Config, *, wheels: int) -> None:
        self.config = config
        self.wheels = wheels


class Turbine(Engine):
    pass


class Car(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        engine: Engine.Config = field(default_factory=Engine.Config)
        speed: float = 1.5
        name: str = "car"
        sizes: tuple[int, ...] = (1, 2)
        limit: int | None = None
        sail: Turbine.Config | None = None
        second: Turbine.Config | None = field(default_factory=Turbine.Config)
        origins: dict[str, str] = field(default_factory=dict)
        spare: dict[str, Engine.Config] = field(default_factory=dict)


class Boat(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        length: float
        sails: int = 1


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "TRUSTED", ["mm1", __name__])


def car() -> Car.Config:
    return Car.Config(spare={"front": Engine.Config(power=4)})


def test_text_has_a_line_for_each_leaf() -> None:
    assert configs.to_text(car()).splitlines()[:3] == [
        "engine = 'test_config:Engine'",
        "engine.power = 3",
        "engine.fuel = 'gas'",
    ]
    assert "spare.front.power = 4" in configs.to_text(car())


def test_differences_name_what_a_variant_changes() -> None:
    other = car()
    other.engine.power = 5
    other.spare["back"] = Engine.Config()
    changed = configs.differences(car(), other)
    assert changed["engine.power"] == (3, 5)
    assert {k.split(".")[0] for k in changed} == {"engine", "spare"}


def test_json_and_pickle_bring_back_the_same() -> None:
    for again in (
        configs.from_json(configs.to_json(car())),
        pickle.loads(pickle.dumps(car())),
    ):
        assert again == car()
        assert isinstance(again.sizes, tuple)


def test_an_unknown_key_in_a_file_is_an_error() -> None:
    stored = configs.to_json(car()) | {"sped": 3}
    with pytest.raises(ConfigError, match="did you mean 'speed'"):
        configs.from_json(stored)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"class": 3}, "no class at '3'"),
        ({"class": "test_config:Boat"}, "test_config:Boat needs length"),
        (
            {"class": "test_config:Boat", "length": "long"},
            "length must be float, not 'long'",
        ),
    ],
)
def test_what_makes_no_config_is_named(stored: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.from_json(stored)


def test_building_does_not_share_the_config() -> None:
    config = Engine.Config()
    engine = config.build(wheels=4)
    config.power = 9
    assert (engine.config.power, engine.wheels) == (3, 4)


def test_a_config_without_slots_is_refused() -> None:
    with pytest.raises(TypeError, match="slots"):

        class Loose(Configurable):
            @dataclass
            class Config(Configurable.Config):
                x: int = 1


def test_a_trainer_takes_only_models_as_its_model() -> None:
    """Its type is a variable, which stands for its bound."""
    with pytest.raises(ConfigError, match=r"^model must be Config, not 3"):
        configs.from_json({"class": "mm1.train.trainer:Trainer", "model": 3})


# --- ranges


class Boiler(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        fires: PositiveInt = 1
        fill: Annotated[float, Range(0, 1, high_is_open=True)] = 0.5
        valves: tuple[NonNegativeFloat, ...] = ()
        limit: PositiveFloat | None = None
        areas: dict[str, NonNegativeFloat] = field(default_factory=dict)
        steps: dict[NonNegativeInt, dict[str, Share]] = field(
            default_factory=dict
        )
        size: PositiveInt | tuple[PositiveInt, PositiveInt] = 3

        def build(self) -> "Boiler":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config


class Works(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        boilers: dict[str, Boiler.Config] = field(default_factory=dict)
        main: Boiler.Config = field(default_factory=Boiler.Config)

        def build(self) -> "Works":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config


OUT_OF_RANGE = {
    "fires": (0, r"fires=0 must be at least 1"),
    "fill": (1.0, r"fill=1\.0 must be at least 0 and below 1"),
    "valves": (
        (0.0, -1.0),
        r"valves=\(0\.0, -1\.0\): -1\.0 must be at least 0",
    ),
    "limit": (0.0, r"limit=0\.0 must be above 0"),
    "areas": ({"a": -0.5}, r"areas=\{'a': -0\.5\}: -0\.5 must be at least 0"),
    "steps": (
        {3: {"a": 2.0}},
        r"steps=.*: 2\.0 must be at least 0 and at most 1",
    ),
    "size": ((4, 0), r"size=\(4, 0\): 0 must be at least 1"),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_wherever_it_is_set(name: str) -> None:
    value, message = OUT_OF_RANGE[name]
    works = Works.Config(boilers={"left": Boiler.Config()})
    with pytest.raises(ConfigError, match=message):
        override(copy.deepcopy(works), f"boilers.left.{name}={value}")
    stored = configs.to_json(works)
    stored["boilers"]["left"][name] = value
    with pytest.raises(ConfigError, match=message):
        configs.from_json(json.loads(json.dumps(stored)))
    setattr(works.boilers["left"], name, value)
    with pytest.raises(ConfigError, match=rf"^boilers\.left\.{message}"):
        works.build()


@pytest.mark.parametrize(
    "assignment",
    [
        "main.limit=1e999",
        "main.limit=-1e999",
        "main.fires=True",
        "main.areas.x=-1",
        "main.steps.-3={}",
        "main.steps.often={}",
    ],
)
def test_neither_infinities_nor_booleans_nor_items_pass(
    assignment: str,
) -> None:
    with pytest.raises(ConfigError, match=assignment.partition("=")[0][5:9]):
        override(Works.Config(), assignment)


def test_an_item_has_the_type_of_its_dict() -> None:
    works = Works.Config()
    with pytest.raises(ConfigError, match=r"main\.areas\.x must be float"):
        override(works, "main.areas.x=wide")
    override(works, "main.areas.x=1")
    assert works.main.areas == {"x": 1.0}


def numbers_without_range(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is Annotated:
        kind, *metadata = get_args(hint)
        if not any(isinstance(each, Range) for each in metadata):
            yield from numbers_without_range(kind)
    elif hint in (int, float):
        yield hint
    else:
        for each in get_args(hint) if get_origin(hint) is not Literal else ():
            yield from numbers_without_range(each)


def every_config() -> list[type[Configurable]]:
    for module in pkgutil.walk_packages(mm1.__path__, "mm1."):
        if not module.name.startswith(
            ("mm1.export.remote.", "mm1.harness.", "mm1.cli.")
        ):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name != "datatrove":  # an extra
                    raise
    waiting = [Configurable]
    for cls in waiting:
        waiting += [
            each for each in cls.__subclasses__() if each not in waiting
        ]
    return [cls for cls in waiting if cls.__module__.startswith("mm1.")]


def test_every_number_of_every_config_has_a_range() -> None:
    found = every_config()
    assert len(found) > 50
    missing = [
        f"{configs.path_of(cls.Config)} {name}"  # type: ignore[arg-type]
        for cls in found
        for name, hint in get_type_hints(
            cls.Config, include_extras=True
        ).items()
        if list(numbers_without_range(hint))
    ]
    assert missing == []
