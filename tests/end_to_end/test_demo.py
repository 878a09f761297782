"""`mm1 demo` as a stranger runs it: stopped, gone on with as its message says, and
followed along its last lines; then a study in the world that it has made."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_proposed_commands import proposed, shell

pytest.importorskip("sklearn", reason="pip install 'mm1[miniature]'")

DEMO = "mm1 demo --out runs/demo"


@pytest.mark.long
def test_the_demo_passes_its_checks_and_leads_on(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "mm1.cli", "demo", "--out", "runs/demo"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    for line in started.stderr:
        if re.match(r"encoder +step", line):
            break
    started.send_signal(signal.SIGINT)
    _, rest = started.communicate(timeout=120)
    assert started.returncode == 75, rest
    assert proposed(rest) == [DEMO]

    ended = shell(DEMO, tmp_path, timeout=1200)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "runs/demo/report.html").stat().st_size > 100_000
    (chat,) = re.findall(r"to talk to it: (mm1 chat .*)", ended.stderr)
    assert shell(f"{chat} --terminal", tmp_path).returncode == 0

    study = "mm1 study miniature_pixels_or_width --seeds 0 steps=2"
    done = shell(f"{study} --out runs/demo", tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Pixels or width" in (tmp_path / "runs/demo/report.md").read_text()
