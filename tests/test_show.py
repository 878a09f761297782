"""`mm1 show` explains what it prints; -q leaves keys and values alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from mm1 import cli
from mm1.catalog import all_recipes, recipe
from mm1.config import flatten, to_text
from mm1.field_docs import explanations

CONTAINERS = ("benchmarks", "loader.sources", "loader.weights", "init")
"""Their docstrings stand at the first of their entries."""


@pytest.mark.parametrize("name", sorted(all_recipes()))
def test_every_field_of_a_recipe_is_explained(name: str) -> None:
    config = recipe(name)
    known = explanations(config)
    bare = [
        key
        for key in flatten(config)
        if key not in known
        and not any(key.startswith(f"{each}.") for each in CONTAINERS)
    ]
    assert not bare


def test_an_explanation_is_the_docstring_below_the_field() -> None:
    known = explanations(recipe("pretrain_3b"))
    assert known["steps"] == "0: the weights were imported, not trained."
    assert known["optimizer.max_grad_norm"].startswith("Gradients are clipped")
    assert known["loader.sources.interleaved"].startswith("Name -> folder")
    assert "locality of patches" in known["model.connector"]


@pytest.fixture
def quiet_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MM1_QUIET", "MM1_VERBOSE"):
        monkeypatch.setenv(name, "")


def out(
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("quiet_again")
def test_show_is_the_config_with_comments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = out("mm1 show sft_small steps=7", monkeypatch, capsys)
    bare = [
        line
        for line in shown.splitlines()
        if line and not line.startswith("# ")
    ]
    config = recipe("sft_small")
    config.steps = 7
    assert bare == to_text(config).splitlines()
    assert max(map(len, shown.splitlines())) <= max(88, *map(len, bare))
    for command in ("mm1 -q show sft_small", "mm1 show sft_small --quiet"):
        monkeypatch.setenv("MM1_QUIET", "")
        quiet = out(command, monkeypatch, capsys)
        assert quiet == to_text(recipe("sft_small"))


@pytest.mark.usefixtures("quiet_again")
@pytest.mark.parametrize(
    "words", ["-v show nothing_of_it", "show nothing_of_it"]
)
def test_verbose_shows_where_an_error_arose(
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["mm1", *words.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert ("Traceback" in said) == words.startswith("-v")
    assert said.endswith("shows all\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mm1 tr", {"train"}),
        ("mm1 train pretrain_sm", {"pretrain_small"}),
        ("mm1 train pretrain_small --res", {"--resume"}),
        ("mm1 prepare interl", {"interleaved"}),
        ("mm1 study lesso", {"lessons"}),
    ],
)
def test_bash_completes(typed: str, offered: set[str], script: Path) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash")
    words = typed.split()
    asked = (
        f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1};"
        f" COMP_LINE='{typed}'; COMP_POINT={len(typed)};"
        f" _shtab_mm1 mm1 {words[-1]} {words[-2]};"
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", asked],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {word.strip() for word in done.stdout.split()} == offered


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab", reason="pip install 'mm1[completion]'")
    path = tmp_path_factory.mktemp("completion") / "mm1.bash"
    done = forked.run(["completion", "bash"], tmp_path_factory.getbasetemp())
    assert done.returncode == 0, done.stderr
    path.write_text(done.stdout)
    return path
