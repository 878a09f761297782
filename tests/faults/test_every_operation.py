"""A fault at the n-th write, rename, fsync, open or mkdir of a save, a finish and a
preparation: it is an error of the user's kind or costs nothing, and the same command
ends with the bytes of one that nothing disturbed."""

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cases import tokenizer
from raw_files import pairs, write_tar
from worlds import make_world, text_only

from mm1.config import UserError
from mm1.prepare.pipeline import prepare
from mm1.train.trainer import Trainer

OPERATIONS = ("write", "rename", "fsync", "open", "mkdir")
SAMPLE = 4
"""How many of each the short suite tries."""
PARTS = 6
"""That all of them are divided into: torch's archive alone has a thousand writes."""
LONG_PARTS = (0,)
"""Those that the long suite tries; all six take a quarter of an hour of a core."""
UNEQUAL = ("speed.jsonl", ".metadata", "writer.lock")
"""Times, and the random name that torch gives a checkpoint."""


class Faults:
    """Counts operations below a folder, and lets the one of a number fail."""

    def __init__(self, folder: Path, operation: str, number: int) -> None:
        self.folder = str(folder)
        self.operation = operation
        self.number = number
        self.count = 0

    def meet(self, operation: str, path: Any) -> None:
        if operation != self.operation or self.folder not in str(path):
            return
        self.count = self.count + 1
        if self.count == self.number:
            code = errno.EIO if self.number % 2 else errno.ENOSPC
            raise OSError(code, os.strerror(code), str(path))

    def before(
        self, operation: str, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        def called(path: Any, *arguments: Any, **options: Any) -> Any:
            where = path
            if isinstance(path, int):
                where = os.readlink(f"/proc/self/fd/{path}")
            self.meet(operation, where)
            return function(path, *arguments, **options)

        return called

    def opening(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def opened(
            path: Any, mode: str = "r", *rest: Any, **options: Any
        ) -> Any:
            self.meet("open", path)
            file = function(path, mode, *rest, **options)
            writes = set(mode) & set("wax+")
            return _File(file, self, path) if writes else file

        return opened


class _File:
    """A file whose writes are counted."""

    def __init__(self, file: Any, faults: Faults, path: Any) -> None:
        self.file = file
        self.faults = faults
        self.path = path

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.file)

    def write(self, data: Any) -> int:
        self.faults.meet("write", self.path)
        return self.file.write(data)


@contextmanager
def faults(
    patch: pytest.MonkeyPatch, folder: Path, operation: str, number: int
) -> Iterator[Faults]:
    made = Faults(folder, operation, number)
    with patch.context() as inner:
        inner.setattr(os, "mkdir", made.before("mkdir", os.mkdir))
        inner.setattr(os, "fsync", made.before("fsync", os.fsync))
        inner.setattr(os, "open", made.before("open", os.open))
        for name in ("rename", "replace"):
            inner.setattr(os, name, made.before("rename", getattr(os, name)))
        opened = made.opening(io.open)
        inner.setattr(io, "open", opened)
        inner.setattr(builtins, "open", opened)
        yield made


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but those of a checkpoint that may be missing: training goes on
    where one cannot be saved."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in UNEQUAL
        and not (path.name == "checksums.json" and "step-" in str(path))
        and "step-00000001" not in str(path)
    }


Step = Callable[[Path], None]


def try_all(
    start: Callable[[Path], object],
    step: Step,
    place: Path,
    patch: pytest.MonkeyPatch,
    part: int | None,
    operation: str,
) -> int:
    """Faults at the operations of a `step` that begins where `start` has left off: at a
    sample of them, or at those of a part of `PARTS`; returns how many there were."""
    folder = place / "out"

    def clear() -> None:
        for path in place.glob("out*"):
            shutil.rmtree(path)

    start(folder)
    with faults(patch, place, operation, 0) as counted:
        step(folder)
    expected = contents(folder)
    clear()
    every = PARTS if part is not None else -(-counted.count // SAMPLE)
    tried = range(1 + (part or 0), counted.count + 1, every)
    for number in tried:
        start(folder)
        with (
            faults(patch, place, operation, number),
            suppress(OSError, UserError),
        ):
            step(folder)
        step(folder)
        found = contents(folder)
        assert found == expected, (operation, number, found.keys())
        assert not list(place.rglob("*.unfinished"))
        clear()
    return len(tried)


def preparing(place: Path, _: Path) -> tuple[Callable[[Path], object], Step]:
    (raw := place / "raw").mkdir()
    for number in range(2):
        write_tar(raw / f"{number}.tar", pairs(2, start=2 * number))
    words = tokenizer(place / "x")
    return (
        lambda folder: None,
        lambda folder: prepare("captions", [raw], folder, words) and None,
    )


def training(place: Path, world: Path) -> tuple[Callable[[Path], object], Step]:
    """From a run that was killed after its first checkpoint, to the end."""

    def build(folder: Path, resume: bool) -> Trainer:
        config = text_only(world, steps=2, checkpoint_every=1, log_every=1)
        config.model.decoder.depth = 1
        return config.build(folder=folder, resume=resume)

    build(place / "begun", False).fit()
    shutil.rmtree(place / "begun" / "checkpoints" / "step-00000002")
    (place / "begun" / "model.safetensors").unlink()

    def step_to_end(folder: Path) -> None:
        trainer = build(folder, True)
        try:
            trainer.fit()
        finally:
            if trainer.checkpoints.pending is not None:
                # A process that ends takes its thread along.
                trainer.checkpoints.pending[0].exception()

    return (
        lambda folder: shutil.copytree(place / "begun", folder),
        step_to_end,
    )


KINDS = {"prepare": preparing, "save and finish": training}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("small") / "world")


@pytest.mark.parametrize(
    "part",
    [None, *(pytest.param(n, marks=pytest.mark.long) for n in LONG_PARTS)],
)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_every_operation(
    kind: str,
    operation: str,
    part: int | None,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (place := tmp_path / "place").mkdir()
    start, step = KINDS[kind](place, world)
    num_tried = try_all(start, step, place, monkeypatch, part, operation)
    assert num_tried or part  # fewer operations than parts
