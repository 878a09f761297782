"""Multimodal C4 (arXiv 2304.06939): JSON lines, a page a line, pictures in a folder (or
as `image_base64`).

    {"text_list": ["Lock the door.", "Press the switch."],
     "image_info": [{"image_name": "b904.jpg", "matched_text_index": 1, "matched_sim":
     0.277}, ...]}

`matched_text_index` is the sentence that a picture belongs to; the picture is put right
before it, as OpenFlamingo does, or right after. Pictures of one sentence keep their
order. One that is less like its sentence than `min_sim` is left out and counted
(OpenFlamingo sets such a threshold too); one without a similarity stays.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mm1.data.document import Document, Image, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.sources import DOT, Record, Source, Unusable, found


class MMC4(Source):
    """Pages whose pictures are matched to sentences."""

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
    PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.jsonl.zst")
    PICTURES_MATTER = False

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        folder: str = ""
        """Where the pictures lie; empty: for `a.jsonl` in `a_images` beside it, as
        MMC4's script downloads them."""
        min_sim: float = 0.0
        """The least CLIP similarity of a picture to its sentence."""
        order: Literal["before", "after"] = "before"
        """Where a picture stands: before or after its sentence."""
        between: str = " "
        """What parts sentences that no picture parts."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        pictures = ImageFolder(
            Path(
                self.config.folder
                or path.with_name(path.name.partition(".json")[0] + "_images")
            )
        )
        for record in tables.rows(path, []):
            data = record.data
            if isinstance(data, dict) and isinstance(
                infos := data.get("image_info"), list
            ):
                read = [
                    (
                        info | {"image": _picture(info, pictures)}
                        if isinstance(info, dict)
                        else info
                    )
                    for info in infos
                ]
                data = data | {"image_info": read}
            yield Record(record.key, data)

    def document(self, data: Any) -> Document:
        sentences = data.get("text_list")
        infos = data.get("image_info")
        if not isinstance(sentences, list) or not isinstance(infos, list):
            raise Unusable("no text_list and image_info")
        places: list[list[Image]] = [[] for _ in range(len(sentences) + 1)]
        for info in infos:
            if not isinstance(info, dict):
                raise Unusable("no image_info", f"one is a {type(info).__name__}")
            place, why = self._place(info, len(sentences))
            places[place].append(found(why or info["image"]))
        parts: list[Text | Image] = []
        for sentence, images in zip([*sentences, ""], places, strict=True):
            parts += images
            if not (isinstance(sentence, str) and not sentence.strip()):
                content = verify.text(sentence, "text")
                if parts and isinstance(last := parts[-1], Text):
                    parts[-1] = Text(last.content + self.config.between + content)
                else:
                    parts.append(Text(content))
        return Document(tuple(parts))

    def _place(
        self, info: dict[str, Any], num_sentences: int
    ) -> tuple[int, Unusable | None]:
        """The sentence that a picture stands before, and why it is left out if it
        is."""
        index = info.get("matched_text_index")
        sim = info.get("matched_sim")
        if not isinstance(index, int) or not 0 <= index < num_sentences:
            return num_sentences, Unusable(
                "no such sentence", f"{index!r} of {num_sentences}"
            )
        if (
            isinstance(sim, (int, float)) and not sim >= self.config.min_sim
        ):  # not >=: NaN is no match either
            return index, Unusable("image below min_sim", f"{sim:.3f}")
        return index + (self.config.order == "after"), None


def _picture(info: dict[str, Any], pictures: ImageFolder) -> Image:
    url = str(info.get("raw_url") or "")
    if not isinstance(encoded := info.get("image_base64"), str):
        return replace(pictures.read(info.get("image_name")), url=url)
    try:
        return found(base64.b64decode(encoded, validate=True), url)
    except (binascii.Error, ValueError) as error:
        return found(Unusable("unreadable image", f"broken base64: {error}"), url)
