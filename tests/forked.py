"""A command that starts at once: forked from the server that `conftest` starts, which
has imported torch, where a process of its own takes seconds to."""

import multiprocessing
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str], folder: Path, out: Path, err: Path) -> None:
    """Becomes the command. Not called in the process of the tests."""
    for path, descriptor in ((Path(os.devnull), 0), (out, 1), (err, 2)):
        opened = os.open(path, os.O_CREAT | os.O_RDWR)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    sys.argv = ["mm1", *words]
    from mm1 import cli

    cli.main()


def run(
    words: Sequence[str | Path], folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`mm1` with these words in the folder, as `subprocess.run` would run it.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    typed = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as logs:
        out, err = Path(logs) / "out", Path(logs) / "err"
        process = multiprocessing.get_context("forkserver").Process(
            target=main, args=(typed, folder, out, err)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(typed, timeout)
        return subprocess.CompletedProcess(
            typed, process.exitcode, out.read_text(), err.read_text()
        )


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of `mm1` as it is typed."""
    first, *words = shlex.split(command)
    assert first == "mm1"
    return run(words, folder)
