"""The contract of labelled images, for every file in `mm1/eval/classes`."""

import dataclasses
import inspect
import json
import pickle
import pkgutil
from pathlib import Path

import pytest
import tiny
from components import classes_in

from mm1 import config as configs
from mm1 import miniature
from mm1.config import ConfigError
from mm1.data.image_processing import ImageError, decode_image
from mm1.eval import classes
from mm1.eval.classes import Classes
from mm1.eval.classes.folders import Folders
from mm1.miniature.classes import MiniatureClasses

ANIMALS = ("ant", "bee", "cat")


def every_data_set() -> list[type[Classes]]:
    return classes_in(Classes, classes, miniature)


@pytest.fixture(params=every_data_set(), ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Classes]:
    return request.param


def test_every_file_holds_one() -> None:
    files = {m.name for m in pkgutil.iter_modules(classes.__path__)}
    owners = classes_in(Classes, classes)
    assert {owner.__module__.rpartition(".")[2] for owner in owners} == files


def test_its_config_is_text_and_back(cls: type[Classes]) -> None:
    config = cls.Config()
    assert (
        configs.from_json(json.loads(json.dumps(configs.to_json(config))))
        == config
    )
    assert pickle.loads(pickle.dumps(config)) == config


def test_it_has_a_docstring(cls: type[Classes]) -> None:
    assert inspect.getdoc(cls) or inspect.getmodule(cls).__doc__  # type: ignore[union-attr]


def test_it_has_labelled_images_or_names_the_option_that_is_missing(
    cls: type[Classes],
) -> None:
    """A data set that needs files must say by which option it is told where they
    are."""
    data = cls.Config().build()
    options = [f"data.{f.name}" for f in dataclasses.fields(cls.Config)]
    missing = ""
    test = train = ()
    try:
        test, train = (data.records(split) for split in ("test", "train"))
    except (ConfigError, FileNotFoundError) as error:
        missing = str(error)
    if missing:
        assert any(option in missing for option in options)
        return
    assert len(set(data.names)) == len(data.names) >= 2
    assert not set(map(repr, test)) & set(map(repr, train))
    for record in (test[0], test[-1], train[0]):
        labelled = data.labelled_image(record)
        assert 0 <= labelled.label < len(data.names)
        assert labelled.id
        height, width = decode_image(labelled.image.data).shape[1:]
        assert (width, height) == (labelled.image.width, labelled.image.height)


def folders(root: Path) -> Path:
    for n, name in enumerate(ANIMALS):
        (root / name).mkdir(parents=True)
        (root / name / f"{n}.png").write_bytes(tiny.picture(n).data)
    return root


def test_class_names_can_be_given(tmp_path: Path) -> None:
    root = folders(tmp_path / "zoo")
    names = tmp_path / "names.json"
    names.write_text(json.dumps({c: f"the {c}" for c in ANIMALS}))
    assert Folders.Config(test=str(root), names=str(names)).build().names == [
        f"the {c}" for c in ANIMALS
    ]
    (root / "sea_lion").mkdir()
    assert Folders.Config(test=str(root)).build().names[-1] == "sea lion"
    with pytest.raises(ValueError, match="lacks sea_lion"):
        _ = Folders.Config(test=str(root), names=str(names)).build().names


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    root = folders(tmp_path / "zoo")

    def records(test: Path) -> None:
        Folders.Config(test=str(test)).build().records("test")

    with pytest.raises(
        ConfigError, match=r"data\.test is empty: name a folder"
    ):
        Folders.Config().build().records("test")
    with pytest.raises(
        FileNotFoundError, match=r"data\.test: there is no folder .*/zo$"
    ):
        records(tmp_path / "zo")
    with pytest.raises(
        ConfigError, match="holds 0 folders; at least two classes"
    ):
        records(root / "ant")
    for name in ("a", "b"):
        (tmp_path / "empty" / name).mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"no folder of .*empty holds an image"
    ):
        records(tmp_path / "empty")
    both = Folders.Config(test=str(root), train=str(tmp_path / "empty")).build()
    with pytest.raises(
        ConfigError,
        match=r"data\.train and data\.test differ in the classes a, ant",
    ):
        both.records("train")
    (root / "bee" / "00.jpg").write_bytes(b"not an image")
    data = Folders.Config(test=str(root)).build()
    with pytest.raises(ImageError, match=r"bee/00\.jpg"):
        [data.labelled_image(record) for record in data.records("test")]


def test_the_classes_of_a_miniature_task_are_its_answers() -> None:
    data = MiniatureClasses.Config(
        task="shape", num_test=9, num_train=5
    ).build()
    assert list(data.names) == ["circle", "square", "triangle", "cross", "ring"]
    test, train = (
        [data.labelled_image(r) for r in data.records(split)]
        for split in ("test", "train")
    )
    assert (len(test), len(train)) == (9, 5)
    assert not {each.image.data for each in test} & {
        each.image.data for each in train
    }
    with pytest.raises(
        ConfigError, match="no task 'shapes'; did you mean 'shape'"
    ):
        MiniatureClasses.Config(task="shapes").build()
