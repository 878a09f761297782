"""The machine and its user, while `mm1 prepare` reads three tars."""

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_files import pairs, write_tar

from cases import Case, plain, prepared, refused, tokenizer
from mm1.data.prepared.hashing_file import HashingFile
from mm1.prepare import convert
from mm1.prepare import pipeline as module
from mm1.prepare.convert import ConvertJob
from mm1.prepare.pipeline import prepare


def raw(folder: Path) -> Path:
    (place := folder / "raw").mkdir()
    for number in range(3):
        write_tar(place / f"{number}.tar", pairs(3, start=3 * number))
    return place


def resumed(folder: Path) -> str:
    return f"; the same command again: {prepared_all(folder)}"


def prepared_all(folder: Path) -> str:
    manifest = prepare(
        "captions", [folder / "raw"], folder / "out", tokenizer(folder)
    )
    assert manifest["records_in"] == manifest["documents"] + sum(
        manifest["drops"].values()
    )
    assert [
        path.name for path in folder.iterdir() if "unfinished" in path.name
    ] == []
    return f"{manifest['documents']} of {manifest['records_in']} kept"


def at_file(number: int, happens: Callable[[ConvertJob], object]) -> Case:
    """Something happens after a file was read and before it is recorded as finished."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> str:
        raw(folder)

        def read(job: ConvertJob, report: Any) -> Any:
            found = convert.convert_file(job, report)
            if job.number == number:
                happens(job)
            return found

        patch.setattr(module, "convert_file", read)
        return refused(lambda: prepared_all(folder), folder)

    return case


def full_disk(folder: Path, patch: pytest.MonkeyPatch) -> str:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = HashingFile.__init__

    def begin(self: Any, path: Path) -> None:
        opened(self, path)
        if path.name.startswith("00002"):
            self.file.close()
            self.file = Full(path, "w")

    raw(folder)
    patch.setattr(HashingFile, "__init__", begin)
    outcome = refused(lambda: prepared_all(folder), folder)
    patch.undo()
    return scrubbed(outcome) + resumed(folder)


def scrubbed(outcome: str) -> str:
    """The outcome without the random name of a folder."""
    before, _, after = outcome.partition("parts/00002-")
    return (
        f"{before}parts/00002-N{after[after.index('/') :]}"
        if after
        else outcome
    )


def killed(folder: Path, _: pytest.MonkeyPatch) -> str:
    raw(folder)
    program = f"""
import os, signal, sys
from pathlib import Path
from mm1.prepare import pipeline as prepare
from mm1.prepare import convert
def read(job, report):
    if job.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return convert.convert_file(job, report)
prepare.convert_file = read
tokenizer = Path({str(tokenizer(folder))!r})
prepare.prepare("captions", [Path.cwd() / "raw"], Path("out"), tokenizer)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (folder / "out").exists()
    return f"no folder `out`; finished files are kept{resumed(folder)}"


def interrupted(folder: Path, patch: pytest.MonkeyPatch) -> str:
    def read(job: ConvertJob, report: Any) -> Any:
        if job.number == 1:
            raise KeyboardInterrupt
        return convert.convert_file(job, report)

    raw(folder)
    patch.setattr(module, "convert_file", read)
    with pytest.raises(KeyboardInterrupt):
        prepared_all(folder)
    patch.undo()
    return f"stopped (exit code 130){resumed(folder)}"


def two_at_once(folder: Path, _: pytest.MonkeyPatch) -> str:
    raw(folder)
    (lock := folder / "out.unfinished" / "scratch" / "lock").parent.mkdir(
        parents=True
    )
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        outcome = refused(lambda: prepared_all(folder), folder)
    return outcome + resumed(folder)


def no_permission(folder: Path, patch: pytest.MonkeyPatch) -> str:
    raw(folder)
    made = Path.mkdir

    # Patched rather than chmod: root may write everywhere.
    def closed(self: Path, *arguments: Any, **options: Any) -> None:
        if "out.unfinished" in str(self):
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        made(self, *arguments, **options)

    patch.setattr(Path, "mkdir", closed)
    return refused(lambda: prepared_all(folder), folder)


def into_foreign_folder(folder: Path, _: pytest.MonkeyPatch) -> str:
    raw(folder)
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").touch()
    return refused(lambda: prepared_all(folder), folder)


def prepared_already(folder: Path, _: pytest.MonkeyPatch) -> str:
    raw(folder)
    first = prepared_all(folder)
    second = prepared_all(folder)
    assert first == second
    write_tar(folder / "raw" / "1.tar", pairs(1))
    return (
        "nothing is done twice; with a changed raw file"
        f" {refused(lambda: prepared_all(folder), folder)}"
    )


def no_tokenizer(folder: Path, _: pytest.MonkeyPatch) -> str:
    place = raw(folder)
    return refused(
        lambda: prepare(
            "captions", [place], folder / "out", folder / "tokenizer.json"
        ),
        folder,
    )


def unknown_source(folder: Path, _: pytest.MonkeyPatch) -> str:
    return plain(
        refused(lambda: prepared("caption", raw(folder)), folder), folder
    )


CASES: dict[str, Case] = {
    "the disk is full": full_disk,
    "the output folder may not be written": no_permission,
    "a raw file changes while it is read": at_file(
        1, lambda job: write_tar(job.file, pairs(1))
    ),
    "a raw file vanishes before its turn": at_file(
        0, lambda job: job.file.with_name("2.tar").unlink()
    ),
    "killed (`kill -9`)": killed,
    "Ctrl-C": interrupted,
    "two at once into the same folder": two_at_once,
    "into a folder that holds something else": into_foreign_folder,
    "the same command again": prepared_already,
    "no tokenizer": no_tokenizer,
    "an unknown source": unknown_source,
}
