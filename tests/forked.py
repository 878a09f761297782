"""A command that starts at once: forked from the server that `conftest` starts, which
has imported torch, where a process of its own takes seconds to."""

import multiprocessing
import os
import shlex
import subprocess
import sys
from pathlib import Path


def main(words: list[str], folder: Path, out: Path, err: Path) -> None:
    """Becomes the command. Not called in the process of the tests."""
    for path, descriptor in ((Path(os.devnull), 0), (out, 1), (err, 2)):
        opened = os.open(path, os.O_CREAT | os.O_RDWR)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    sys.argv = words
    from mm1 import cli

    cli.main()


def shell(
    command: str, folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """A command of `mm1`, run in the folder as `subprocess.run` would run it.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    words = shlex.split(command)
    assert words[0] == "mm1"
    logs = folder / "forked.out", folder / "forked.err"
    process = multiprocessing.get_context("forkserver").Process(
        target=main, args=(words, folder, *logs)
    )
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(command, timeout)
    out, err = (log.read_text() for log in logs)
    for log in logs:
        log.unlink()
    return subprocess.CompletedProcess(words, process.exitcode, out, err)
