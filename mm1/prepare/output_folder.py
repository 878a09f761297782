"""The folder in which a preparation grows: `<out>.unfinished`, which takes the name
`out` when it is whole.

    scratch/lock            held while somebody works here
            plan.json       what is made of what; another plan does not go on here
            parts/          of each file at work, one folder: what it came to so far
            tallies/        of each file that is through, by step

A file's part is moved into place before its tally is written, and only by the holder of
the lock. So a file with a tally is whole, whatever was killed when, and the same
command goes on with the others.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.tokenizer import SPECIAL_TOKENS, TOKENIZER
from mm1.dist import say
from mm1.files import read_object, unfinished_path, write_json
from mm1.prepare.convert import SCRATCH, SPLITS, Tally

AGAIN = "delete the folder, and prepare the data again"
TABLE = r"\d+\.parquet"
OWN_FILES = re.compile(
    "|".join(
        [
            SCRATCH,
            r"manifest\.json",
            r"drops\.jsonl",
            TOKENIZER,
            SPECIAL_TOKENS,
            *SPLITS,
            TABLE,
        ]
    )
)


class Unfinished:
    """A locked folder and what is done in it already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / SCRATCH

    def tallies(self, step: str) -> dict[int, Tally]:
        """Of the files that are through a step, by number and in their order."""
        records = sorted(
            (self.scratch / "tallies" / step).glob("*.json"),
            key=lambda path: int(path.stem),
        )
        return {
            int(path.stem): Tally.from_json(read_object(path, AGAIN))
            for path in records
        }

    def publish(self, step: str, number: int, part: Path, tally: Tally) -> None:
        """Moves what came of a file into place, and then notes that it is through."""
        for file in sorted(path for path in part.rglob("*") if path.is_file()):
            target = self.path / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        shutil.rmtree(part)
        path = self.scratch / "tallies" / step / f"{number:05}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {f.name: getattr(tally, f.name) for f in fields(tally)}
        write_json(path, record)

    @property
    def num_finished(self) -> int:
        """Files that are through their first step."""
        return max(
            (
                len(self.tallies(step.name))
                for step in (self.scratch / "tallies").glob("*")
            ),
            default=0,
        )

    def join_drops(self) -> None:
        """One list of all drops, in the order of files."""
        parts = (self.scratch / "drops").glob("*.jsonl")
        with (self.path / "drops.jsonl").open("wb") as whole:
            for part in sorted(
                parts, key=lambda path: (int(path.name.partition(".")[0]), path.name)
            ):
                with part.open("rb") as lines:
                    shutil.copyfileobj(lines, whole)


@contextmanager
def unfinished(out: Path, plan: dict[str, Any]) -> Iterator[Unfinished]:
    """The folder beside `out`, new or as an earlier attempt at the same plan left it;
    it becomes `out` at the end.

    Where something goes wrong it stays for the same command to go on, unless nothing in
    it is finished.

    Raises:
        ConfigError: somebody works in it, it holds other files, or finished files of
            another plan.
    """
    work = Unfinished(unfinished_path(out))
    _refuse_strangers(work.path)
    work.scratch.mkdir(parents=True, exist_ok=True)
    with _locked(work.scratch / "lock", out):
        _begin(work, plan)
        try:
            yield work
        except BaseException:
            if count := work.num_finished:
                say(
                    f"{work.path} keeps {count:,} of {len(plan['inputs']):,} files: the"
                    " same command goes on from there"
                )
            else:
                shutil.rmtree(work.path, ignore_errors=True)
            raise
        work.path.rename(out)
        shutil.rmtree(out / SCRATCH)


def _refuse_strangers(path: Path) -> None:
    if path.exists() and (
        foreign := [
            each.name for each in path.iterdir() if not OWN_FILES.fullmatch(each.name)
        ]
    ):
        raise ConfigError(
            f"{path} is in the way and holds other files"
            f" ({', '.join(sorted(foreign))}): move it"
        )


@contextmanager
def _locked(path: Path, out: Path) -> Iterator[None]:
    """Holds the lock, which the system takes back when this process dies however it
    dies."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process is preparing into {out}: wait for it, or name another"
                " folder"
            ) from error
        if (
            not path.exists()
            or path.stat().st_ino != os.fstat(lock.fileno()).st_ino
            or _holds_something(out)
        ):
            raise ConfigError(
                f"another process has just finished {out}: run the command again"
            )
        yield


def _holds_something(out: Path) -> bool:
    return out.exists() and any(out.iterdir())


def _begin(work: Unfinished, plan: dict[str, Any]) -> None:
    """Clears what no tally speaks for, and keeps the rest where the plan is the
    same."""
    path = work.scratch / "plan.json"
    before = read_object(path, AGAIN) if path.is_file() else None
    if before != plan and (count := work.num_finished):
        changed = [
            key for key in plan if before is None or before.get(key) != plan[key]
        ]
        raise ConfigError(
            f"{work.path} holds {count:,} finished files of another preparation (with"
            f" another {', '.join(changed)}): go on with its command, delete the"
            " folder, or name another one"
        )
    if before != plan:
        for each in work.path.iterdir():
            if each != work.scratch:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(work.scratch / "parts")
        write_json(path, plan)
    elif count := work.num_finished:
        say(
            f"{work.path}: going on, {count:,} of {len(plan['inputs']):,} files are"
            " finished"
        )
    shutil.rmtree(work.scratch / "parts", ignore_errors=True)
