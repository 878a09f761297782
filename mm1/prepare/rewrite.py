"""Second pass over prepared documents: some are removed, some lose images."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.data.document import Image
from mm1.data.prepared.shards import read_documents
from mm1.files import read_object, write_text
from mm1.prepare.content_hash import image_hash
from mm1.prepare.convert import PENDING, document_key, load_tokenizer
from mm1.prepare.deduplicate import IMAGE_IN_MANY, Removals
from mm1.prepare.output_folder import (
    REMEDY,
    SCRATCH,
    ConversionStats,
    file_output,
)
from mm1.prepare.preparation import Preparation, tokenize
from mm1.prepare.process_pool import Report
from mm1.prepare.sources import Unusable
from mm1.prepare.verify import check_document


@dataclass(frozen=True, kw_only=True, slots=True)
class RewriteJob:
    """The documents of one file, and the split that they go to."""

    number: int
    file: Path
    """Where the documents come from, as the list of drops names it."""
    folder: Path
    tokenizer: str
    shards: tuple[Path, ...]
    preparation: Preparation.Config | None = None
    """Decides the split of each document, if `split` does not."""
    split: str = ""
    """The split of all documents, if they were split before."""


def pending_shards(folder: Path, number: int) -> tuple[Path, ...]:
    """The shards of a file's documents that are set aside, in order."""
    return tuple(sorted((folder / PENDING).glob(f"{number:05}-*.arrow")))


def removals_path(folder: Path, number: int) -> Path:
    return folder / SCRATCH / "removals" / f"{number:05}.json"


def write_removals(folder: Path, removals: Sequence[Removals]) -> None:
    """Write what each file loses, for `rewrite_file` to read in any process."""
    removals_path(folder, 0).parent.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(removals):
        content = {"documents": each.documents, "images": sorted(each.images)}
        write_text(removals_path(folder, number), json.dumps(content))


def rewrite_file(
    job: RewriteJob, report: Report
) -> tuple[Path, ConversionStats]:
    """Write the shards of the documents that are kept, and the drops; return their
    folder and the counts.

    The counts are of documents kept and dropped in this pass alone.
    """
    removals = read_object(removals_path(job.folder, job.number), REMEDY)
    removed_images = frozenset(removals["images"])
    tokenizer = load_tokenizer(job.folder, job.tokenizer)
    preparation = job.preparation.build() if job.preparation else None
    prefix = document_key(job.file, "") if preparation else ""

    def check(image: Image) -> Image:
        if image_hash(image) in removed_images:
            raise Unusable(IMAGE_IN_MANY)
        return image

    with file_output(
        job, begin=tokenizer.begin is not None, drops=".rewritten"
    ) as output:
        documents = (
            pair for shard in job.shards for pair in read_documents(shard)
        )
        for number, (key, document) in enumerate(documents):
            report(number + 1, output.stats.drops.total())
            record = key.removeprefix(prefix)
            if (why := removals["documents"].get(str(number))) is not None:
                output.drop("record", record, Unusable(*why))
                continue
            if removed_images:
                document, lost = check_document(
                    document, images_required=False, check=check
                )
                document = tokenize(document, tokenizer) if lost else document
                for each in lost:
                    output.drop("image", record, each)
            split = preparation.split(document) if preparation else job.split
            output.keep(split, key, document)
    return output.folder, output.stats
