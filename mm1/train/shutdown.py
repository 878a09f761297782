"""Graceful shutdown: on a signal training stops before the next step, saves and ends.

Every rank notes signals for itself. That one has come on any of them is part of the sum
that each step starts with (`mm1.train.accumulation`), so all ranks stop at the same
step, whichever of them was told.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from mm1 import dist
from mm1.config import UserError
from mm1.peers import SILENT_SECONDS
from mm1.stop_signals import (
    STOP_SIGNALS,
    leave_closed_terminal,
    stop_signals,
)

INTERRUPTED_CODE = 75
"""Exit code of a run that a signal has stopped: EX_TEMPFAIL of <sysexits.h>, which
asks to be tried again."""
TORCHRUN_SECONDS = 25.0
"""After SIGTERM torchrun waits for 30 s, by default, before it kills."""
AGAIN_SECONDS = 0.5
"""A second Ctrl-C within so short a time is the same one, sent to a whole job."""


class Interrupted(UserError):
    """A signal stopped the run, which has saved a checkpoint to resume from."""

    exit_code = INTERRUPTED_CODE


class StopRequested(Exception):
    """A signal has reached some rank: this step is not done."""


class GracefulShutdown:
    """Notes signals inside a `with` block; a second Ctrl-C ends the process at once.

    Signals reach only the main thread: in others nothing is handled.
    """

    def __init__(self, timeout: float | None = None) -> None:
        """After `timeout` seconds from the first signal the process ends, saved or not.

        By default that is `TORCHRUN_SECONDS` under torchrun, and never elsewhere.
        """
        if timeout is None and "TORCHELASTIC_RUN_ID" in os.environ:
            timeout = TORCHRUN_SECONDS
        self.timeout = timeout
        self.requested = False
        self.since: float | None = None
        """When the first signal was handled, which may be long after the thread has
        noted it: not before the main thread's current operation ends."""
        self.previous: dict[int, Any] = {}
        self.ended = threading.Event()

    def __enter__(self) -> "GracefulShutdown":
        if threading.current_thread() is threading.main_thread():
            self.reader, self.writer = os.pipe()
            os.set_blocking(self.writer, False)
            # Python's handlers wait until a collective in C++ returns; this does not.
            self.previous_fd = signal.set_wakeup_fd(
                self.writer, warn_on_full_buffer=False
            )
            threading.Thread(target=self._watch, daemon=True).start()
            for number in stop_signals():
                self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        if self.previous:
            signal.set_wakeup_fd(self.previous_fd)
            os.close(self.writer)
        self.ended.set()

    def check_any_rank(self) -> None:
        """Raises StopRequested if a signal has come on any rank; every rank must call
        this."""
        if not dist.all_true(not self.requested):
            raise StopRequested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        leave_closed_terminal()
        if self.since is None:
            self.since = now
        elif number == signal.SIGINT and now - self.since > AGAIN_SECONDS:
            raise KeyboardInterrupt
        self.requested = True

    def _watch(self) -> None:
        """The thread that says what happens, and keeps the time."""
        with open(self.reader, "rb", buffering=0) as reader:
            while number := reader.read(1):
                if number[0] in STOP_SIGNALS:
                    break
            else:
                return  # the other end was closed
            self.requested = True
            leave_closed_terminal()
            limit = (
                f" within {self.timeout:g} s"
                if self.timeout is not None
                else ""
            )
            dist.say(
                f"\nstopping before the next step, with a checkpoint{limit} (Ctrl-C"
                " once more: at once, without one)"
            )
            if not self.ended.wait(self.timeout):
                self._give_up()

    def _give_up(self) -> None:
        """Ends the process, before what sent the signal kills it without a word."""
        peers = dist.peers
        if peers is None or peers.is_first_here("too late"):
            line = (peers.gone() if peers else "") or (
                f"no checkpoint could be saved within {self.timeout:g} s of the signal"
                " (--shutdown-timeout; torchrun and Slurm have limits of their own):"
                " the run resumes from the one before"
            )
            print(f"mm1: {line}", file=sys.stderr, flush=True)
        else:
            time.sleep(2 * SILENT_SECONDS)  # it must not seem to be lost
        os._exit(INTERRUPTED_CODE)
