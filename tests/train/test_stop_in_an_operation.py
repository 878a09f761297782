"""One Ctrl-C while the main thread is inside a long operation of a library: Python's
handler comes late, and it is still the first."""

import hashlib
import os
import signal
import threading
import time

import pytest

from mm1.train import shutdown


def long_operation() -> None:
    """Most of a second without the interpreter's lock, and without handlers."""
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 1_500_000)


def interrupt_here() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


def test_the_first_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "AGAIN_SECONDS", 0.0)
    with shutdown.GracefulShutdown() as stop:
        sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        sender.start()
        try:
            long_operation()
            sender.join()
        except KeyboardInterrupt:
            pytest.fail("one Ctrl-C was taken for two")
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            interrupt_here()
