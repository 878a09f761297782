"""The few-shot suite's own path on twelve real COCO photographs, from a tar to scores.

The model is tiny and untrained, four photographs are asked about, and the questions of
VQA v2 are about other pictures: **the scores mean nothing**, and the benchmarks' names
say so wherever the scores are shown.
"""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

REAL = Path(
    os.environ.get("MM1_REAL_DATA")
    or Path(__file__).resolve().parents[3] / "shared" / "real"
)
PHOTOGRAPHS = REAL / "captions" / "coco-00000.tar"
VQA = REAL / "metrics" / "vqa"
NOTHING = "means_nothing"

pytestmark = [
    pytest.mark.skipif(
        not (PHOTOGRAPHS.is_file() and VQA.is_dir()),
        reason=f"no {PHOTOGRAPHS} and {VQA}; set MM1_REAL_DATA",
    ),
]


def unpack(folder: Path) -> list[dict[str, Any]]:
    """Writes the photographs under COCO's own names; what is said of each."""
    folder.mkdir()
    said = []
    with tarfile.open(PHOTOGRAPHS) as tar:
        for member in tar:
            if not member.name.endswith(".json"):
                continue
            file = tar.extractfile(member)
            photo = tar.extractfile(member.name.replace(".json", ".jpg"))
            assert file is not None
            assert photo is not None
            fields = json.load(file)
            name = f"COCO_val2014_{fields['image_id']:012d}.jpg"
            (folder / name).write_bytes(photo.read())
            said.append(fields | {"file_name": name})
    return said


def write_coco(path: Path, said: list[dict[str, Any]]) -> Path:
    annotations = [
        {"image_id": each["image_id"], "id": n, "caption": caption}
        for each in said
        for n, caption in enumerate(each["captions"])
    ]
    images = [
        {"id": each["image_id"], "file_name": each["file_name"]}
        for each in said
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_vqa(
    folder: Path, split: str, said: list[dict[str, Any]], first: int
) -> tuple[Path, Path]:
    """Real questions with ten real answers each, moved to these photographs."""
    asked = json.loads((VQA / "questions.json").read_text())
    answered = json.loads((VQA / "annotations.json").read_text())
    by_id = {each["question_id"]: each for each in answered["annotations"]}
    some = asked["questions"][first : first + len(said)]
    questions = [
        each | {"image_id": own["image_id"]}
        for each, own in zip(some, said, strict=True)
    ]
    annotations = [by_id[each["question_id"]] for each in some]
    paths = (folder / f"q-{split}.json", folder / f"a-{split}.json")
    for path, content in zip(
        paths,
        (
            asked | {"data_subtype": "val2014", "questions": questions},
            answered | {"annotations": annotations},
        ),
        strict=True,
    ):
        path.write_text(json.dumps(content))
    return paths


def test_a_run_is_evaluated_on_coco_and_vqa(
    mm1: Callable[[str], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = unpack(tmp_path / "photographs")
    assert len(said) == 12
    train, test = said[:8], said[8:]
    run = tiny.write_run(tmp_path / "run")
    questions, annotations = write_vqa(tmp_path, "test", test, 0)
    train_questions, train_annotations = write_vqa(tmp_path, "train", train, 4)
    coco = f"benchmarks.coco_{NOTHING}"
    vqa = f"benchmarks.vqa_{NOTHING}"
    options = [
        f"{coco}=coco",
        f"{coco}.annotations={write_coco(tmp_path / 'test.json', test)}",
        f"{coco}.train_annotations={write_coco(tmp_path / 'train.json', train)}",
        f"{coco}.max_tokens=4",
        f"{vqa}=vqa",
        f"{vqa}.annotations={annotations}",
        f"{vqa}.questions={questions}",
        f"{vqa}.train_annotations={train_annotations}",
        f"{vqa}.train_questions={train_questions}",
        f"{vqa}.max_tokens=4",
    ]
    for each in (coco, vqa):
        options.append(f"{each}.images={tmp_path / 'photographs'}")
    assert mm1(f"eval {run} {' '.join(options)} --shots 0 4") == 0
    shown = capsys.readouterr()
    assert NOTHING in shown.out + shown.err
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores) == {f"{name}_{NOTHING}" for name in ("coco", "vqa")}
    for name, most in (("coco", 10), ("vqa", 1)):
        result = scores[f"{name}_{NOTHING}"]
        assert set(result["shots"]) == {"0", "4"}
        for each in result["shots"].values():
            assert 0 <= each["score"] <= most
    lines = [
        json.loads(line)
        for path in (run / "predictions").glob("*4shot*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert len(lines) == 8
    for line in lines:
        assert line["prompt"].count("<image>") == 5
        assert len(line["answers"]) in (5, 10)
