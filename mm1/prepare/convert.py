"""One raw file -> its shards: each record read, verified, filtered, tokenised, counted,
or dropped with its reason.

All that comes of a file is written into a folder of its own, laid out as the whole is,
which `mm1.prepare.output_folder` moves into place when the file is through. Where files
must be looked at together, documents are set aside with their marks, and
`mm1.prepare.rewrite` goes over them once more.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.data.prepared.shards import ShardWriter
from mm1.data.tokenizer import Tokenizer
from mm1.prepare import verify
from mm1.prepare.content_hash import ValidationBy, is_validation
from mm1.prepare.filters import Filters
from mm1.prepare.sources import Record, Source, Unusable
from mm1.prepare.workers import Report

SPLITS = ("train", "validation")
SCRATCH = "scratch"
"""Where a folder keeps what it needs while it is not whole."""
ASIDE = f"{SCRATCH}/read"
"""The split of documents that are not judged yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One raw file, and all that decides what comes of it."""

    number: int
    file: Path
    folder: Path
    """The whole preparation's; its tokenizer lies there."""
    tokenizer: str
    """Its fingerprint."""
    source: Source.Config
    filters: Filters.Config
    validation: float
    validation_by: ValidationBy

    def split(self, document: Document) -> str:
        return SPLITS[is_validation(document, self.validation, self.validation_by)]


@dataclass(slots=True)
class Tally:
    """What became of the records of one file or of many."""

    records_in: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    images_dropped: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {split: Counter() for split in SPLITS}
    )
    """Split -> documents, tokens (of text, with ends) and images."""
    shards: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {split: [] for split in SPLITS}
    )
    noted: Counter[str] = field(default_factory=Counter)
    """What the source counts beside these, such as captions replaced."""

    def add(self, other: "Tally") -> None:
        self.records_in += other.records_in
        self.drops += other.drops
        self.images_dropped += other.images_dropped
        self.noted += other.noted
        for split in SPLITS:
            self.counts[split] += other.counts[split]
            self.shards[split] += other.shards[split]

    def total(self, what: str) -> int:
        return sum(self.counts[split][what] for split in SPLITS)

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Tally":
        """From its fields by name, as JSON keeps them."""
        counts = {split: Counter(counts) for split, counts in found["counts"].items()}
        drops, images, noted = (
            Counter(found[name]) for name in ("drops", "images_dropped", "noted")
        )
        return Tally(found["records_in"], drops, images, counts, found["shards"], noted)

    def to_json(self) -> dict[str, Any]:
        """As a manifest tells it."""
        whats = ("documents", "tokens", "images")
        return {
            "records_in": self.records_in,
            **{what: self.total(what) for what in whats},
            "drops": dict(self.drops.most_common()),
            "images_dropped": dict(self.images_dropped.most_common()),
            "noted": dict(self.noted.most_common()),
            "splits": {
                split: {
                    **{what: self.counts[split][what] for what in whats},
                    "shards": self.shards[split],
                }
                for split in SPLITS
            },
        }


class Part:
    """What comes of one file: its documents, its drops and their count."""

    def __init__(self, folder: Path, job: Any, *, begin: bool, drops: str) -> None:
        """`drops` tells this list of drops from another one of the same file."""
        self.folder = folder
        self.job = job
        self.begin = begin
        self.tally = Tally()
        self.writers: dict[str, ShardWriter] = {}
        path = folder / SCRATCH / "drops" / f"{job.number:05}{drops}.jsonl"
        path.parent.mkdir(parents=True)
        self.listed = path.open("w", encoding="utf-8")

    def keep(self, split: str, key: str, document: Document) -> None:
        if split not in self.writers:
            self.writers[split] = ShardWriter(
                self.folder, split, self.job.number, begin=self.begin
            )
        row = self.writers[split].add(key, document)
        if split in SPLITS:
            counts = Counter(
                documents=1, tokens=row["num_text_tokens"], images=row["num_images"]
            )
            self.tally.counts[split] += counts

    def drop(self, kind: str, key: str, why: Unusable) -> None:
        (self.tally.drops if kind == "record" else self.tally.images_dropped)[
            why.reason
        ] += 1
        line = {
            "file": str(self.job.file),
            "key": key,
            "dropped": kind,
            "reason": why.reason,
            "detail": why.detail,
        }
        self.listed.write(json.dumps(line) + "\n")

    def close(self) -> None:
        self.listed.close()
        for split, writer in self.writers.items():
            shards = writer.close()
            if split in SPLITS:
                self.tally.shards[split] = shards

    def abandon(self) -> None:
        self.listed.close()
        for writer in self.writers.values():
            writer.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def new_part(job: Any, *, begin: bool, drops: str = "") -> Iterator[Part]:
    """A part in a folder that vanishes where something goes wrong; another attempt at
    the file has another folder."""
    parts = job.folder / SCRATCH / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{job.number:05}-", dir=parts))
    part = Part(folder, job, begin=begin, drops=drops)
    try:
        yield part
        part.close()
    except BaseException:
        part.abandon()
        raise


def read_file(job: Job, report: Report) -> tuple[Path, Tally]:
    """One raw file -> a folder with its shards, or with documents set aside and their
    marks, and its list of drops."""
    source = job.source.build()
    filters = job.filters.build()
    tokenizer = tokenizer_of(job.folder, job.tokenizer)
    marks: list[dict[str, Any]] = []
    apart = filters.duplicates.asked_for
    with new_part(job, begin=tokenizer.begin is not None) as part:
        for record in source.read(job.file):
            part.tally.records_in += 1
            report(part.tally.records_in, part.tally.drops.total())
            try:
                document, lost = _document(source, filters, record, job.file, tokenizer)
            except Unusable as why:
                part.drop("record", record.key, why)
                continue
            for why in lost:
                part.drop("image", record.key, why)
            # names of files may be any bytes
            key = f"{job.file}#{record.key}".encode(
                "utf-8", "backslashreplace"
            ).decode()
            part.keep(ASIDE if apart else job.split(document), key, document)
            if apart:
                marks.append(filters.duplicates.mark(key, document))
        if apart:
            _write_marks(part.folder, job.number, marks, filters)
        part.tally.noted = source.noted
    return part.folder, part.tally


def marks_path(folder: Path, number: int) -> Path:
    return folder / SCRATCH / "marks" / f"{number:05}.arrow"


def _write_marks(
    folder: Path, number: int, marks: list[dict[str, Any]], filters: Filters
) -> None:
    import pyarrow as pa

    (path := marks_path(folder, number)).parent.mkdir(parents=True)
    schema = filters.duplicates.schema()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_table(pa.Table.from_pylist(marks, schema))


@lru_cache(maxsize=1)
def tokenizer_of(folder: Path, fingerprint: str) -> Tokenizer:
    """The one that lies in the folder; a process loads it once."""
    tokenizer = Tokenizer.Config(path=str(folder)).build()
    if tokenizer.fingerprint != fingerprint:
        raise RuntimeError(
            f"the tokenizer of {folder} is {tokenizer.fingerprint}, not {fingerprint}"
        )
    return tokenizer


def _document(
    source: Source, filters: Filters, record: Record, path: Path, tokenizer: Tokenizer
) -> tuple[Document, list[Unusable]]:
    """The record as a verified, filtered and tokenised document, and the pictures that
    it lost."""
    if isinstance(record.data, Unusable):
        raise record.data
    try:
        found = source.document(record.data)
    except Unusable:
        raise
    except Exception as error:
        error.add_note(f"while reading {path}#{record.key}")
        raise
    look = filters.images.of_one_document(verify.picture)
    document, lost = verify.document(
        found, pictures_matter=source.PICTURES_MATTER, look=look
    )
    filters.check(document)
    return tokenised(document, tokenizer), lost


def tokenised(document: Document, tokenizer: Tokenizer) -> Document:
    """Raises `Unusable` where nothing is left to learn from."""
    parts = [
        (
            replace(part, tokens=tuple(tokenizer.encode(part.content)))
            if isinstance(part, Text)
            else part
        )
        for part in document.parts
    ]
    if not any(part.tokens and part.loss for part in parts if isinstance(part, Text)):
        raise Unusable("no text", "the tokenizer makes nothing of it")
    return Document(tuple(parts))
