"""Typed configs on small classes: text, differences and JSON."""

import pickle
from dataclasses import dataclass, field
from typing import Literal

import pytest

from mm1 import config as configs
from mm1.config import ConfigError, Configurable


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
