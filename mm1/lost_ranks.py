"""A rank that is lost, as one line: which one, on what host, at what step, and what to
do.

What torch and gloo raise then names sockets; on the other ranks of the same run it is
something else again.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed import DistError
from torch.distributed.checkpoint import CheckpointException

from mm1 import dist
from mm1.config import UserError
from mm1.peers import LOST_CODE, die_in

SIGNS = re.compile(
    r"gloo|\bNCCL|ProcessGroup|Connection (closed|reset) by peer|Broken pipe"
)
"""In the messages of a RuntimeError of torch's that is about other ranks."""
EXIT_SECONDS = 30
"""From the line to the end of the process, at most."""
REMEDY = (
    "see its log for why, and start all ranks again with --resume (`torchrun"
    " --max-restarts` does so by itself)"
)


class LostRank(UserError):
    """A rank does not answer any more, so no other one can go on."""

    exit_code = LOST_CODE


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turns what is raised where other ranks are lost into one line, which is printed
    at once by one rank on each node: a launcher may end the others any moment.

    Raises:
        LostRank: that, on all ranks, with the same words.
    """
    try:
        yield
    except (RuntimeError, CheckpointException) as error:
        if not _is_about_others(error):
            raise
        _hold_signals()
        first_line = (str(error).strip() or type(error).__name__).splitlines()[
            0
        ]
        lost = LostRank(f"{_why(first_line)}; {REMEDY}")
        if dist.peers is None or dist.peers.is_first_here(str(lost)):
            print(f"mm1: {lost}", file=sys.stderr, flush=True)
        lost.said = True
        die_in(EXIT_SECONDS)
        raise lost from error


@contextmanager
def one_voice() -> Iterator[None]:
    """Around a command that several ranks run: an error that all of them raise is shown
    once on each node, and one of a single rank is what the others will say."""
    try:
        with lost_ranks_named():
            yield
    except BaseException as error:
        peers = dist.peers
        if peers is not None and not isinstance(error, LostRank):
            words = str(error).strip() or type(error).__name__
            with suppress(RuntimeError):
                peers.note_end(words.splitlines()[0])
            if isinstance(error, (UserError, OSError)):
                if peers.is_first_here(words):
                    print(f"mm1: {error}", file=sys.stderr, flush=True)
                error.said = True  # type: ignore[union-attr]
        raise


def _why(failure: str) -> str:
    if dist.peers is not None:
        return dist.peers.judge(failure)
    place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    return (
        f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} did not find"
        f" the others at {place} ({failure})"
    )


def _is_about_others(error: BaseException) -> bool:
    if dist.world_size() == 1 and os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    if isinstance(error, CheckpointException):
        return any(
            _is_about_others(cause) for cause, _ in error.failures.values()
        )
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and bool(SIGNS.search(str(error)))
    )


def _hold_signals() -> None:
    """`torchrun` sends SIGTERM to those that are left, before they can say anything."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
