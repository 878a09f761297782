"""`a.b=value`, on the small classes of test_config and on real recipes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pytest
from test_config import Engine, Turbine, car

from mm1 import config as configs
from mm1.catalog import recipe
from mm1.config import ConfigError, Configurable
from mm1.eval.benchmarks import Benchmark
from mm1.eval.benchmarks.coco import Coco
from mm1.eval.classes import Classes
from mm1.eval.classes.folders import Folders
from mm1.eval.evaluator import Evaluator
from mm1.eval.probe import Probe
from mm1.loader.loader import Loader
from mm1.loader.pairs import PairLoader
from mm1.miniature.benchmarks import Miniature
from mm1.nn import connectors
from mm1.nn.connectors import Connector
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.vit import ViT
from mm1.overrides import component_names, find_component, override
from mm1.prepare import sources
from mm1.prepare.sources import Source
from mm1.prepare.sources.text import Texts
from mm1.train.optimizers import Optimizer
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import Scheduler, WarmupCosine


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "TRUSTED", ["mm1", "test_config", __name__])


@pytest.mark.parametrize(
    ("assignment", "read"),
    [
        ("engine.power=7", lambda c: c.engine.power == 7),
        ("speed=2", lambda c: c.speed == 2.0 and isinstance(c.speed, float)),
        ("name=12", lambda c: c.name == "12"),
        ("sizes=[4,5]", lambda c: c.sizes == (4, 5)),
        ("limit=9", lambda c: c.limit == 9),
        ("limit=None", lambda c: c.limit is None),
        (
            "origins.encoder=runs/clip",
            lambda c: c.origins == {"encoder": "runs/clip"},
        ),
        ("engine=test_config:Turbine", lambda c: c.engine.owner is Turbine),
        ("engine=turbine", lambda c: c.engine.owner is Turbine),
        ("engine=Turbine", lambda c: c.engine.owner is Turbine),
        ("spare.back=turbine", lambda c: c.spare["back"].owner is Turbine),
        ("sail=turbine", lambda c: c.sail == Turbine.Config()),
        ("second=None", lambda c: c.second is None),
        ("engine.fuel=wind", lambda c: c.engine.fuel == "wind"),
    ],
)
def test_an_assignment_changes_one_key(assignment: str, read) -> None:
    changed = car()
    override(changed, assignment)
    assert read(changed)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "engine.pwer=7",
            "no key 'engine.pwer'; did you mean 'engine.power'[?]",
        ),
        (
            "engin.power=7",
            "no key 'engin.power'; did you mean 'engine.power'[?]",
        ),
        ("power=7", "did you mean .*'engine.power'.* or "),
        (
            "spare.bak.power=3",
            r"no key 'spare.bak' \(spare.bak=NAME adds it\); known:",
        ),
        ("x=3", "no key 'x'; known: engine, limit, name"),
        ("engine.power=fast", "engine.power must be int, not 'fast'"),
        ("limit=fast", r"limit must be int \| None, not 'fast'"),
        ("engine.fuel=coal", "coal"),
        ("engine.power", "key=value"),
        ("engine=test_config:Nothing", "no class"),
        ("engine=json:JSONDecoder", "outside mm1.* add --trust json if you"),
        ("engine=mm1.config:UserError", "not configurable"),
        ("engine=test_config:Boat", "engine: test_config:Boat is no Engine"),
        ("engine=turbin", "engine: no Engine 'turbin'; did you mean 'turbine'"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest(
    assignment: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        override(car(), assignment)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("batch_size", "'loader.batch_size'"),
        ("loader.bach_size", "'loader.batch_size'"),
        ("model.loader.batch_size", "'loader.batch_size'"),
        ("lr", "'optimizer.peak_lr', 'optimizer.lr_factors' or"),
        ("model.conector.num_tokens", "'model.connector.num_tokens'?"),
        ("warmup", "'scheduler.warmup_steps'"),
    ],
)
def test_a_wrong_key_leads_to_the_right_one(key: str, options: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(recipe("pretrain_small"), f"{key}=4")
    assert str(error.value).startswith(f"no key {key!r}; did you mean ")
    assert options in str(error.value)


def test_at_most_five_keys_are_named() -> None:
    """Nine components of `miniature_pretrain` have a key `seed`."""
    run = recipe("miniature_pretrain")
    override(run, "benchmarks={}")
    for name in "abcdefgh":
        override(run, f"benchmarks.{name}=miniature")
    with pytest.raises(ConfigError) as error:
        override(run, "max_tokens=4")
    assert str(error.value).count(".max_tokens") == 5


@pytest.mark.parametrize(
    ("role", "name", "component"),
    [
        (Connector, "average_pool", AveragePool),
        (Connector, "AveragePool", AveragePool),
        (Connector, "mm1.nn.connectors.average_pool:AveragePool", AveragePool),
        (Evaluator, "coco", Coco),
        (Benchmark, "coco", Coco),
        (Evaluator, "probe", Probe),
        (Evaluator, "miniature", Miniature),
        (Classes, "folders", Folders),
        (Source, "text", Texts),
        (Optimizer, "adamw", AdamW),
        (Scheduler, "warmup_cosine", WarmupCosine),
        (Loader, "pair_loader", PairLoader),
        (ViT, "vit", ViT),
    ],
)
def test_short_names_are_those_of_files_and_classes(
    role: type, name: str, component: type
) -> None:
    assert find_component(role, name) is component


@pytest.mark.parametrize(
    ("role", "name", "message"),
    [
        (
            Connector,
            "averge_pool",
            "no Connector 'averge_pool'; did you mean 'average",
        ),
        (
            Connector,
            "coco",
            "no Connector 'coco'; known: attention_pool, average_pool",
        ),
        (Connector, "Connector", "no Connector 'Connector'"),
        (Connector, "mm1.nn.vit:ViT", "mm1.nn.vit:ViT is no Connector"),
        (Evaluator, "folders", "no Evaluator 'folders'"),
    ],
)
def test_an_unknown_component_names_the_nearest(
    role: type, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_component(role, name)


def test_only_what_implements_a_role_has_a_short_name() -> None:
    """Neither the role nor a base that leaves a method to its subclasses."""
    files = {path.stem for path in Path(sources.__path__[0]).glob("[!_]*.py")}
    assert set(component_names(Source)) == files
    benchmarks = component_names(Evaluator)
    assert {
        "coco",
        "vqa",
        "probe",
        "zero_shot_classification",
        "miniature",
    } <= set(benchmarks)
    assert not {"evaluator", "benchmark", "annotated", "captions"} & set(
        benchmarks
    )


def test_a_short_name_is_stored_in_full() -> None:
    run = recipe("pretrain_small")
    override(run, "model.connector=average_pool")
    assert configs.to_json(run)["model"]["connector"]["class"] == (
        "mm1.nn.connectors.average_pool:AveragePool"
    )
    override(run, "benchmarks.coco=coco")
    override(run, "benchmarks.coco.images=data/coco")
    assert configs.flatten(run)["benchmarks.coco.images"] == "data/coco"
    override(run, "benchmarks.digits=probe")
    override(run, "benchmarks.digits.data=miniature_classes")
    assert configs.from_json(configs.to_json(run)) == run


Motor = TypeVar("Motor", bound=Engine.Config)


class Ship(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config, Generic[Motor]):
        motor: Motor
        spare: Motor | None = None


def test_a_field_may_have_a_type_variable() -> None:
    ship = Ship.Config(motor=Engine.Config())
    for assignment in ("motor=turbine", "motor.power=5", "spare=engine"):
        override(ship, assignment)
    assert configs.from_json(configs.to_json(ship)) == ship
    assert ship.motor == Turbine.Config(power=5)
    assert ship.spare == Engine.Config()
    override(ship, "spare=None")
    assert ship.spare is None
    with pytest.raises(ConfigError, match="motor: no Engine 'None'"):
        override(ship, "motor=None")


OWN = """
from mm1.nn.connectors.average_pool import AveragePool

class Mine(AveragePool):
    '''Mine alone.'''

class Other(AveragePool):
    '''In the same file.'''
"""


def test_a_file_that_is_added_to_an_open_folder_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(
        connectors, "__path__", [*connectors.__path__, str(tmp_path)]
    )
    run = recipe("pretrain_small")
    override(run, "model.connector=other")
    assert configs.path_of(run.model.connector) == "mm1.nn.connectors.own:Other"  # type: ignore[attr-defined]
    assert {"Mine", "Other"} <= component_names(Connector).keys()
    message = (
        r"'own' is ambiguous; write mm1.nn.connectors.own:Mine or .*:Other"
    )
    with pytest.raises(ConfigError, match=message):
        override(run, "model.connector=own")
    sys.modules.pop("mm1.nn.connectors.own")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "loader.weights={'captions': 1, 'text': 2}",
            {"captions": 1.0, "text": 2.0},
        ),
        ("optimizer.betas=(0, 0.5)", (0.0, 0.5)),
        ("loader.schedule={5: {'text': 1}}", {5: {"text": 1.0}}),
    ],
)
def test_whole_numbers_are_floats_inside_containers_too(
    text: str, value: object
) -> None:
    config = recipe("pretrain_small")
    override(config, text)
    part, name = text.partition("=")[0].split(".")
    assert repr(getattr(getattr(config, part), name)) == repr(value)
