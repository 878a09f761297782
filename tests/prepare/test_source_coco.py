"""COCO's captions and Karpathy's splits: every annotation is a pair or a drop."""

import json
from pathlib import Path
from typing import Any

import pytest
from raw_files import jpeg

from mm1.config import ConfigError
from mm1.data.tokenizer import train_tokenizer
from mm1.overrides import default_config, override
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source

COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "licenses": [],
    "images": [
        {"id": 9, "file_name": "000000000009.jpg", "width": 12},
        {"id": 25, "file_name": "000000000025.jpg"},
        {"id": 30, "file_name": "000000000030.jpg"},
        {"id": 34, "file_name": "gone.jpg"},
    ],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "A bowl of noodles."},
        {"image_id": 25, "id": 2, "caption": "A giraffe. "},
        {"image_id": 9, "id": 3, "caption": "Food in boxes"},
        {"image_id": 77, "id": 4, "caption": "Of no image"},
        {"image_id": 25, "id": 5, "bbox": [1, 2, 3, 4]},
        {"image_id": 34, "id": 6, "caption": "Of a lost file"},
        7,
    ],
}


def run(folder: Path, data: Any, *overrides: str) -> dict[str, Any]:
    """Prepare a file beside which COCO's images lie; the manifest."""
    images = folder / "train2017"
    images.mkdir()
    for number in (9, 25, 30):
        (images / f"{number:012}.jpg").write_bytes(jpeg(number))
    path = folder / "annotations" / "captions_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(data))
    train_tokenizer(["a text"], folder / "t.json", vocab_size=300)
    config = Preparation.Config(source=default_config(Source, "coco_captions"))
    for each in overrides:
        override(config, each)
    return prepare(config, [path], folder / "out", folder / "t.json")


def drops(folder: Path) -> list[tuple[str, str, str]]:
    lines = (folder / "out" / "drops.jsonl").read_text().splitlines()
    fields = ("key", "reason", "detail")
    return [tuple(json.loads(line)[f] for f in fields) for line in lines]


def test_annotations_are_pairs_and_what_is_not_is_named(tmp_path: Path) -> None:
    manifest = run(tmp_path, COCO)
    assert (manifest["records_in"], manifest["documents"]) == (7, 3)
    found = drops(tmp_path)
    assert [each[:2] for each in found] == [
        ("4", "no such image"),
        ("5", "no caption"),
        ("6", "missing image file"),
        ("6", "no annotation"),
    ]
    assert found[0][2] == "image_id 77"
    assert found[3][2] == "it is a int"
    assert manifest["skipped"]["image without a caption"] == {
        "count": 1,
        "names": ["000000000030.jpg"],
    }
    assert manifest["skipped"]["field"]["count"] == 2


@pytest.mark.parametrize("folder", ["train2017", "../elsewhere"])
def test_the_folder_of_the_config_comes_first(
    folder: str, tmp_path: Path
) -> None:
    place = tmp_path / "a" / folder
    where = f"source.folder={place}"
    (tmp_path / "a").mkdir()
    if folder == "train2017":
        assert run(tmp_path / "a", COCO, where)["documents"] == 3
    else:
        with pytest.raises(ConfigError, match="missing image file"):
            run(tmp_path / "a", COCO, where)


@pytest.mark.parametrize(("split", "count"), [("", 3), ("val", 1)])
def test_karpathys_splits(split: str, count: int, tmp_path: Path) -> None:
    def image(number: int, split: str, *texts: str) -> dict[str, Any]:
        return {
            "filepath": "train2017",
            "filename": f"{number:012}.jpg",
            "split": split,
            "sentences": [{"raw": text, "tokens": []} for text in texts],
        }

    images = [image(9, "train", "one", "two"), image(25, "val", "three")]
    data = {"images": images, "dataset": "coco"}
    option = f"source.split={split}" if split else "source.split="
    places = ["source.folder=" + str(tmp_path), option]
    manifest = run(tmp_path, data, *places)
    assert manifest["documents"] == manifest["records_in"] == count
    other = manifest["skipped"].get("image of split train", {"count": 0})
    assert other["count"] == (1 if split else 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"annotations": []}, "no images"),
        ([1], "no JSON object"),
        ({"images": [{"id": 1}]}, "no caption"),
    ],
)
def test_other_files_are_refused_with_a_reason(
    data: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        run(tmp_path, data)
