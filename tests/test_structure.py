"""The budgets of the code are kept, and it would be noticed if they were not."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "structure.py"


def check(package: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--check",
        "--package",
        str(package),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


LONG = "def long():\n" + "    x = 1\n" * 31
FIT = "def fit():\n" + "    x = 1\n" * 60

PLANTED = {
    "a function of 31 statements": (
        {"a.py": LONG},
        "a.py:1 long: 31 statements",
    ),
    "a file of 221 statements": (
        {"a.py": "x = 1\n" * 221},
        "a.py: 221 statements",
    ),
    "a file of 401 lines": ({"a.py": "\n" * 401}, "a.py: 401 lines"),
    "two assignments": ({"a.py": "x, y = 1, 2\n"}, "a.py:1: several things"),
    "attributes": (
        {"a.py": "def f(self, a):\n    self.x, self.y = a, 2\n"},
        "a.py:2: several things",
    ),
    "a name twice": (
        {"a.py": "def f(): ...\n", "b/c.py": "class f: ...\n"},
        "f is defined in a.py and b/c.py",
    ),
    "a loop elsewhere": ({"train/other.py": FIT}, "fit: 60 statements"),
}

ALLOWED = {
    "a swap": {"a.py": "x, y = y, x\n"},
    "unpacking": {"a.py": "x, y = f()\n"},
    "private names": {"a.py": "def _f(): ...\n", "b.py": "def _f(): ...\n"},
    "the loop": {"train/trainer.py": FIT},
}


def write(files: dict[str, str], package: Path) -> Path:
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize(("files", "words"), PLANTED.values(), ids=PLANTED)
def test_what_is_over_is_named(
    files: dict[str, str], words: str, tmp_path: Path
) -> None:
    done = check(write(files, tmp_path))
    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize("files", ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_passes(files: dict[str, str], tmp_path: Path) -> None:
    done = check(write(files, tmp_path))
    assert (done.returncode, done.stderr) == (0, "\n")
