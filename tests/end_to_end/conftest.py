"""`mm1` as a shell would call it, in this process and an empty folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mm1 import cli


@pytest.fixture
def mm1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], int]:
    """Runs the words of a command and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> int:
        monkeypatch.setattr(sys, "argv", ["mm1", *command.split()])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    return run
