"""Tars of pages: each page a json, its images beside it.

    MINT-1T (arXiv 2406.11271)   d.json {"texts", "images"}; d.tiff, a page an image
    OpenFlamingo's MMC4          d.json {"text_list", "image_info"}, images as base64
    others                       images as members, by the names that the json has

A tar is passed over twice: where its images are is noted first, so that they may lie
before or behind the pages that name them. Some 300 bytes are held for each of them.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mm1.data.document import Image
from mm1.data.image_decoding import ImageError, encoded_frames
from mm1.prepare import tables, verify
from mm1.prepare.samples import BESIDE, Samples
from mm1.prepare.skipped import Skipped
from mm1.prepare.sources import IMAGE_KINDS, Record, Unusable, raw_image
from mm1.prepare.tars import Member, read_members

PAGE = "json"


@dataclass(frozen=True, slots=True)
class TarPage:
    """A page and the images of the same name."""

    data: dict[str, Any]
    files: tuple[bytes | Unusable, ...]

    def frames(self) -> list[Image]:
        """The images in the files, in order: a TIFF may hold many."""
        images: list[Image] = []
        for file in self.files:
            try:
                if isinstance(file, Unusable):
                    raise file
                images += [raw_image(each) for each in encoded_frames(file)]
            except ImageError as error:
                why = Unusable("unreadable image", str(error))
                images.append(raw_image(why))
            except Unusable as why:
                images.append(raw_image(why))
        return images


class TarImages:
    """The images of a tar, by the names of their members."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places: dict[str, tuple[int, int]] = {}
        """Name -> first byte and number of bytes."""
        self.full_names: dict[str, str] = {}
        """Name without its folder -> name; the first of several."""
        self.unused: dict[str, None] = {}
        try:
            for member in read_members(path, Skipped(), Counter()):
                self._note(member)
        except Unusable:
            pass  # whoever reads the pages meets it, too

    def _note(self, member: Member) -> None:
        name = PurePosixPath(member.name)
        if name.suffix.lower().removeprefix(".") in IMAGE_KINDS:
            self.places[member.name] = (member.start, member.size)
            self.full_names.setdefault(name.name, member.name)
            self.unused[member.name] = None

    def read(self, name: str) -> Image | None:
        """The image of a name, with or without its folder; None if there is none."""
        base = PurePosixPath(name).name
        full = name if name in self.places else self.full_names.get(base)
        if full is None:
            return None
        self.unused.pop(full, None)
        start, size = self.places[full]
        if size > verify.MAX_BYTES:
            limit = f"the limit is {verify.MAX_BYTES:,}"
            return raw_image(
                Unusable("file too large", f"{full}: {size:,} bytes; {limit}")
            )
        with self.path.open("rb") as file:
            file.seek(start)
            return raw_image(file.read(size))


def read_pages(
    path: Path, images: TarImages, skipped: Skipped, noted: Counter[str]
) -> Iterator[Record]:
    """A `TarPage` for each json of a tar, keyed by its name. Images that neither lie
    beside a page nor were read from `images` are `skipped` at the end."""
    others = Skipped()
    samples = Samples((PAGE, *IMAGE_KINDS), lambda s: PAGE in s, others)
    key = ""
    try:
        members = read_members(path, skipped, noted)
        for key, sample in samples.read(members):
            kinds = [kind for kind in sample if kind != PAGE]
            if PAGE not in sample:
                continue
            for kind in kinds:
                images.unused.pop(f"{key}.{kind}", None)
            files = tuple(sample[kind] for kind in kinds)
            page = _parse(sample[PAGE])
            is_page = not isinstance(page, Unusable)
            yield Record(key, TarPage(page, files) if is_page else page)
    except Unusable as why:
        detail = f"{why.detail}; the last page read was {key or 'none'}"
        yield Record(key, Unusable(why.reason, detail))
    others.counts.pop(BESIDE, None)  # d.1.jpg of d.json: `images` knows better
    skipped.update(others)
    for name in images.unused:
        skipped.add("image that no page names", name)


def _parse(content: bytes | Unusable) -> Any:
    if isinstance(content, Unusable):
        return content
    try:
        page = json.loads(verify.decode_utf8(content))
    except Unusable as why:
        return why
    except (ValueError, RecursionError) as error:
        return Unusable("broken JSON", str(error))
    return page if isinstance(page, dict) else tables.not_an_object(page)
