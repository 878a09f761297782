"""The signals that stop a run with a checkpoint, in every process that takes part."""

import errno
import os
import signal
import termios
from contextlib import suppress

STOP_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Ctrl-C; what torchrun, Slurm and Kubernetes end a job with; a terminal that closes;
what Slurm sends ahead of a limit (`--signal=USR1@120`), to some sites USR2."""


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that this process is to handle: under `nohup` not the terminal's.

    torchrun handles that one even under `nohup`: it sends it on to its ranks, and kills
    those that are left.
    """
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    if ignored and "TORCHELASTIC_RUN_ID" not in os.environ:
        return tuple(each for each in STOP_SIGNALS if each != signal.SIGHUP)
    return STOP_SIGNALS


def leave_closed_terminal() -> None:
    """Lets what is written to a terminal that is gone vanish, where it would fail."""
    for stream in (1, 2):
        with suppress(OSError):
            if _is_gone(stream):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _is_gone(stream: int) -> bool:
    try:
        termios.tcgetattr(stream)
    except termios.error as error:
        return error.args[0] == errno.EIO
    return False
