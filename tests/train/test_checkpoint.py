"""A checkpoint counts as soon as it is whole, and never before."""

from collections.abc import Container
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch.distributed.checkpoint import CheckpointException
from worlds import make_world, text_only

from mm1.train.checkpoint import Checkpoints, SaveFailed
from mm1.train.checkpoint_files import CheckpointFiles
from mm1.train.checkpoint_reader import CheckpointReader
from mm1.train.checkpoint_writer import CheckpointWriter, LocalFiles


def test_a_checkpoint_counts_before_the_next_one_is_made(
    tmp_path: Path,
) -> None:
    run = text_only(make_world(tmp_path / "world"), steps=9).build(
        folder=tmp_path / "run"
    )
    run._save_checkpoint()
    assert run.checkpoints.steps() == []
    assert run.checkpoints.pending is not None
    run.checkpoints.pending[0].result()
    run.checkpoints.settle()
    assert run.checkpoints.steps() == [0]


def test_only_the_newest_are_kept_and_half_written_ones_do_not_count(
    tmp_path: Path,
) -> None:
    run = text_only(make_world(tmp_path / "world"), steps=9).build(
        folder=tmp_path / "run"
    )
    for step in range(4):
        run.step = step
        run._save_checkpoint()
    run.checkpoints.finish()
    assert run.checkpoints.steps() == [2, 3]
    (tmp_path / "run" / "checkpoints" / "step-00000009.unfinished").mkdir()
    assert run.checkpoints.steps() == [2, 3]


def test_what_torch_wraps_around_a_file_may_outlive_it(tmp_path: Path) -> None:
    """It flushes the file when it is dropped; Python 3.13 prints what that raises."""
    writer = CheckpointWriter(tmp_path, {})
    assert isinstance(writer.fs, LocalFiles)
    with writer.fs.create_stream(tmp_path / "a", "wb") as stream:
        wrapped, _ = writer.transforms.transform_save_stream(
            cast(Any, None), stream
        )
        wrapped.write(b"whole")
    wrapped.close()
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_the_threads_that_save_end_with_the_run(tmp_path: Path) -> None:
    def threads() -> int:
        names = Path("/proc/self/task").glob("*/comm")
        return sum("gloo" in name.read_text() for name in names)

    run = text_only(
        make_world(tmp_path / "world"), steps=2, checkpoint_every=1
    ).build(folder=tmp_path / "run")
    before = threads()
    run._save_checkpoint()
    assert threads() > before
    run.fit()
    assert threads() == before


class Listed(CheckpointFiles):
    """Three checkpoints, of which some are damaged or have a file without checksum."""

    name = "run"
    MAKE_ROOM = "make room"

    def __init__(
        self, *, damaged: Container[int] = (), unnoted: Container[int] = ()
    ) -> None:
        self.damaged = damaged
        self.without_checksum = unnoted
        self.aside: list[int] = []

    def clean(self) -> None: ...

    def clear(self, step: int) -> None: ...

    def publish(self, step: int, checksums: Any) -> None: ...

    def drop(self, step: int) -> None: ...

    def steps(self) -> list[int]:
        return [10, 20, 30]

    def noted(self, step: int) -> dict[str, Any]:
        return {"a": ["checksum"]}

    def damage(self, step: int, name: str, noted: Any) -> str:
        return f"{name} is damaged" if step in self.damaged else ""

    def unnoted(self, step: int, noted: Any) -> str:
        return "b is unknown" if step in self.without_checksum else ""

    def path(self, step: int) -> Path:
        return Path(f"step-{step}")

    def set_aside(self, step: int) -> str:
        self.aside.append(step)
        return "aside"

    def abandon(self, step: int) -> str:
        return ""

    def writer(self, step: int, progress: Any) -> CheckpointWriter:
        raise NotImplementedError

    def reader(self, step: int) -> CheckpointReader:
        raise NotImplementedError

    def progress(self, step: int) -> dict[str, Any]:
        raise NotImplementedError


def checkpoints_of(files: Listed) -> Checkpoints:
    return Checkpoints(files, keep=2)


@pytest.mark.parametrize(
    ("files", "newest", "aside"),
    [
        (Listed(), 30, []),
        (Listed(damaged={10}), 30, []),
        (Listed(damaged={30}), 20, [30]),
        (Listed(damaged={20}, unnoted={30}), 10, [30, 20]),
    ],
)
def test_a_run_resumes_from_the_newest_whole_checkpoint(
    files: Listed, newest: int, aside: list[int]
) -> None:
    assert checkpoints_of(files).newest_whole() == newest
    assert files.aside == aside


def test_training_stops_when_three_in_a_row_could_not_be_saved() -> None:
    checkpoints = checkpoints_of(Listed())
    full = CheckpointException("", {0: (OSError(28, "disk full"), None)})  # type: ignore[dict-item]

    def finish(failure: Exception | None) -> None:
        future: Future[None] = Future()
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
        writer = SimpleNamespace(checksums={}, num_bytes=5)
        checkpoints.pending = (future, cast(Any, writer), 40)
        checkpoints.finish()

    for failure in (full, full, None, full, full):
        finish(failure)
    with pytest.raises(SaveFailed, match="3 times in a row"):
        finish(full)
