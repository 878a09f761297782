"""The short form of `benchmarks/kills.py`: commands that are killed lose nothing and
leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_killed_commands_lose_nothing(tmp_path: Path) -> None:
    note = tmp_path / "kills.md"
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "kills.py")),
            *("--kills", "12", "--seed", "1", "--out", str(note), "--only"),
            *("prepare", "train", "train, 2 workers", "eval"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "| all | 12 |" in note.read_text()
