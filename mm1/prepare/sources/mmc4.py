"""Multimodal C4 (arXiv 2304.06939): JSON lines, a page a line, or OpenFlamingo's tars,
a json a page; images in a folder, inline as `image_base64`, or members of the tar.

    {"text_list": ["Lock the door.", "Press the switch."],
     "image_info": [{"image_name": "b904.jpg", "matched_text_index": 1,
                     "matched_sim": 0.277}, ...]}

`matched_text_index` is the sentence an image belongs to; the image is put right before
it, as OpenFlamingo does, or right after. Images of one sentence keep their order. An
image less similar to its sentence than `min_sim` is left out and counted (OpenFlamingo
sets such a threshold too); one without a similarity stays.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from mm1.data.document import Document, Image, Text
from mm1.prepare import tables, verify
from mm1.prepare.compression import COMPRESSED_LINES
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.page_tars import TarImages, TarPage, read_pages
from mm1.prepare.sources import DOT, Record, Source, Unusable, raw_image
from mm1.ranges import Range
from mm1.storage.remote_path import as_path

FIELDS = ("text_list", "image_info")


class MMC4(Source):
    """Pages whose images are matched to sentences."""

    EXAMPLE = {
        "text_list": ["Lock the door.", "Press the switch."],
        "image_info": [
            {
                "image_name": "b904.jpg",
                "matched_text_index": 1,
                "matched_sim": 0.277,
                "image": DOT,
            }
        ],
    }
    PATTERNS = ("*.jsonl", *COMPRESSED_LINES, "*.tar")
    NAMES_IMAGES = True
    IMAGES_REQUIRED = False

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        folder: str = ""
        """Where the images lie; empty: for `a.jsonl` in `a_images` next to it, as
        MMC4's script downloads them."""
        min_sim: Annotated[float, Range(-1, 1)] = 0.0
        """The lowest CLIP similarity of an image to its sentence."""
        order: Literal["before", "after"] = "before"
        """Whether an image comes before or after its sentence."""
        between: str = " "
        """Joins sentences that have no image between them."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        default = path.with_name(path.name.partition(".json")[0] + "_images")
        folder = ImageFolder(as_path(self.config.folder or default))
        is_tar = path.suffix.lower() == ".tar"
        members = TarImages(path) if is_tar else None
        others = tables.OtherColumns(FIELDS, self.skipped)
        for record in self._records(path, members):
            data = record.data
            if isinstance(data, dict):
                others.see(data)
                data = data | {
                    "image_info": _read_images(data, folder, members)
                }
            yield Record(record.key, data)

    def _records(
        self, path: Path, members: TarImages | None
    ) -> Iterator[Record]:
        if members is None:
            yield from tables.read_table(path, [])
            return
        for record in read_pages(path, members, self.skipped, self.noted):
            page = record.data
            is_page = isinstance(page, TarPage)
            yield Record(record.key, page.data if is_page else page)

    def document(self, data: Any) -> Document:
        sentences = data.get("text_list")
        infos = data.get("image_info")
        if not isinstance(sentences, list) or not isinstance(infos, list):
            raise Unusable("no text_list and image_info")
        images_before: list[list[Image]] = [
            [] for _ in range(len(sentences) + 1)
        ]
        for info in infos:
            if not isinstance(info, dict):
                raise Unusable(
                    "no image_info", f"one is a {type(info).__name__}"
                )
            sentence, why = self._place(info, len(sentences))
            images_before[sentence].append(raw_image(why or info["image"]))
        parts: list[Text | Image] = []
        for sentence, images in zip(
            [*sentences, ""], images_before, strict=True
        ):
            parts += images
            if not (isinstance(sentence, str) and not sentence.strip()):
                content = verify.check_text(sentence, "text")
                if parts and isinstance(last := parts[-1], Text):
                    parts[-1] = Text(
                        last.content + self.config.between + content
                    )
                else:
                    parts.append(Text(content))
        return Document(tuple(parts))

    def _place(
        self, info: dict[str, Any], num_sentences: int
    ) -> tuple[int, Unusable | None]:
        """The sentence that an image precedes, and why it is left out if it is."""
        index = info.get("matched_text_index")
        sim = info.get("matched_sim")
        if not isinstance(index, int) or not 0 <= index < num_sentences:
            return num_sentences, Unusable(
                "no such sentence", f"{index!r} of {num_sentences}"
            )
        # "not >=" rather than "<": NaN is refused too.
        if isinstance(sim, (int, float)) and not sim >= self.config.min_sim:
            return index, Unusable("image below min_sim", f"{sim:.3f}")
        return index + (self.config.order == "after"), None


def _read_images(
    data: dict[str, Any], folder: ImageFolder, members: TarImages | None
) -> Any:
    infos = data.get("image_info")
    if not isinstance(infos, list):
        return infos
    return [
        info | {"image": _read_image(info, folder, members)}
        if isinstance(info, dict)
        else info
        for info in infos
    ]


def _read_image(
    info: dict[str, Any], folder: ImageFolder, members: TarImages | None
) -> Image:
    url = str(info.get("raw_url") or "")
    name = info.get("image_name")
    encoded = info.get("image_base64")
    if not isinstance(encoded, str):
        image = (
            members.read(name) if members and isinstance(name, str) else None
        )
        return replace(image or folder.read(name), url=url)
    # OpenFlamingo's script writes Python's repr of the bytes.
    encoded = encoded.removeprefix("b'").removesuffix("'")
    try:
        return raw_image(base64.b64decode(encoded, validate=True), url)
    except (binascii.Error, ValueError) as error:
        return raw_image(
            Unusable("unreadable image", f"broken base64: {error}"), url
        )
