"""Prepared documents gone over once more, by a verdict on each file: some are dropped,
some lose pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.data.document import Document, Image
from mm1.data.prepared.shards import read_documents
from mm1.files import read_object, write_text
from mm1.prepare import verify
from mm1.prepare.content_hash import image_hash
from mm1.prepare.convert import (
    ASIDE,
    SCRATCH,
    Job,
    Tally,
    new_part,
    tokenised,
    tokenizer_of,
)
from mm1.prepare.deduplicate import EVERYWHERE, Verdict
from mm1.prepare.output_folder import AGAIN
from mm1.prepare.sources import Unusable
from mm1.prepare.workers import Report

VERDICTS = f"{SCRATCH}/verdicts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sifting:
    """One file's documents, and where they go."""

    number: int
    file: Path
    """Where the documents come from, as drops name it."""
    folder: Path
    tokenizer: str
    shards: tuple[Path, ...]
    job: Job | None = None
    """How the file was read, which decides the split."""
    split: str = ""
    """The split of all documents where they were split before."""


def aside(folder: Path, number: int) -> tuple[Path, ...]:
    """The documents of a file that are set aside, in order."""
    return tuple(sorted((folder / ASIDE).glob(f"{number:05}-*.arrow")))


def verdict_path(folder: Path, number: int) -> Path:
    return folder / VERDICTS / f"{number:05}.json"


def write_verdicts(folder: Path, verdicts: Sequence[Verdict]) -> None:
    (folder / VERDICTS).mkdir(parents=True, exist_ok=True)
    for number, verdict in enumerate(verdicts):
        found = {"documents": verdict.documents, "images": sorted(verdict.images)}
        write_text(verdict_path(folder, number), json.dumps(found))


def sift_file(job: Sifting, report: Report) -> tuple[Path, Tally]:
    """One file's documents -> a folder with the shards of those that are kept, and the
    list of the others.

    The tally counts what is kept and dropped here; that of reading counts the rest.
    """
    verdict = read_object(verdict_path(job.folder, job.number), AGAIN)
    tokenizer = tokenizer_of(job.folder, job.tokenizer)
    dropped = verdict["documents"]
    gone = frozenset(verdict["images"])

    def look(image: Image) -> Image:
        if image_hash(image) in gone:
            raise Unusable(EVERYWHERE)
        return image

    with new_part(job, begin=tokenizer.begin is not None, drops=".sifted") as part:
        documents = (found for shard in job.shards for found in read_documents(shard))
        for number, (key, document) in enumerate(documents):
            report(number + 1, part.tally.drops.total())
            record = key if job.job is None else _record(job.file, key)
            if (why := dropped.get(str(number))) is not None:
                part.drop("record", record, Unusable(*why))
                continue
            if gone:
                document, lost = _without(document, look)
                document = tokenised(document, tokenizer) if lost else document
                for each in lost:
                    part.drop("image", record, each)
            part.keep(job.job.split(document) if job.job else job.split, key, document)
    return part.folder, part.tally


def _without(document: Document, look: verify.Look) -> tuple[Document, list[Unusable]]:
    return verify.document(document, pictures_matter=False, look=look)


def _record(file: Path, key: str) -> str:
    """The key of a record in its file."""
    return key.removeprefix(f"{file}#".encode("utf-8", "backslashreplace").decode())
