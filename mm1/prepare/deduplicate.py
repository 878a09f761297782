"""Copies across files: of documents, of texts that are nearly the same, of pictures
that are everywhere.

Each file's documents are marked while it is read, in a process of its own; then all
marks are judged together, in the order of files and records, so that the first of
several copies stays, however many processes read.

Nearly the same: MinHash over sequences of words and locality-sensitive hashing (Broder
1997), by `datasketch`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt64

from mm1.config import ConfigError, Configurable, UserError
from mm1.data.document import Document
from mm1.prepare.content_hash import document_hash, image_hash, words
from mm1.prepare.sources import Unusable

EVERYWHERE = "image in many documents"

SCHEME = "affine32"
"""How datasketch permutes; 32 bits a hash."""


@dataclass(slots=True)
class Verdict:
    """What one file loses."""

    documents: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Place among the file's documents -> (reason, detail)."""
    images: set[int] = field(default_factory=set)
    """Hashes of pictures that are left out of its documents."""


class Duplicates(Configurable):
    """Which copies are left out."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        exact: bool = False
        """Of documents with the same words and the same pictures, only the first
        stays."""
        near: float | None = None
        """Documents whose words resemble those of a kept one so much are left out: from
        above 0, no likeness, to 1."""
        near_words: int = 5
        """Words in the sequences that are compared; likeness is how many of two texts'
        sequences are in both."""
        near_hashes: int = 128
        """More are more exact: likeness is estimated to within 1 /
        sqrt(near_hashes)."""
        max_documents_of_image: int | None = None
        """A picture that is in more documents than this is left out of all of them."""

        def build(self) -> "Duplicates":
            return self.make()

    def __init__(self, config: Config) -> None:
        """Raises ConfigError for a likeness that is none, UserError where `datasketch`
        is not installed."""
        if config.near is not None and not 0 < config.near <= 1:
            raise ConfigError(
                f"duplicates.near is a likeness from above 0 to 1, not {config.near}"
            )
        self.config = config
        self.empty = (
            None
            if config.near is None
            else _datasketch().MinHash(config.near_hashes, scheme=SCHEME)
        )

    @property
    def asked_for(self) -> bool:
        """Must files be looked at together at all?"""
        c = self.config
        return c.exact or c.near is not None or c.max_documents_of_image is not None

    def mark(self, key: str, document: Document) -> dict[str, Any]:
        """What is remembered of a document: a row of `schema`."""
        c = self.config
        return {
            "key": key,
            "document": document_hash(document) if c.exact else 0,
            "images": (
                [image_hash(image) for image in document.images]
                if c.max_documents_of_image is not None
                else []
            ),
            "signature": (
                None if self.empty is None else self._signature(words(document).split())
            ),
        }

    def schema(self) -> Any:
        import pyarrow as pa

        signature = (
            pa.null()
            if self.config.near is None
            else pa.list_(pa.uint32(), self.config.near_hashes)
        )
        columns = {
            "key": pa.string(),
            "document": pa.uint64(),
            "images": pa.list_(pa.uint64()),
            "signature": signature,
        }
        return pa.schema(columns)

    def _signature(self, words: Sequence[str]) -> Any:
        n = min(self.config.near_words, len(words))
        sequences = {
            " ".join(words[i : i + n]).encode() for i in range(len(words) - n + 1)
        }
        signature = self.empty.copy()  # type: ignore[union-attr]
        signature.update_batch(sorted(sequences))
        return signature.hashvalues

    def judge(
        self,
        marks: Sequence[Any],
        check_num_images: Callable[[int], None],
        *,
        pictures_matter: bool,
    ) -> list[Verdict]:
        """The verdict on each file's table of marks.

        Pictures first, and where `pictures_matter` the documents that they are in; then
        documents that are left with too few or too many; copies are looked for among
        the rest.
        """
        import pyarrow as pa

        table = pa.concat_tables(marks)
        verdicts = [Verdict() for _ in marks]
        ends = np.cumsum([len(each) for each in marks])

        def drop(number: int, reason: str, detail: str) -> None:
            file = int(np.searchsorted(ends, number, side="right"))
            verdicts[file].documents[number - (int(ends[file - 1]) if file else 0)] = (
                reason,
                detail,
            )
            alive[number] = False

        alive = np.ones(len(table), dtype=bool)
        if self.config.max_documents_of_image is not None:
            hashes, owners, gone = self._everywhere(table)
            if pictures_matter:
                for number in np.unique(owners[gone]).tolist():
                    drop(number, EVERYWHERE, "")
            else:
                files = np.searchsorted(ends, owners[gone], side="right")
                for file, known in zip(
                    files.tolist(), hashes[gone].tolist(), strict=True
                ):
                    verdicts[file].images.add(known)
            left = np.bincount(owners[~gone], minlength=len(table))
            for number, why in _refused(left, alive, check_num_images):
                drop(number, why.reason, why.detail)
        if self.config.exact:
            hashes = table.column("document").to_numpy()
            for number, first in _copies(hashes, alive):
                drop(number, "duplicate", f"of {table.column('key')[first]}")
        if self.config.near is not None:
            for number, first, likeness in self._near_copies(
                table.column("signature"), alive
            ):
                drop(
                    number,
                    "near-duplicate",
                    f"{likeness:.2f} like {table.column('key')[first]}",
                )
        return verdicts

    def _everywhere(
        self, table: Any
    ) -> tuple[UInt64[np.ndarray, " n"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """(hash, number of its document, is it in too many documents?) of every
        picture."""
        import pyarrow.compute as pc

        hashes = pc.list_flatten(table.column("images")).to_numpy()  # type: ignore[attr-defined]
        lengths = pc.list_value_length(table.column("images")).to_numpy()  # type: ignore[attr-defined]
        owners = np.repeat(np.arange(len(table)), lengths)
        order = np.lexsort((owners, hashes))
        pairs = np.stack([hashes[order], owners[order].astype(np.uint64)])
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(
            0
        )  # a picture counts once in a document
        found, counts = np.unique(pairs[0][new], return_counts=True)
        most = self.config.max_documents_of_image or 0
        return hashes, owners, np.isin(hashes, found[counts > most])

    def _near_copies(
        self, signatures: Any, alive: Bool[np.ndarray, " documents"]
    ) -> Any:
        """(number, the first one it is like, how like) of each document that resembles
        one that is kept."""
        library = _datasketch()
        threshold = self.config.near or 0.0
        index = library.MinHashLSH(
            threshold=threshold, num_perm=self.config.near_hashes
        )
        size = self.config.near_hashes
        values = np.concatenate(
            [chunk.flatten().to_numpy() for chunk in signatures.chunks]
            or [np.empty(0, np.uint32)]
        )
        values = values.reshape(-1, size)
        for number in np.flatnonzero(alive).tolist():
            signature = library.LeanMinHash(
                seed=1, hashvalues=values[number], scheme=SCHEME
            )
            alike = sorted(index.query(signature))
            likeness = (values[alike] == values[number]).mean(1)
            if (close := np.flatnonzero(likeness >= threshold)).size:
                yield number, alike[close[0]], likeness[close[0]]
            else:
                index.insert(number, signature, check_duplication=False)


def _datasketch() -> Any:
    try:
        import datasketch  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            "duplicates.near needs `datasketch`: pip install 'mm1[filters]'"
        ) from error
    return datasketch


def _copies(
    hashes: UInt64[np.ndarray, " documents"], alive: Bool[np.ndarray, " documents"]
) -> list[tuple[int, int]]:
    """(number, number of the first one with the same hash) of each one alive that is
    not the first."""
    numbers = np.flatnonzero(alive)
    _, first, which = np.unique(hashes[numbers], return_index=True, return_inverse=True)
    firsts = numbers[first][which]
    later = firsts != numbers
    return list(zip(numbers[later].tolist(), firsts[later].tolist(), strict=True))


def _refused(
    left: Int[np.ndarray, " documents"],
    alive: Bool[np.ndarray, " documents"],
    check: Callable[[int], None],
) -> list[tuple[int, Unusable]]:
    """(number, why) of the documents whose number of pictures left is refused."""
    found = []
    for count in np.unique(left[alive]).tolist():
        try:
            check(count)
        except Unusable as why:
            found += [
                (number, why)
                for number in np.flatnonzero(alive & (left == count)).tolist()
            ]
    return found
