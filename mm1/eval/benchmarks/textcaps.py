"""TextCaps (Sidorov et al. 2020, arXiv:2003.12462): captioning that needs reading the
text in the image.

    TextCaps_0.1_val.json
        {"data": [{"image_id": "011e7e629fb9ae7b", "image_name": "011e7e629fb9ae7b",
                   "caption_id": 100000000,
                   "caption_str": "Five Listerine Zero bottles",
                   "reference_strs": ["Five Listerine Zero bottles", ... five]}, ...]}

There is an entry for each caption; all entries of an image list all of its captions as
`reference_strs`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import (
    BenchmarkImages,
    index_by,
    require_text,
    single_spaced,
)
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import CaptionBenchmark, CaptionedImage


class TextCaps(CaptionBenchmark):
    KEYS = ("data",)

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[CaptionedImage]:
        records: dict[str, CaptionedImage] = {}
        for entry in index_by(data["data"], "caption_id", path).values():
            name = entry["image_id"]
            owner = f"image {name}"
            references = map(single_spaced, entry.get("reference_strs", ()))
            captions = require_text(
                filter(None, references),
                path,
                owner,
                "caption in reference_strs",
            )
            if name not in records:
                image = images.image_path(f"{entry['image_name']}.jpg", owner)
                records[name] = CaptionedImage(name, image, captions)
            elif captions != records[name].captions:
                raise ValueError(
                    f"{path}: {owner} occurs twice, with other reference_strs"
                )
        return list(records.values())
