"""Graceful shutdown: a signal ends training after the current step."""

import signal
import threading
from types import FrameType
from typing import Any

from mm1 import dist
from mm1.config import UserError


class Interrupted(UserError):
    """A signal stopped the run, which has saved a checkpoint to resume from."""


class GracefulShutdown:
    """Notes SIGINT and SIGTERM inside a `with` block; a second one ends the process.

    Signals reach only the main thread: in others nothing is handled.
    """

    def __init__(self) -> None:
        self.requested = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "GracefulShutdown":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        dist.say(
            "\nstopping after this step (once more: at once, without a checkpoint)"
        )

    def requested_on_any_rank(self) -> bool:
        """Every rank must call this."""
        return not dist.all_true(not self.requested)
