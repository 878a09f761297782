"""Image-caption pairs in WebDataset tars, or in folders of files.

Files whose names agree up to the suffix are one sample, and adjacent in a tar
(`mm1.prepare.samples` says what becomes of further dots in a name):

    00017.jpg    00017.txt    00017.json    00018.jpg ...

The caption is the `.txt`, or, without one, the field `caption` of the `.json`. The
config may name another field, so that several captions of an image can be prepared from
the same files. A folder that holds no tar is read as one, at any depth.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import verify
from mm1.prepare.samples import Sample, Samples, folder_members
from mm1.prepare.skipped import Skipped
from mm1.prepare.sources import (
    DOT,
    IMAGE_KINDS,
    IMAGE_SUFFIXES,
    Record,
    Source,
    Unusable,
    raw_image,
)
from mm1.prepare.tars import NO_END_MARK, read_members


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

    @classmethod
    def find(cls, path: Path) -> list[Path]:
        return [path] if _is_folder_of_files(cls, path) else super().find(path)

    @classmethod
    def skipped_in(cls, folder: Path) -> Skipped:
        if _is_folder_of_files(cls, folder):
            return Skipped()  # `read` counts them
        return super().skipped_in(folder)

    def read(self, path: Path) -> Iterator[Record]:
        """Samples in order; a truncated tar gives its complete samples and one
        `Unusable` for the rest."""
        members = (
            folder_members(path, self.skipped)
            if path.is_dir()
            else read_members(path, self.skipped, self.noted)
        )
        suffixes = (*IMAGE_KINDS, "txt", "json")
        samples = Samples(suffixes, self._is_whole, self.skipped)
        key = ""
        try:
            for key, sample in samples.read(members):
                if self.noted[NO_END_MARK] and not self._is_whole(sample):
                    raise Unusable("truncated tar", NO_END_MARK)
                self._skip_unused(key, sample)
                yield Record(key, sample)
        except Unusable as why:
            last = f"the last sample read was {key or 'none'}"
            detail = f"{why.detail}; {last}" if key else why.detail
            yield Record(key, Unusable(why.reason, detail))

    def _is_whole(self, sample: Sample) -> bool:
        caption = ("json",) if self.config.field else ("txt", "json")
        return any(kind in sample for kind in IMAGE_KINDS) and any(
            kind in sample for kind in caption
        )

    def _skip_unused(self, key: str, sample: Sample) -> None:
        """Count what a sample has besides an image and a caption."""
        images = [kind for kind in IMAGE_KINDS if kind in sample]
        for kind in images[1:]:
            self.skipped.add("further image of a sample", f"{key}.{kind}")
        unused = "txt" if self.config.field else "json"
        if {"txt", "json"} <= sample.keys():
            self.skipped.add(f".{unused} file", f"{key}.{unused}")

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


def _is_folder_of_files(cls: type[Source], path: Path) -> bool:
    """Whether a folder holds no tar, but images, at any depth."""
    if not path.is_dir() or cls.files_in(path):
        return False
    return any(
        each.suffix.lower() in IMAGE_SUFFIXES for each in path.rglob("*.*")
    )


def _bytes(value: bytes | Unusable) -> bytes:
    if isinstance(value, Unusable):
        raise value
    return value
