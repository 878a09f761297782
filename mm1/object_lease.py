"""The lock of a folder at an object store, where nothing can be locked: an object that
is put only if there is none, and put again, with another number, as long as its holder
lives.

    writer.lock     {"pid": 812, "hostname": "node7", "token": "5f1a...", "beat": 31}

Whoever finds it watches whether the number changes: clocks of two hosts are never
compared. Taking over what another one has left is two requests, so two that do so at
the same moment can both believe that they hold it; the one whose record has been
replaced sees that before the other trains, or at its next beat.
"""

import json
import os
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import SoftFileLease

from mm1.dist import say
from mm1.storage.remote_path import RemotePath
from mm1.storage.requests import StorageError, request

EXPIRY_SECONDS = 60.0
"""A record that has not changed for so long is nobody's."""
BEAT_SECONDS = 10.0
"""Between two changes: 9,000 requests a day, a twentieth of a dollar."""
POLL_SECONDS = 1.0
SETTLE_SECONDS = 2.0
"""After taking over, before it is seen whether somebody else did, too."""

_held: set[str] = set()
"""Tokens of what this process holds."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What the object says of its holder."""

    pid: int
    hostname: str
    token: str
    """Of one process, once."""
    beat: int = 0

    @property
    def is_gone(self) -> bool:
        """A process of this host that is there no more."""
        if self.hostname != this_host():
            return False
        if self.pid == os.getpid():
            # If not one's own, of a container that was started again.
            return self.token not in _held
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


def this_host() -> str:
    """This host as filelock names it: also by the container whose numbers of processes
    it shares."""
    with TemporaryDirectory() as folder:
        lease = SoftFileLease(Path(folder) / "lock", thread_local=False)
        with lease:
            owner = lease.owner
    assert owner is not None
    return owner.hostname


class ObjectLease:
    """One process's hold on an object, once `acquire` has returned None."""

    def __init__(self, path: RemotePath) -> None:
        self.path = path
        self.token = uuid.uuid4().hex
        self.owner: LeaseRecord | None = None
        """As it was last seen; nobody where somebody has deleted the object."""
        self.released = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def acquire(self) -> LeaseRecord | None:
        """Takes the lock; returns who holds it where that is somebody else, which may
        take `EXPIRY_SECONDS` to be seen.

        Raises:
            StorageError: the object store does not answer, or refuses.
        """
        own = LeaseRecord(os.getpid(), this_host(), self.token)
        while not self._create(own):
            holder = self._read()
            if holder == own:
                break  # the answer to an earlier attempt was lost
            if holder is not None and not holder.is_gone:
                living = self._watch(holder)
                if living is not None:
                    return living
            self.path.unlink(missing_ok=True)
            if self._create(own):
                time.sleep(SETTLE_SECONDS)
                holder = self._read()
                if holder != own:
                    return holder
                break
        self.owner = own
        _held.add(self.token)
        self.thread.start()
        return None

    def release(self) -> None:
        """Lets others have it, if it has not been lost."""
        self.released.set()
        _held.discard(self.token)
        self.thread.join()
        try:
            holder = self._read()
            if holder is not None and holder.token == self.token:
                self.path.unlink(missing_ok=True)
        except (StorageError, OSError):
            pass  # it expires

    def _create(self, record: LeaseRecord) -> bool:
        """Puts the record if there is none."""
        data = json.dumps(asdict(record)).encode()

        async def create(store: Any, path: str) -> bool:
            try:
                await store._pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True

        return request(str(self.path), create)

    def _read(self) -> LeaseRecord | None:
        """Who holds the lock; None if nobody does."""
        try:
            value = json.loads(self.path.read_bytes())
            return LeaseRecord(**value)
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _watch(self, holder: LeaseRecord) -> LeaseRecord | None:
        """The holder, if it lives; None once its record has expired or is gone."""
        say(
            f"{self.path} is held by process {holder.pid} on"
            f" {holder.hostname.partition('?')[0]}: waiting up to"
            f" {EXPIRY_SECONDS:.0f} s for a sign that it lives"
        )
        end = time.monotonic() + EXPIRY_SECONDS
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            now = self._read()
            if now != holder:
                return now
        return None

    def _beat(self) -> None:
        """The thread that shows that the holder lives, until the lock is lost."""
        while not self.released.wait(BEAT_SECONDS):
            try:
                self.owner = holder = self._read()
                if holder is None or holder.token != self.token:
                    return
                record = asdict(replace(holder, beat=holder.beat + 1))
                self.path.write_bytes(json.dumps(record).encode())
            except (StorageError, OSError):
                continue  # maybe next time
