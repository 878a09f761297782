"""Image-caption pairs in WebDataset tars.

Members that share a name up to its first dot are one sample and lie side by side:

    00017.jpg    00017.txt    00017.json    00018.jpg ...

The caption is the `.txt`, or, where there is none, the field `caption` of the `.json`;
a config may name another field, so that several captions of one picture are prepared
from the same files.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import verify
from mm1.prepare.sources import DOT, Record, Source, Unusable, found

PICTURES = ("jpg", "jpeg", "png", "webp")
MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<kind>[^/]+)")

Sample = dict[str, bytes | Unusable]


class Captions(Source):
    """A picture and its caption."""

    EXAMPLE = {"jpg": DOT, "txt": b"A photo of a dog on a beach.\n"}
    PATTERNS = ("*.tar",)

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        field: str = ""
        """The field of the sample's json that holds the caption; empty: the txt, or
        else the json's `caption`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        """Samples in order. A tar that breaks off gives its whole samples, and one
        Unusable for the rest."""
        with path.open("rb") as file:
            try:
                tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (it has only the file to close)
            except tarfile.TarError as error:
                yield Record("", Unusable("not a tar file", str(error)))
                return
            yield from self._samples(tar)

    def _samples(self, tar: tarfile.TarFile) -> Iterator[Record]:
        key = ""
        sample = Sample()
        damage = ""
        try:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # tarfile remembers all of them: there may be millions
                name = MEMBER.fullmatch(member.name) if member.isfile() else None
                if name is None:
                    continue
                kind = name["kind"].lower()
                if name["key"] != key or kind in sample:
                    if sample:
                        yield Record(key, sample)
                    key = name["key"]
                    sample = Sample()
                if kind in (*PICTURES, "txt", "json"):
                    sample[kind] = _read(tar, member)
        except (tarfile.TarError, EOFError) as error:
            damage = str(error)
        damage = damage or _damaged_end(tar)
        if sample and (not damage or self._whole(sample)):
            yield Record(key, sample)
        if damage:
            yield Record(
                key,
                Unusable(
                    "truncated tar",
                    f"{damage}; the last sample read was {key or 'none'}",
                ),
            )

    def _whole(self, sample: Sample) -> bool:
        caption = ("json",) if self.config.field else ("txt", "json")
        return any(kind in sample for kind in PICTURES) and any(
            kind in sample for kind in caption
        )

    def document(self, data: Any) -> Document:
        pictures = [data[kind] for kind in PICTURES if kind in data]
        if not pictures:
            raise Unusable("no image", f"the sample has {', '.join(data) or 'nothing'}")
        caption = verify.text(self._caption(data), "caption")
        return Document((found(_bytes(pictures[0])), Text(caption.strip())))

    def _caption(self, data: Any) -> Any:
        if "txt" in data and not self.config.field:
            return verify.utf8(_bytes(data["txt"]))
        if "json" not in data:
            raise Unusable("no caption", f"the sample has {', '.join(data)}")
        try:
            fields = json.loads(verify.utf8(_bytes(data["json"])))
        except (ValueError, RecursionError) as error:
            raise (
                error
                if isinstance(error, Unusable)
                else Unusable("broken JSON", str(error))
            ) from error
        return (
            fields.get(self.config.field or "caption")
            if isinstance(fields, dict)
            else None
        )


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Unusable:
    if member.size > verify.MAX_BYTES:
        return Unusable(
            "file too large",
            f"{member.name} has {member.size:,} bytes; the limit is"
            f" {verify.MAX_BYTES:,}",
        )
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise tarfile.ReadError(
            f"{member.name} breaks off after {len(data):,} of {member.size:,} bytes"
        )
    return data


def _bytes(value: bytes | Unusable) -> bytes:
    if isinstance(value, Unusable):
        raise value
    return value


def _damaged_end(tar: tarfile.TarFile) -> str:
    """What is wrong where reading stopped: tarfile takes a damaged header for the end,
    a whole tar ends with zeros."""
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block == tarfile.NUL * tarfile.BLOCKSIZE:
        return ""
    return (
        f"damaged header at byte {tar.offset:,}"
        if block
        else f"no end mark at byte {tar.offset:,}"
    )
