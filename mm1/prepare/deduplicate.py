"""Duplicates across files: of documents, of nearly equal texts, of images that are in
many documents.

The fingerprints of a file's documents are taken while it is read, in any process. Then
all of them are compared together, in the order of files and records, so that the first
of several copies stays, however many processes read.

Near-duplicates: MinHash over n-grams of words, or of characters where a script has no
spaces, and locality-sensitive hashing (Broder 1997), by `datasketch`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Bool, Int, UInt32, UInt64

from mm1.config import Configurable
from mm1.data.document import Document
from mm1.extras import needs_extra
from mm1.prepare.content_hash import (
    document_hash,
    image_hash,
    words_or_characters,
)
from mm1.prepare.sources import Unusable
from mm1.ranges import PositiveInt, PositiveShare

IMAGE_IN_MANY = "image in many documents"

SCHEME = "affine32"
"""How datasketch permutes; 32 bits a hash."""


@dataclass(slots=True)
class Removals:
    """What one file loses."""

    documents: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Index among the file's documents -> (reason, detail)."""
    images: set[int] = field(default_factory=set)
    """Hashes of the images to remove from its documents."""


class Duplicates(Configurable):
    """Which copies are left out."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        exact: bool = False
        """Of documents with the same words and the same images, keep only the first."""
        near: PositiveShare | None = None
        """Drop documents whose Jaccard similarity to a kept one is at least this."""
        near_words: PositiveInt = 5
        """Words in the n-grams that are compared, characters where a script has no
        spaces; the similarity is the share of n-grams that two texts have in common.
        A shorter text is one n-gram."""
        near_hashes: PositiveInt = 128
        """More are more accurate: the similarity is estimated to within
        1 / sqrt(near_hashes)."""
        max_documents_of_image: PositiveInt | None = None
        """An image in more documents than this is removed from all of them."""
        verdicts: str = ""
        """A folder that `mm1 deduplicate` wrote with these filters, from these files:
        what it names is dropped, and nothing is compared again."""

        def build(self) -> "Duplicates":
            return self.make()

    def __init__(self, config: Config) -> None:
        """Raises UserError if `datasketch` is needed and not installed."""
        self.config = config
        self.empty = (
            None
            if config.near is None or config.verdicts
            else _datasketch().MinHash(config.near_hashes, scheme=SCHEME)
        )

    @property
    def enabled(self) -> bool:
        """Whether documents have to be compared across files."""
        c = self.config
        return not c.verdicts and (
            c.exact
            or c.near is not None
            or c.max_documents_of_image is not None
        )

    def fingerprint(self, key: str, document: Document) -> dict[str, Any]:
        """What the comparison needs of a document: a row of `schema`."""
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
                None
                if self.empty is None
                else self._signature(words_or_characters(document))
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
        ngrams = {
            " ".join(words[i : i + n]).encode()
            for i in range(len(words) - n + 1)
        }
        signature = self.empty.copy()  # type: ignore[union-attr]
        signature.update_batch(sorted(ngrams))
        return signature.hashvalues

    def find_removals(
        self,
        fingerprints: Sequence[Any],
        check_num_images: Callable[[int], None],
        *,
        images_required: bool,
    ) -> list[Removals]:
        """What each file loses, by its table of fingerprints.

        Images come first and, if `images_required`, the documents that hold them; then
        documents left with too few or too many images; then copies among the rest.
        """
        import pyarrow as pa

        table = pa.concat_tables(fingerprints)
        keys = table.column("key")
        comparison = _Comparison([len(each) for each in fingerprints])
        if self.config.max_documents_of_image is not None:
            hashes, owners, frequent = self._frequent_images(table)
            if images_required:
                for number in np.unique(owners[frequent]).tolist():
                    comparison.drop(number, IMAGE_IN_MANY)
            else:
                comparison.drop_images(owners[frequent], hashes[frequent])
            left = np.bincount(owners[~frequent], minlength=len(table))
            for number, why in _wrong_num_images(
                left, comparison.alive, check_num_images
            ):
                comparison.drop(number, why.reason, why.detail)
        if self.config.exact:
            hashes = table.column("document").to_numpy()
            for number, first in _copies(hashes, comparison.alive):
                comparison.drop(number, "duplicate", f"of {keys[first]}")
        if self.config.near is not None:
            signatures = table.column("signature")
            for number, first, similarity in self._near_copies(
                signatures, comparison.alive
            ):
                detail = f"{similarity:.2f} like {keys[first]}"
                comparison.drop(number, "near-duplicate", detail)
        return comparison.removals

    @property
    def num_band_keys(self) -> int:
        """How many `band_keys` a document has."""
        bands = 0 if self.config.near is None else self.new_index().b
        return bands + self.config.exact

    def band_keys(
        self, fingerprints: Any
    ) -> UInt32[np.ndarray, "documents keys 2"]:
        """Keys of a batch of documents. Documents that `find_removals` compares have
        one in common, at the same place: of their content, or of a band of hashes.

        63 bits in two halves; others may have a key in common by chance.
        """
        rows = len(fingerprints)
        keys = []
        if self.config.exact:
            keys.append(fingerprints.column("document").to_numpy())
        if self.config.near is not None:
            index = self.new_index()
            values = _hash_values(fingerprints.column("signature"), index.h)
            for first, end in index.hashranges:
                band = np.ascontiguousarray(values[:, first:end])
                hashes = map(xxhash.xxh3_64_intdigest, band)
                keys.append(np.fromiter(hashes, np.uint64, rows))
        whole = np.stack(keys, axis=1) >> 1
        low = whole & 0xFFFFFFFF
        return np.stack([whole >> 32, low], axis=2).astype(np.uint32)

    def new_index(self) -> Any:
        """An empty index of bands that suit the similarity."""
        return _datasketch().MinHashLSH(
            threshold=self.config.near, num_perm=self.config.near_hashes
        )

    def _frequent_images(
        self, table: Any
    ) -> tuple[
        UInt64[np.ndarray, " n"], Int[np.ndarray, " n"], Bool[np.ndarray, " n"]
    ]:
        """Of every image: its hash, the number of its document, and whether it is in
        too many documents."""
        import pyarrow.compute as pc

        hashes = pc.list_flatten(table.column("images")).to_numpy()  # type: ignore[attr-defined]
        lengths = pc.list_value_length(table.column("images")).to_numpy()  # type: ignore[attr-defined]
        owners = np.repeat(np.arange(len(table)), lengths)
        order = np.lexsort((owners, hashes))
        pairs = np.stack([hashes[order], owners[order].astype(np.uint64)])
        # An image counts once for each document.
        new = np.ones(len(hashes), dtype=bool)
        new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(0)
        distinct, counts = np.unique(pairs[0][new], return_counts=True)
        most = self.config.max_documents_of_image or 0
        return hashes, owners, np.isin(hashes, distinct[counts > most])

    def _near_copies(
        self, signatures: Any, alive: Bool[np.ndarray, " documents"]
    ) -> Iterator[tuple[int, int, float]]:
        """(number, number of the first similar one, similarity) of each document that
        is similar to a kept one."""
        library = _datasketch()
        threshold = self.config.near or 0.0
        size = self.config.near_hashes
        index = self.new_index()
        values = np.concatenate(
            [
                np.empty((0, size), np.uint32),
                *(_hash_values(chunk, size) for chunk in signatures.chunks),
            ]
        )
        for number in np.flatnonzero(alive).tolist():
            signature = library.LeanMinHash(
                seed=1, hashvalues=values[number], scheme=SCHEME
            )
            candidates = sorted(index.query(signature))
            similarity = (values[candidates] == values[number]).mean(1)
            if (close := np.flatnonzero(similarity >= threshold)).size:
                yield number, candidates[close[0]], float(similarity[close[0]])
            else:
                index.insert(number, signature, check_duplication=False)


class _Comparison:
    """The documents of all files, numbered through, and what each file loses so far."""

    def __init__(self, num_documents: Sequence[int]) -> None:
        """`num_documents` is the number of documents of each file."""
        self.ends: Int[np.ndarray, " files"] = np.cumsum(num_documents)
        self.alive: Bool[np.ndarray, " documents"] = np.ones(
            sum(num_documents), bool
        )
        self.removals = [Removals() for _ in num_documents]

    def drop(self, number: int, reason: str, detail: str = "") -> None:
        file = int(np.searchsorted(self.ends, number, side="right"))
        index = number - (int(self.ends[file - 1]) if file else 0)
        self.removals[file].documents[index] = (reason, detail)
        self.alive[number] = False

    def drop_images(
        self, owners: Int[np.ndarray, " n"], hashes: UInt64[np.ndarray, " n"]
    ) -> None:
        files = np.searchsorted(self.ends, owners, side="right").tolist()
        for file, image in zip(files, hashes.tolist(), strict=True):
            self.removals[file].images.add(image)


def _datasketch() -> Any:
    with needs_extra("filters", "filters.duplicates.near"):
        import datasketch  # type: ignore[import-not-found]
    return datasketch


def _hash_values(
    signatures: Any, size: int
) -> UInt32[np.ndarray, "documents hashes"]:
    """The signatures of one chunk as a matrix."""
    return signatures.flatten().to_numpy().reshape(-1, size)


def _copies(
    hashes: UInt64[np.ndarray, " documents"],
    alive: Bool[np.ndarray, " documents"],
) -> list[tuple[int, int]]:
    """(number, number of the first one with the same hash) of each later copy."""
    numbers = np.flatnonzero(alive)
    _, first, which = np.unique(
        hashes[numbers], return_index=True, return_inverse=True
    )
    firsts = numbers[first][which]
    later = firsts != numbers
    return list(
        zip(numbers[later].tolist(), firsts[later].tolist(), strict=True)
    )


def _wrong_num_images(
    left: Int[np.ndarray, " documents"],
    alive: Bool[np.ndarray, " documents"],
    check: Callable[[int], None],
) -> list[tuple[int, Unusable]]:
    """(number, why) of the documents with too few or too many images left."""
    wrong: list[tuple[int, Unusable]] = []
    for count in np.unique(left[alive]).tolist():
        try:
            check(count)
        except Unusable as why:
            numbers = np.flatnonzero(alive & (left == count)).tolist()
            wrong += [(number, why) for number in numbers]
    return wrong
