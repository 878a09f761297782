"""A config from a stranger runs no code: classes outside mm1 are imported only from
modules that the user trusts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mm1 import config as configs
from mm1.cli import main
from mm1.config import ConfigError

PLANTED = """
from dataclasses import dataclass
from pathlib import Path

from mm1.config import Configurable

Path(__file__).with_name("ran").touch()


class Planted(Configurable):
    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        size: int = 3
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with a package that leaves a file when imported."""
    package = tmp_path / "planted_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(PLANTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(configs, "TRUSTED", ["mm1"])
    yield package
    for name in ("planted_package", "planted_package.inner"):
        sys.modules.pop(name, None)


def test_a_class_elsewhere_is_not_even_imported(planted: Path) -> None:
    for stored in (
        {"class": "planted_package.inner:Planted"},
        {
            "class": "mm1.train.trainer:Trainer",
            "benchmarks": {"a": {"class": "planted_package.inner:Planted"}},
        },
    ):
        with pytest.raises(
            ConfigError, match=r"outside mm1.* --trust planted_package\.inner"
        ):
            configs.from_json(stored)
    assert not (planted / "ran").exists()


@pytest.mark.parametrize("module", ["planted_package", "planted_package.inner"])
def test_a_trusted_package_covers_what_lies_in_it(
    planted: Path, module: str
) -> None:
    configs.trust(module)
    config = configs.from_json(
        {"class": "planted_package.inner:Planted", "size": 4}
    )
    assert config.size == 4
    assert (planted / "ran").exists()


@pytest.mark.parametrize(
    "path",
    [
        "mm1x:A",
        "mm1_planted.inner:A",
        "mm1.../planted_package:A",
        "mm1./inner:A",
        ".inner:A",
        "mm1..config:A",
        "mm1.config:",
        "mm1.config:UserError.mro",
        "mm1.config:importlib",
        "",
        ":",
        "planted_packagex.inner:Planted",
    ],
)
def test_paths_that_lead_nowhere_are_one_error(
    planted: Path, path: str
) -> None:
    configs.trust("planted_package")
    with pytest.raises(ConfigError):
        configs.find_class(path)
    assert not (planted / "ran").exists()


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "../a", "a..b", ".a"])
def test_only_a_module_can_be_trusted(planted: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--trust"):
        configs.trust(name)
    assert configs.TRUSTED == ["mm1"]


@pytest.mark.parametrize(
    "words",
    [
        ["show", "RUN"],
        ["diff", "RUN", "steps=3"],
        ["view", "RUN", "--out", "page.html"],
        ["train", "RUN/config.json", "--out", "out"],
        ["train", "miniature_pretrain", "--out", "RUN", "--resume"],
        ["train", "miniature_pretrain", "init.encoder=RUN", "--out", "out"],
        ["eval", "RUN"],
        ["export", "RUN", "--out", "out"],
        ["filter-captions", "RUN", "data", "--out", "out", "--keep", "0.5"],
        ["recaption", "RUN", "data", "--out", "out"],
        ["import", "EXPORTED", "--out", "out"],
    ],
    ids=" ".join,
)
def test_no_command_imports_what_a_downloaded_folder_names(
    words: list[str],
    planted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "planted_package.inner:Planted"
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-00000001"
    checkpoint.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"class": path}))
    (run / "tokenizer.json").write_text("{}")
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "config.json").write_text('{"model_type": "mm1"}')
    (exported / "mm1.json").write_text(
        json.dumps({"model": {"class": path}, "tokenizer": {}})
    )
    save_file({"a": torch.ones(2)}, exported / "model.safetensors")
    places = {"RUN": run, "EXPORTED": exported}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mm1", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("mm1: ")
    assert said.count("\n") == 1
    assert "add --trust planted_package.inner if you trust" in said
    assert not (planted / "ran").exists()


@pytest.mark.slow
def test_trust_on_the_command_line(tmp_path: Path) -> None:
    """The module lies in the working directory, from which `python -m` imports."""
    (tmp_path / "planted.py").write_text(PLANTED)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"class": "planted:Planted"}))
    root = str(Path(configs.__file__).parents[1])
    for words, runs in (([], False), (["--trust", "planted"], True)):
        done = subprocess.run(
            [sys.executable, "-m", "mm1.cli", "show", "config.json", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert (tmp_path / "ran").exists() == runs
