"""One writer to a folder: who holds the lock is named, who is gone holds none."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from ranks import on_ranks

from mm1 import dist, folder_lock
from mm1.folder_lock import FolderInUse, FolderLock

CONTEXT = multiprocessing.get_context("forkserver")


def hold(folder: Path) -> None:
    with FolderLock(folder):
        (folder / "held").touch()
        time.sleep(100)


@contextmanager
def holder(folder: Path) -> Iterator[BaseProcess]:
    """Another process that holds the lock."""
    process = CONTEXT.Process(target=hold, args=(folder,))
    process.start()
    try:
        while not (folder / "held").exists():
            assert process.is_alive()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.join()


def write_lock(folder: Path, **fields: object) -> Path:
    """A lock as another process has left it, or holds it."""
    lock = folder / "writer.lock"
    known = {
        "pid": 4242,
        "host": "elsewhere",
        "mode": "lease",
        "token": "ab" * 16,
        "duration": folder_lock.LEASE_SECONDS,
    } | fields
    lines = [f"{name}={value}\n" for name, value in known.items()]
    lock.write_text("filelock/2\n" + "".join(lines))
    return lock


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(folder_lock, "HEARTBEAT_SECONDS", 0.1)


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        began = time.monotonic()
        with (
            pytest.raises(FolderInUse) as refused,
            FolderLock(tmp_path),
        ):
            pass
        assert time.monotonic() - began < folder_lock.LEASE_SECONDS
        message = str(refused.value)
        assert f"process {first.pid} on {os.uname().nodename}" in message
        assert "\n" not in message
        # stopped, not gone: it may write as soon as it goes on
        assert first.pid is not None
        os.kill(first.pid, signal.SIGSTOP)
        with pytest.raises(FolderInUse), FolderLock(tmp_path):
            pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path):
        pass
    assert (tmp_path / "writer.lock").exists()
    with FolderLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "writer.lock").read_text()
    assert not (tmp_path / "writer.lock").exists()


def test_a_reused_process_number_holds_nothing(tmp_path: Path) -> None:
    """The number of a living process, which began at another time."""
    write_lock(tmp_path, pid=os.getpid(), host=os.uname().nodename, start=17)
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize("left", ["", "filelock/2\npid=12"])
def test_half_a_lock_holds_nothing(left: str, tmp_path: Path) -> None:
    """As a crash of the machine leaves it."""
    (tmp_path / "writer.lock").write_text(left)
    with FolderLock(tmp_path):
        pass


@pytest.mark.usefixtures("quick")
def test_a_lock_of_another_host_holds_as_long_as_it_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = write_lock(tmp_path)
    touching = CONTEXT.Process(target=touch, args=(lock,))
    touching.start()
    with (
        pytest.raises(FolderInUse, match="process 4242 on elsewhere writes"),
        FolderLock(tmp_path),
    ):
        pass
    touching.kill()
    touching.join()
    with FolderLock(tmp_path):
        assert str(os.getpid()) in lock.read_text()
    assert "4242 on elsewhere: waiting" in capsys.readouterr().err


def touch(path: Path) -> None:
    while True:
        path.touch()
        time.sleep(0.1)


def test_no_flock_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Lustre without the option, or on some FUSE file systems."""

    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    monkeypatch.setattr("fcntl.lockf", missing)
    with FolderLock(tmp_path), holder_refused(tmp_path):
        pass


@contextmanager
def holder_refused(folder: Path) -> Iterator[None]:
    process = CONTEXT.Process(target=hold, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 1
    yield


@pytest.mark.parametrize(
    "lose",
    [Path.unlink, lambda path: (path.unlink(), write_lock(path.parent))],
    ids=["deleted", "taken"],
)
def test_a_lost_lock_is_noticed_before_the_next_write(
    lose: Callable[[Path], object], tmp_path: Path
) -> None:
    with FolderLock(tmp_path) as lock:
        lock.check()
        lose(lock.path)
        with pytest.raises(FolderInUse, match=r"writer\.lock is now held by"):
            lock.check()


def test_a_folder_that_was_made_for_the_lock_goes_with_it(
    tmp_path: Path,
) -> None:
    with FolderLock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with FolderLock(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b", "file"]


def test_of_two_ranks_the_first_holds_it_and_both_hear_of_a_refusal(
    tmp_path: Path,
) -> None:
    on_ranks(2, both_ranks, tmp_path)


def both_ranks(folder: Path) -> None:
    dist.start()
    with FolderLock(folder):
        owner = f"pid={os.getpid()}\n"
        text = (folder / "writer.lock").read_text()
        assert (owner in text) == (dist.rank() == 0)
        dist.barrier()
        with pytest.raises(FolderInUse), FolderLock(folder):
            pass
