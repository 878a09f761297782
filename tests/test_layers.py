"""The layer contract is kept, and it would be noticed if it were not."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--no-cache",
    ]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(folder)},
        timeout=120,
    )


def test_a_planted_upward_import_is_found(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "mm1",
        tmp_path / "mm1",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert lint(tmp_path).returncode == 0
    planted = tmp_path / "mm1" / "nn" / "vit.py"
    planted.write_text("import mm1.data.document\n" + planted.read_text())
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "mm1.nn.vit -> mm1.data.document" in done.stdout
