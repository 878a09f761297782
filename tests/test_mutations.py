"""The lists of planted faults stay current, and the tool that plants them says what
becomes of each."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mutations
import pytest


def test_every_mutation_can_be_applied() -> None:
    """Who edits a line that a list names edits the list, too."""
    planted = mutations.read_lists(mutations.ROOT)
    assert mutations.faults_of_lists(mutations.ROOT, planted) == []
    assert len(planted) >= 150


LIST = """
[[file]]
path = "mm1/sums.py"
tests = ["tests/test_sums.py"]

[[file.mutation]]
name = "a difference"
old = "return a + b"
new = "return a - b"

[[file.mutation]]
name = "the other way round"
old = "return a + b"
new = "return b + a"
survives = "a sum is the same"

[[file.mutation]]
name = "an endless sum"
old = "return a + b"
new = '''
while True:
        pass'''
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of a package with one function, its test, and three mutations."""
    shutil.copytree(
        mutations.ROOT / "tests",
        tmp_path / "tests",
        ignore=lambda folder, names: [n for n in names if n != "mutations.py"],
    )
    shutil.copy(mutations.ROOT / "pyproject.toml", tmp_path)
    for path, text in {
        "mm1/__init__.py": "",
        "mm1/sums.py": "def add(a: int, b: int) -> int:\n    return a + b\n",
        "tests/test_sums.py": "from mm1.sums import add\n\n\n"
        "def test_sum() -> None:\n    assert add(2, 3) == 5\n",
        "tests/mutations/sums.toml": LIST,
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def plant(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "tests/mutations.py", *options],
        cwd=tree,
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_faults_are_killed_survive_or_time_out_and_are_not_planted_again(
    tree: Path,
) -> None:
    before = (tree / "mm1/sums.py").read_text()
    done = plant(tree, "--slack", "1")
    assert done.returncode == 1, done.stderr
    assert "1 of 3 mutations killed" in done.stdout
    assert "timed out: mm1/sums.py: an endless sum" in done.stdout
    assert (
        "survived: mm1/sums.py: the other way round (a sum is the same)"
        in done.stdout
    )
    entries = [
        json.loads(line)
        for line in (tree / mutations.RESULTS).read_text().splitlines()
    ]
    assert entries[1]["by"] == "tests/test_sums.py::test_sum"
    assert (tree / "mm1/sums.py").read_text() == before
    again = plant(tree)
    assert "killed in" not in again.stdout
    assert "1 of 3 mutations killed" in again.stdout


def test_a_list_that_is_out_of_date_is_an_error(tree: Path) -> None:
    (tree / "mm1/sums.py").write_text("def add(a: int, b: int) -> int: ...\n")
    done = plant(tree, "--check")
    assert done.returncode == 2
    assert (
        "mm1/sums.py: a difference: its old text occurs 0 times" in done.stdout
    )
