"""One writer to a folder at a time.

writer.lock   names the process and host that write here, while they do

The lock is filelock's lease: a file that is made exclusively, which every file system
can do (flock fails on some, and on others reaches no other host), and touched as long
as its holder lives. A process that is gone locks nobody out: on its own host its number
shows that, on another one the file that is no longer touched. At an object store it is
an object (`mm1.object_lease`).
"""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from filelock import OwnerRecord, SoftFileLease, Timeout

from mm1 import dist
from mm1.config import UserError
from mm1.object_lease import LeaseRecord, ObjectLease, this_host
from mm1.storage.remote_path import RemotePath

LOCK = "writer.lock"
LEASE_SECONDS = 60.0
"""A lock that has not been touched for so long is free; all hosts must agree."""
HEARTBEAT_SECONDS = 2.0
"""Between touches."""
ATTEMPT_SECONDS = 3.0
"""Enough to see that a lock which names nobody is what a killed process left."""


Made = TypeVar("Made")


class FolderInUse(UserError):
    """Another process writes to the folder."""


class FolderLock:
    """A context manager in which only one process can be for the same folder.

    Of several ranks, which enter and leave together, the first holds the lock. The
    folder is made if need be; it goes again if nothing has been written to it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path: Path = folder / LOCK
        self.lease: SoftFileLease | ObjectLease | None = None
        self.made: list[Path] = []
        """Folders that were not there, the innermost first."""

    def __enter__(self) -> "FolderLock":
        """Does nothing where this process holds the lock already.

        Raises:
            FolderInUse: another one does; the message has its number and host.
            OSError: the folder cannot be written to.
        """
        dist.on_rank_zero(self._acquire_or_clean)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None
            self._remove_folders()

    def keep_for(self, make: Callable[[], Made]) -> Made:
        """Enters, and leaves only if `make` fails: what it makes has to leave."""
        with ExitStack() as stack:
            stack.enter_context(self)
            made = make()
            stack.pop_all()
        return made

    def check(self) -> None:
        """Raises FolderInUse where the lock is lost: this process was stopped for so
        long that another one has taken it, or somebody deleted it."""
        if self.lease is None:
            return
        owner = self.lease.owner
        if owner is None or owner.token != self.lease.token:
            now = f"by {_name(owner)}" if owner else "by no process"
            raise FolderInUse(
                f"{self.path} is now held {now}: this one stops, so that only one"
                " writes there"
            )

    def _acquire_or_clean(self) -> None:
        if self.lease is None:
            try:
                self._acquire()
            except Exception:
                self._remove_folders()
                raise

    def _acquire(self) -> None:
        if isinstance(self.path, RemotePath):
            self._acquire_object(self.path)
        else:
            self._acquire_file()

    def _acquire_object(self, path: RemotePath) -> None:
        lease = ObjectLease(path)
        holder = lease.acquire()
        if holder is not None:
            raise self._in_use(holder)
        self.lease = lease

    def _acquire_file(self) -> None:
        parents = (self.folder, *self.folder.parents)
        self.made = [path for path in parents if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(
            self.path,
            lease_duration=LEASE_SECONDS,
            heartbeat_interval=HEARTBEAT_SECONDS,
            thread_local=False,
        )
        if not self._attempt(lease) and not (
            self._is_nobodys() and self._attempt(lease)
        ):
            self._wait_for_heartbeat(lease)
        self.lease = lease

    def _attempt(self, lease: SoftFileLease) -> bool:
        """Takes the lock if it is free, or names nobody or a process that is gone."""
        try:
            lease.acquire(
                ATTEMPT_SECONDS, cancel_check=lambda: lease.owner is not None
            )
        except Timeout:
            return False
        return True

    def _is_nobodys(self) -> bool:
        """Is the lock an empty file, as a crash of the machine leaves it? To filelock
        that is a lock of its first releases; what is no lock at all it takes."""
        with suppress(FileNotFoundError), self.path.open("r+") as file:
            if not file.read(1):
                file.write("empty\n")
                return True
        return False

    def _wait_for_heartbeat(self, lease: SoftFileLease) -> None:
        """Takes over a lock of another host that is no longer touched."""
        holder = lease.owner
        if holder is None or holder.hostname == this_host():
            raise self._in_use(holder)
        dist.say(
            f"{self.path} is held by {_name(holder)}: waiting up to"
            f" {LEASE_SECONDS:.0f} s for a sign that it lives"
        )
        seen = self._last_touch()
        try:
            lease.acquire(
                3 * LEASE_SECONDS,
                cancel_check=lambda: self._last_touch() != seen,
            )
        except Timeout:
            raise self._in_use(lease.owner or holder) from None

    def _last_touch(self) -> int | None:
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _in_use(self, holder: OwnerRecord | LeaseRecord | None) -> FolderInUse:
        who = _name(holder) if holder else "another process"
        return FolderInUse(
            f"{who} writes to {self.folder}: wait for it or stop it, or choose another"
            f" folder (if this one is a copy, delete {self.path})"
        )

    def _remove_folders(self) -> None:
        with suppress(OSError):  # something has been written
            for folder in self.made:
                folder.rmdir()


def _name(owner: OwnerRecord | LeaseRecord) -> str:
    host = owner.hostname.partition("?")[0]  # a container's has a suffix
    return f"process {owner.pid} on {host}"
