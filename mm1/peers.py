"""What ranks know about each other outside of collectives: who lives, where each stands
in its work, and why one has ended.

Each rank writes a line to the group's store once a second, in a thread of its own, so
that a rank whose main thread hangs still answers and one that was killed does not. That
is what tells the two apart once a collective has failed; until then nobody reads it.
"""

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import Store

LOST_CODE = 69
"""Exit code of a run that has lost a rank: EX_UNAVAILABLE of <sysexits.h>."""
BEAT_SECONDS = 1.0
SILENT_SECONDS = 3.5
"""Without a beat for so long, a rank is gone."""
VERDICT_SECONDS = 20.0
"""For the rank that looks into a failure to say what it was."""
EXIT_SECONDS = 10.0
"""For a rank to end by itself, once it is known that another one is lost."""
MOST_NAMED = 4
"""Ranks in one message."""

TRAINING = "in its training step"
WAITING_FOR_DATA = "waiting for data"
WATCHED = (TRAINING, WAITING_FOR_DATA)
"""What takes long only where something hangs."""


def host_name() -> str:
    return platform.node() or "unknown host"


class Peers:
    """The ranks of a process group, through its store."""

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world_size: int,
        patience: float,
        hang_seconds: float,
    ) -> None:
        """After `patience` seconds a collective has failed, and with `hang_seconds` of
        anything in `WATCHED` this process ends."""
        self.store = store
        self.rank = rank
        self.world_size = world_size
        self.patience = patience
        self.hang_seconds = hang_seconds
        self.step: int = 0
        self.doing: str = "starting"
        self.changes: int = 0
        self.verdict: str = ""
        """Why the run ends, once a rank is lost."""
        self.stopped = threading.Event()
        self.thread = threading.Thread(
            target=self._beat, name="peers", daemon=True
        )
        self.thread.start()

    def at(self, step: int, doing: str) -> None:
        """Notes where this rank stands: after `step` steps, `doing` something."""
        self.step = step
        self.doing = doing
        self.changes = self.changes + 1

    def stop(self) -> None:
        """Ends the thread."""
        self.stopped.set()
        self.thread.join(BEAT_SECONDS)

    def note_end(self, why: str) -> None:
        """Tells the others why this rank ends before them."""
        self.store.set(f"end/{self.rank}", f"{host_name()}\0{why}")

    def is_first_here(self, words: str) -> bool:
        """Is this the first rank on its node to say so? The others need not."""
        node = f"{host_name()}/{os.environ.get('GROUP_RANK', '0')}"
        try:
            return self.store.add(f"said/{node}/{words}", 1) == 1
        except RuntimeError:  # the store is gone
            return True

    def judge(self, failure: str, *, hangs: bool = False) -> str:
        """Which rank is lost, once something has failed: what one rank finds out, all
        of them say.

        Args:
            failure: what they say if nobody seems to be lost.
            hangs: whether it is this rank's main thread that does not answer.
        """
        try:
            # Waiting keeps a connection from the other thread.
            store = _connection(self.store)
            if not hangs:
                store.set(f"failed/{self.rank}", "")
            if store.add("judge", 1) == 1:
                self.verdict = self.gone() or self._late() or failure
                store.set("verdict", self.verdict)
            else:
                store.wait(["verdict"], timedelta(seconds=VERDICT_SECONDS))
                self.verdict = store.get("verdict").decode()
        except RuntimeError:
            self.verdict = (
                f"rank {self.rank} on {host_name()} at step {self.step}: the process"
                " that holds the group together (torchrun's on the first node, or rank"
                f" 0) is gone; {failure}"
            )
        return self.verdict

    def gone(self) -> str:
        """Ranks that have ended or do not answer, as words; empty if there are none."""
        before = self._beats()
        time.sleep(SILENT_SECONDS)
        after = self._beats()
        ended = {
            rank: self.store.get(f"end/{rank}").decode().split("\0", 1)
            for rank in range(self.world_size)
            if self.store.check([f"end/{rank}"])
        }
        if ended:
            said = {why for _, why in ended.values()}
            who = listed([f"{r} on {ended[r][0]}" for r in ended])
            return f"{who} stopped: {'; '.join(sorted(said))}"
        silent = [
            f"{rank} on {_place(after[rank])}"
            for rank in range(self.world_size)
            if before[rank][0] == after[rank][0]
        ]
        if not silent:
            return ""
        who = listed(silent)
        return f"{who} does not answer: it was killed, or its machine is gone"

    def _late(self) -> str:
        """Ranks that others wait for, as words; empty if all are at the same point."""
        beats = self._beats()
        first = min(map(_key, beats))
        late = [
            f"{rank} on {_place(beat)}"
            for rank, beat in enumerate(beats)
            if _key(beat) == first and not self.store.check([f"failed/{rank}"])
        ]
        if not late:
            return ""
        return (
            f"{listed(late)} kept the others waiting for {self.patience:g} s (patience"
            " in the config)"
        )

    def _beats(self) -> list[list[str]]:
        """Of each rank: number of the beat, host, step, what it does."""
        keys = [f"beat/{rank}" for rank in range(self.world_size)]
        missing = ["0", "unknown host", "0", "starting"]
        return [
            self.store.get(key).decode().split("\0")
            if self.store.check([key])
            else missing
            for key in keys
        ]

    def _beat(self) -> None:
        """The thread. Time is counted in beats, as a process that was stopped, or a
        laptop that slept, has not hung."""
        store = _connection(self.store)
        number = 0
        changes = -1
        still = 0.0
        silent = 0.0
        while not self.stopped.wait(BEAT_SECONDS):
            number = number + 1
            still = still + BEAT_SECONDS if changes == self.changes else 0.0
            changes = self.changes
            try:
                store.set(
                    f"beat/{self.rank}",
                    f"{number}\0{host_name()}\0{self.step}\0{self.doing}",
                )
                lost = store.check(["verdict"])
                silent = 0.0
            except RuntimeError:
                silent = silent + BEAT_SECONDS
                lost = silent > EXIT_SECONDS
            if still > self.hang_seconds and self.doing in WATCHED:
                self._end(
                    self.judge(f"{self.doing} for {still:.0f} s", hangs=True)
                )
            if lost and not self.stopped.wait(EXIT_SECONDS):
                self._end(self.verdict)

    def _end(self, why: str) -> None:
        """Ends the process, whose main thread does not answer."""
        if why and self.is_first_here(why):
            print(f"mm1: {why}", file=sys.stderr, flush=True)
        os._exit(LOST_CODE)


def die_in(seconds: int) -> None:
    """Has the kernel end this process if it has not ended by itself: what still waits
    for a lost rank, in C++, hears nothing else."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)


def _connection(store: Store) -> Store:
    """Another one to the same store."""
    return store.clone()  # type: ignore[attr-defined]  # not in torch's stubs


def _key(beat: Sequence[str]) -> tuple[int, bool]:
    """Orders ranks by how far they are."""
    _, _, step, doing = beat
    return int(step), doing != WAITING_FOR_DATA


def _place(beat: Sequence[str]) -> str:
    _, host, step, doing = beat
    return f"{host} (after step {step}, {doing})"


def listed(names: Sequence[str]) -> str:
    """Ranks in words; of many, the first."""
    named = ", ".join(names[:MOST_NAMED])
    more = len(names) - MOST_NAMED
    return ("ranks " if len(names) > 1 else "rank ") + (
        f"{named} and {more} more" if more > 0 else named
    )
