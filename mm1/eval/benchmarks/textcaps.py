"""TextCaps (Sidorov et al. 2020, arXiv:2003.12462): captions of pictures with text in
them, which they should read.

    TextCaps_0.1_val.json   {"data": [{"image_id": "011e7e629fb9ae7b", "image_name": "011e7e629fb9ae7b",
                                       "caption_id": 100000000, "caption_str": "Five
                                       Listerine Zero bottles", "reference_strs": ["Five
                                       Listerine Zero bottles", ... five]}, ...]}

There is an entry for each caption; all entries of an image list all its captions as
`reference_strs`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder, given, index, one_line
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import Captioned, Captions


class TextCaps(Captions):
    KEYS = ("data",)

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Captioned]:
        found: dict[str, Captioned] = {}
        for entry in index(data["data"], "caption_id", path).values():
            number = entry["image_id"]
            owner = f"image {number}"
            lines = map(one_line, entry.get("reference_strs", ()))
            captions = given(
                filter(None, lines), path, owner, "caption in reference_strs"
            )
            if number not in found:
                found[number] = Captioned(
                    number,
                    folder.picture(f"{entry['image_name']}.jpg", owner),
                    captions,
                )
            elif captions != found[number].captions:
                raise ValueError(
                    f"{path}: {owner} occurs twice, with other reference_strs"
                )
        return list(found.values())
