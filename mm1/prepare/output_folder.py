"""The folder that a preparation writes: `<out>.unfinished`, renamed to `out` once
complete.

    scratch/lock            held by the process that writes here
            columns/        lengths of the documents of each shard, to be joined
            plan.json       what is made from which inputs; another plan cannot resume
            parts/          output of files in progress, a folder for each attempt
            drops/          dropped records and images, a list for each file
            stats/          counts of each finished file, by step

A file's output is moved into place before its counts are written, and only by the
process that holds the lock. A file with counts is therefore complete, whatever was
killed when, and the same command resumes with the others.
"""

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.data.prepared.columns import SCRATCH, join_columns
from mm1.data.prepared.shard_writer import ShardWriter
from mm1.data.tokenizer import SPECIAL_TOKENS, TOKENIZER
from mm1.dist import say
from mm1.files import durable_rename, read_object, unfinished_path, write_json
from mm1.prepare.bounded_text import shorten
from mm1.prepare.skipped import Skipped
from mm1.prepare.sources import Unusable
from mm1.storage.remote_file import put_file
from mm1.storage.remote_path import RemotePath

SPLITS = ("train", "validation")
MAX_KEY = 1000
"""Characters of a key in the list of drops; names in a tar may be of any length."""
REMEDY = "delete the folder, and prepare the data again"
OWN_FILES = re.compile(
    "|".join(
        [
            SCRATCH,
            r"manifest\.json",
            r"drops\.jsonl",
            TOKENIZER,
            SPECIAL_TOKENS,
            *SPLITS,
            r"\d+\.parquet",
        ]
    )
)


@dataclass(slots=True)
class ConversionStats:
    """What became of the records of one file, or of several."""

    records_in: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    """Reason -> records."""
    images_dropped: Counter[str] = field(default_factory=Counter)
    """Reason -> images."""
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {split: Counter() for split in SPLITS}
    )
    """Split -> documents, tokens (of text, with end tokens) and images."""
    shards: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {split: [] for split in SPLITS}
    )
    noted: Counter[str] = field(default_factory=Counter)
    """What the source counts besides, such as captions replaced."""
    skipped: Skipped = field(default_factory=Skipped)
    """What the source met that is not of its kind."""

    def add(self, other: "ConversionStats") -> None:
        self.records_in += other.records_in
        self.drops += other.drops
        self.images_dropped += other.images_dropped
        self.noted += other.noted
        self.skipped.update(other.skipped)
        for split in SPLITS:
            self.counts[split] += other.counts[split]
            self.shards[split] += other.shards[split]

    def total(self, what: str) -> int:
        return sum(self.counts[split][what] for split in SPLITS)

    @staticmethod
    def load(path: Path) -> "ConversionStats":
        values = read_object(path, REMEDY)
        counts = values.pop("counts")
        for name in ("drops", "images_dropped", "noted"):
            values[name] = Counter(values[name])
        values["skipped"] = Skipped.from_json(values["skipped"])
        return ConversionStats(
            counts={split: Counter(counts[split]) for split in counts}, **values
        )

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        write_json(path, values | {"skipped": self.skipped.to_json()})

    def manifest(
        self, columns: dict[str, dict[str, dict[str, Any]]]
    ) -> dict[str, Any]:
        """The counts as a manifest has them, with the `columns` of each split."""
        whats = ("documents", "tokens", "images")
        return {
            "records_in": self.records_in,
            **{what: self.total(what) for what in whats},
            "drops": dict(self.drops.most_common()),
            "images_dropped": dict(self.images_dropped.most_common()),
            "noted": dict(self.noted.most_common()),
            "skipped": self.skipped.to_json(),
            "splits": {
                split: {
                    **{what: self.counts[split][what] for what in whats},
                    "shards": self.shards[split],
                    "columns": columns[split],
                }
                for split in SPLITS
            },
        }


class FileOutput:
    """Shards, drops and counts of one file, in a folder laid out as the whole is."""

    def __init__(
        self, folder: Path, job: Any, *, begin: bool, drops: str
    ) -> None:
        """`drops` tells this list of drops from another one of the same file."""
        self.folder = folder
        self.job = job
        self.begin = begin
        self.stats = ConversionStats()
        self.writers: dict[str, ShardWriter] = {}
        path = folder / SCRATCH / "drops" / f"{job.number:05}{drops}.jsonl"
        path.parent.mkdir(parents=True)
        self.drop_list = path.open("w", encoding="utf-8")

    def keep(self, split: str, key: str, document: Document) -> None:
        if split not in self.writers:
            self.writers[split] = ShardWriter(
                self.folder, split, self.job.number, begin=self.begin
            )
        row = self.writers[split].add(key, document)
        if split in SPLITS:
            self.stats.counts[split] += Counter(
                documents=1,
                tokens=row["num_text_tokens"],
                images=row["num_images"],
            )

    def drop(self, kind: str, key: str, why: Unusable) -> None:
        """Count and list a dropped "record" or "image"."""
        drops = (
            self.stats.drops if kind == "record" else self.stats.images_dropped
        )
        drops[why.reason] += 1
        line = {
            "file": str(self.job.file),
            "key": shorten(key, MAX_KEY),
            "dropped": kind,
            "reason": why.reason,
            "detail": why.detail,
        }
        self.drop_list.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self.drop_list.close()
        for split, writer in self.writers.items():
            shards = writer.close()
            if split in SPLITS:
                self.stats.shards[split] = shards

    def abandon(self) -> None:
        self.drop_list.close()
        for writer in self.writers.values():
            writer.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def file_output(
    job: Any, *, begin: bool, drops: str = ""
) -> Iterator[FileOutput]:
    """The output of one attempt at a file; its folder is removed on any error."""
    parts = job.folder / SCRATCH / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{job.number:05}-", dir=parts))
    output = FileOutput(folder, job, begin=begin, drops=drops)
    try:
        yield output
        output.close()
    except BaseException:
        output.abandon()
        raise


class OutputFolder:
    """A locked, incomplete folder and what is finished in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / SCRATCH
        self.shards_go_to: RemotePath | None = None
        """Where shards are put instead of being kept here."""

    def stats(self, step: str) -> dict[int, ConversionStats]:
        """Counts of the files that have finished a step: number -> counts, in order."""
        paths = (self.scratch / "stats" / step).glob("*.json")
        return {
            int(path.stem): ConversionStats.load(path)
            for path in sorted(paths, key=lambda path: int(path.stem))
        }

    def commit(
        self, step: str, number: int, part: Path, stats: ConversionStats
    ) -> None:
        """Move the output of a file into place, then record that it is finished."""
        for file in sorted(path for path in part.rglob("*") if path.is_file()):
            name = file.relative_to(part)
            if self.shards_go_to is not None and name.parts[0] in SPLITS:
                put_file(file, str(self.shards_go_to / name))
                continue
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            durable_rename(file, target)
        shutil.rmtree(part)
        stats.save(self.scratch / "stats" / step / f"{number:05}.json")

    @property
    def num_finished(self) -> int:
        """Files that have finished their first step."""
        steps = (self.scratch / "stats").glob("*")
        return max((len(self.stats(step.name)) for step in steps), default=0)

    def join_columns(
        self, stats: ConversionStats
    ) -> dict[str, dict[str, dict[str, Any]]]:
        """Write the columns of each split; return their entries for the manifest."""
        return {
            split: join_columns(self.path, split, shards) if shards else {}
            for split, shards in stats.shards.items()
        }

    def join_drops(self) -> None:
        """Write one list of all drops, in the order of files."""
        parts = (self.scratch / "drops").glob("*.jsonl")
        with (self.path / "drops.jsonl").open("wb") as whole:
            for part in sorted(
                parts,
                key=lambda path: (int(path.name.partition(".")[0]), path.name),
            ):
                with part.open("rb") as lines:
                    shutil.copyfileobj(lines, whole)


@contextmanager
def open_output_folder(
    out: Path, plan: dict[str, Any]
) -> Iterator[OutputFolder]:
    """The folder `<out>.unfinished`, new or as an earlier attempt at the same plan left
    it; renamed to `out` at the end.

    On an error it is kept for the same command to resume, unless nothing in it is
    finished.

    Raises:
        ConfigError: another process is writing it, or it holds other files, or finished
            files of another plan.
    """
    output = OutputFolder(unfinished_path(out))
    _refuse_foreign_files(output.path)
    output.scratch.mkdir(parents=True, exist_ok=True)
    with lock_output(output.scratch / "lock", out):
        _resume_or_clear(output, plan)
        try:
            yield output
        except BaseException:
            if count := output.num_finished:
                say(
                    f"{output.path} keeps {count:,} of {len(plan['inputs']):,} files:"
                    " run the same command again to resume"
                )
            else:
                shutil.rmtree(output.path, ignore_errors=True)
            raise
        durable_rename(output.path, out)
        shutil.rmtree(out / SCRATCH)


def _refuse_foreign_files(path: Path) -> None:
    if not path.exists():
        return
    names = [each.name for each in path.iterdir()]
    if foreign := sorted(
        name for name in names if not OWN_FILES.fullmatch(name)
    ):
        raise ConfigError(
            f"{path} is in the way and holds other files ({', '.join(foreign)}): move"
            " it"
        )


@contextmanager
def lock_output(path: Path, out: Path) -> Iterator[None]:
    """Hold the lock; the system releases it however this process dies."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another process is preparing {out}: wait for it, or choose another"
                " folder"
            ) from error
        was_moved = (
            not path.exists()
            or path.stat().st_ino != os.fstat(lock.fileno()).st_ino
        )
        if was_moved or (out.exists() and any(out.iterdir())):
            raise ConfigError(
                f"another process has just finished {out}: run the command again"
            )
        yield


def _resume_or_clear(output: OutputFolder, plan: dict[str, Any]) -> None:
    """Keep the finished files if the plan is the same, and remove everything else."""
    path = output.scratch / "plan.json"
    before = read_object(path, REMEDY) if path.is_file() else None
    if before != plan and (count := output.num_finished):
        changed = [
            key
            for key in plan
            if before is None or before.get(key) != plan[key]
        ]
        raise ConfigError(
            f"{output.path} holds {count:,} finished files of another preparation"
            f" (different {', '.join(changed)}): finish it with its own command, delete"
            " the folder, or choose another one"
        )
    if before != plan:
        for each in output.path.iterdir():
            if each != output.scratch:
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        write_json(path, plan)
    elif count := output.num_finished:
        say(
            f"{output.path}: resuming, {count:,} of {len(plan['inputs']):,} files are"
            " finished"
        )
    shutil.rmtree(output.scratch / "parts", ignore_errors=True)
