"""One raw file -> its shards: each record is read, checked, filtered and tokenised, or
dropped with its reason.

If documents must be compared across files, they are set aside with their fingerprints;
`mm1.prepare.rewrite` writes them again without the duplicates.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1.data.tokenizer import Tokenizer
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.output_folder import SCRATCH, ConversionStats, file_output
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_pool import Report
from mm1.prepare.sources import Unusable
from mm1.prepare.verdicts import FileVerdicts

PENDING = f"{SCRATCH}/pending"
"""The "split" of documents that are not yet compared with those of other files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvertJob:
    """One raw file and how it is prepared."""

    number: int
    file: Path
    folder: Path
    """The output folder, which holds the tokenizer."""
    tokenizer: str
    """Its fingerprint."""
    preparation: Preparation.Config


def convert_file(
    job: ConvertJob, report: Report
) -> tuple[Path, ConversionStats]:
    """Write the shards and drops of one raw file; return their folder and the counts.

    If duplicates are to be found, documents go to `PENDING`, with their fingerprints.
    """
    preparation = job.preparation.build()
    duplicates = preparation.filters.duplicates
    tokenizer = load_tokenizer(job.folder, job.tokenizer)
    fingerprints: list[dict[str, Any]] = []
    verdicts = FileVerdicts(job.file, duplicates.config.verdicts)
    with file_output(job, begin=tokenizer.begin is not None) as output:
        for place, record in enumerate(preparation.source.read(job.file)):
            output.stats.records_in += 1
            report(output.stats.records_in, output.stats.drops.total())
            try:
                verdicts.check(place, record)
                document, lost = preparation.document(
                    record, job.file, tokenizer
                )
            except Unusable as why:
                output.drop("record", record.key, why)
                continue
            for why in lost:
                output.drop("image", record.key, why)
            key = document_key(job.file, record.key)
            if duplicates.enabled:
                output.keep(PENDING, key, document)
                fingerprints.append(duplicates.fingerprint(key, document))
            else:
                output.keep(preparation.split(document), key, document)
        verdicts.check_complete()
        if duplicates.enabled:
            path = fingerprints_path(output.folder, job.number)
            _write_fingerprints(path, fingerprints, duplicates)
        output.stats.noted = preparation.source.noted
        output.stats.skipped = preparation.source.skipped
    return output.folder, output.stats


def document_key(file: Path, record_key: str) -> str:
    """`file#key` as valid UTF-8: file names may be any bytes."""
    return f"{file}#{record_key}".encode("utf-8", "backslashreplace").decode()


def fingerprints_path(folder: Path, number: int) -> Path:
    return folder / SCRATCH / "fingerprints" / f"{number:05}.arrow"


def _write_fingerprints(
    path: Path, rows: list[dict[str, Any]], duplicates: Duplicates
) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True)
    schema = duplicates.schema()
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_stream(file, schema) as stream,
    ):
        stream.write_table(pa.Table.from_pylist(rows, schema))


@lru_cache(maxsize=1)
def load_tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    """The tokenizer in the output folder, loaded once a process."""
    tokenizer = Tokenizer.Config(path=str(folder)).build()
    if tokenizer.fingerprint != fingerprint:
        raise RuntimeError(
            f"the tokenizer of {folder} is {tokenizer.fingerprint}, not {fingerprint}"
        )
    return tokenizer
