"""One raw file -> its shards: each record read, verified, tokenised, counted, or dropped with its reason."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mm1.data import verify
from mm1.data.document import Document, Text
from mm1.data.progress import Display
from mm1.data.shards import ShardWriter
from mm1.data.sources import Record, Source, Unusable
from mm1.data.tokenizer import Tokenizer

SPLITS = ("train", "held_out")


@dataclass(slots=True)
class Tally:
    """What became of the records of one file or of many."""

    records_in: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    images_dropped: Counter[str] = field(default_factory=Counter)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    """Split -> documents, tokens (of text, with ends) and images."""
    shards: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
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

    def to_json(self) -> dict[str, Any]:
        whats = ("documents", "tokens", "images")
        return {
            "records_in": self.records_in,
            **{what: self.total(what) for what in whats},
            "drops": dict(self.drops.most_common()),
            "images_dropped": dict(self.images_dropped.most_common()),
            "noted": dict(self.noted.most_common()),
            "splits": {
                split: {**{what: self.counts[split][what] for what in whats}, "shards": self.shards[split]}
                for split in SPLITS
            },
        }


def prepare_file(
    config: Source.Config,
    path: Path,
    folder: Path,
    number: int,
    tokenizer: Tokenizer,
    held_out: float,
    display: Display,
) -> Tally:
    """One raw file -> its shards and its list of drops in `folder`, both named by `number`."""
    source, tally = config.build(), Tally()
    begin = tokenizer.begin is not None
    writers = {split: ShardWriter(folder, split, number, begin=begin) for split in SPLITS}
    (folder / "drops").mkdir(exist_ok=True)
    with (folder / "drops" / f"{number:05}.jsonl").open("w", encoding="utf-8") as listed:

        def drop(kind: str, key: str, why: Unusable) -> None:
            (tally.drops if kind == "record" else tally.images_dropped)[why.reason] += 1
            line = {"file": str(path), "key": key, "dropped": kind, "reason": why.reason, "detail": why.detail}
            listed.write(json.dumps(line) + "\n")

        for record in source.read(path):
            tally.records_in += 1
            display.show(number, path.name, tally.records_in, tally.drops.total())
            try:
                document, lost = _document(source, record, path, tokenizer)
            except Unusable as why:
                drop("record", record.key, why)
                continue
            for why in lost:
                drop("image", record.key, why)
            split = SPLITS[is_held_out(document, held_out)]
            name = f"{path}#{record.key}".encode(
                "utf-8", "backslashreplace"
            ).decode()  # names of files may be any bytes
            row = writers[split].add(name, document)
            tally.counts[split] += Counter(documents=1, tokens=row["num_text_tokens"], images=row["num_images"])
    tally.shards = {split: writer.close() for split, writer in writers.items()}
    tally.noted = source.noted
    return tally


def _document(source: Source, record: Record, path: Path, tokenizer: Tokenizer) -> tuple[Document, list[Unusable]]:
    """The record as a verified and tokenised document, and the pictures that it lost."""
    if isinstance(record.data, Unusable):
        raise record.data
    try:
        found = source.document(record.data)
    except Unusable:
        raise
    except Exception as error:
        error.add_note(f"while reading {path}#{record.key}")
        raise
    document, lost = verify.document(found, pictures_matter=source.PICTURES_MATTER)
    parts = [
        replace(part, tokens=tuple(tokenizer.encode(part.content))) if isinstance(part, Text) else part
        for part in document.parts
    ]
    if not any(part.tokens and part.loss for part in parts if isinstance(part, Text)):
        raise Unusable("no text", "the tokenizer makes nothing of it")
    return Document(tuple(parts)), lost


def is_held_out(document: Document, share: float) -> bool:
    """By a hash of the words alone: case, punctuation and white space do not count, so near-copies stay together."""
    written = "\0".join(part.content for part in document.parts if isinstance(part, Text))
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", written).casefold()).strip()
    digest = hashlib.blake2b((words or written).encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64
