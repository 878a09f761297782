"""Image-caption pairs in WebDataset tars.

Members whose names agree up to the first dot are one sample, and adjacent:

    00017.jpg    00017.txt    00017.json    00018.jpg ...

The caption is the `.txt`, or, without one, the field `caption` of the `.json`. The
config may name another field, so that several captions of an image can be prepared from
the same files.
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
from mm1.prepare.sources import DOT, Record, Source, Unusable, raw_image

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp")
MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./]+)\.(?P<kind>[^/]+)")

Sample = dict[str, bytes | Unusable]


class Captions(Source):
    """An image and its caption."""

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
        """Samples in order; a truncated tar gives its complete samples and one
        `Unusable` for the rest."""
        with path.open("rb") as file:
            try:
                tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
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
                tar.members = []  # type: ignore[attr-defined]  # there may be millions
                name = (
                    MEMBER.fullmatch(member.name) if member.isfile() else None
                )
                if name is None:
                    continue
                kind = name["kind"].lower()
                if name["key"] != key or kind in sample:
                    if sample:
                        yield Record(key, sample)
                    key = name["key"]
                    sample = Sample()
                if kind in (*IMAGE_KINDS, "txt", "json"):
                    sample[kind] = _read_member(tar, member)
        except (tarfile.TarError, EOFError) as error:
            damage = str(error)
        damage = damage or _damaged_end(tar)
        if sample and (not damage or self._is_complete(sample)):
            yield Record(key, sample)
        if damage:
            detail = f"{damage}; the last sample read was {key or 'none'}"
            yield Record(key, Unusable("truncated tar", detail))

    def _is_complete(self, sample: Sample) -> bool:
        caption = ("json",) if self.config.field else ("txt", "json")
        return any(kind in sample for kind in IMAGE_KINDS) and any(
            kind in sample for kind in caption
        )

    def document(self, data: Any) -> Document:
        images = [data[kind] for kind in IMAGE_KINDS if kind in data]
        if not images:
            raise Unusable(
                "no image", f"the sample has {', '.join(data) or 'nothing'}"
            )
        caption = verify.check_text(self._caption(data), "caption")
        return Document((raw_image(_bytes(images[0])), Text(caption.strip())))

    def _caption(self, data: Any) -> Any:
        if "txt" in data and not self.config.field:
            return verify.decode_utf8(_bytes(data["txt"]))
        if "json" not in data:
            raise Unusable("no caption", f"the sample has {', '.join(data)}")
        content = verify.decode_utf8(_bytes(data["json"]))
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Unusable("broken JSON", str(error)) from error
        if not isinstance(fields, dict):
            return None
        return fields.get(self.config.field or "caption")


def _read_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo
) -> bytes | Unusable:
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
            f"{member.name} is truncated after {len(data):,} of {member.size:,} bytes"
        )
    return data


def _bytes(value: bytes | Unusable) -> bytes:
    if isinstance(value, Unusable):
        raise value
    return value


def _damaged_end(tar: tarfile.TarFile) -> str:
    """What is wrong where reading stopped; empty at a proper end.

    tarfile takes a damaged header for the end of the tar; a complete one ends in zeros.
    """
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block == tarfile.NUL * tarfile.BLOCKSIZE:
        return ""
    what = "damaged header" if block else "no end mark"
    return f"{what} at byte {tar.offset:,}"
