"""A process does not outlive what started it, even if that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = """
import signal, sys, time
from pathlib import Path
from mm1 import dist

def stop(number, frame):
    Path(sys.argv[1], "stopped").write_text(str(number))
    sys.exit()

signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1], "imported").touch()
while Path(sys.argv[1], "wait").exists():
    time.sleep(0.01)
dist.start()
Path(sys.argv[1], "started").touch()
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
os.environ["MM1_LAUNCHER_PID"] = str(os.getpid())
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""


def wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"no {path.name} after a minute")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["started", "imported"])
def test_a_killed_launcher_stops_what_it_started(
    moment: str, tmp_path: Path
) -> None:
    """Before it has joined its group, too: then it stops as it does."""
    if moment == "imported":
        (tmp_path / "wait").touch()
    launcher = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(tmp_path)], env=os.environ
    )
    wait_for(tmp_path / moment)
    launcher.kill()
    launcher.wait()
    (tmp_path / "wait").unlink(missing_ok=True)
    wait_for(tmp_path / "stopped")
    assert (tmp_path / "stopped").read_text() == str(int(signal.SIGTERM))
