"""COCO and VQA v2 in the official formats, and errors in such files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny

from mm1.config import ConfigError
from mm1.data.image_processing import ImageError
from mm1.eval.benchmarks import Benchmark
from mm1.eval.benchmarks.coco import Coco
from mm1.eval.benchmarks.vqa import Vqa

REAL = (
    Path(
        os.environ.get(
            "MM1_REAL_DATA",
            Path(__file__).parents[2].parent / "shared" / "real",
        )
    )
    / "metrics"
)
real_data = pytest.mark.skipif(
    not REAL.is_dir(),
    reason=f"no real annotations at {REAL}; set MM1_REAL_DATA",
)


def write(path: Path, value: Any) -> str:
    path.write_text(
        value if isinstance(value, str) else json.dumps(value), encoding="utf-8"
    )
    return str(path)


def pictures(folder: Path, names: list[str]) -> str:
    folder.mkdir()
    for number, name in enumerate(names):
        (folder / name).write_bytes(tiny.picture(number).data)
    return str(folder)


COCO: dict[str, Any] = {
    "info": {
        "description": "COCO 2014 Dataset",
        "version": "1.0",
        "year": 2014,
    },
    "licenses": [
        {"id": 3, "name": "Attribution-NonCommercial-NoDerivs License"}
    ],
    "images": [
        {
            "license": 3,
            "file_name": "COCO_val2014_000000391895.jpg",
            "height": 360,
            "width": 640,
            "id": 391895,
        },
        {
            "license": 3,
            "file_name": "COCO_val2014_000000522418.jpg",
            "height": 480,
            "width": 640,
            "id": 522418,
        },
    ],
    "annotations": [
        {
            "image_id": 391895,
            "id": 770337,
            "caption": "A man with a red helmet on a small moped on a dirt road. ",
        },
        {
            "image_id": 522418,
            "id": 681330,
            "caption": "A woman wearing a net on her head cutting a cake.",
        },
        {
            "image_id": 391895,
            "id": 771687,
            "caption": "Man riding a motor bike\non a dirt road on the countryside.",
        },
        {"image_id": 522418, "id": 681331, "caption": ""},
    ],
}

QUESTIONS: dict[str, Any] = {
    "info": {"description": "VQA v2.0", "version": "2.0"},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "questions": [
        {
            "image_id": 262148,
            "question": "Where is he looking?",
            "question_id": 262148000,
        },
        {
            "image_id": 262148,
            "question": "What are the people doing?",
            "question_id": 262148001,
        },
        {
            "image_id": 393225,
            "question": "What website copyrighted the picture?",
            "question_id": 393225001,
        },
    ],
}


def ten(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": a, "answer_confidence": "yes", "answer_id": i + 1}
        for i, a in enumerate(answers)
    ]


ANNOTATIONS: dict[str, Any] = {
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "annotations": [
        {
            "question_id": number,
            "image_id": number // 1000,
            "answer_type": "other",
            "answers": ten(*answers),
        }
        for number, answers in (
            (262148000, ["down"] * 4 + ["at table"] * 5 + ["table"]),
            (262148001, ["spectating"] * 3 + ["watching"] * 7),
            (393225001, ["foodiebakercom"] * 10),
        )
    ],
}


@pytest.fixture
def coco(tmp_path: Path) -> Coco.Config:
    names = [image["file_name"] for image in COCO["images"]]
    annotations = write(tmp_path / "captions.json", COCO)
    return Coco.Config(
        annotations=annotations,
        images=pictures(tmp_path / "val2014", names),
        train_annotations=annotations,
    )


@pytest.fixture
def vqa(tmp_path: Path) -> Vqa.Config:
    return Vqa.Config(
        questions=write(tmp_path / "questions.json", QUESTIONS),
        annotations=write(tmp_path / "annotations.json", ANNOTATIONS),
        images=pictures(
            tmp_path / "vqa",
            [f"COCO_val2014_{n:012d}.jpg" for n in (262148, 393225)],
        ),
        train_questions=write(tmp_path / "train_questions.json", QUESTIONS),
        train_annotations=write(
            tmp_path / "train_annotations.json", ANNOTATIONS
        ),
    )


def one_shot(benchmark: Benchmark, number: int) -> str:
    question = benchmark.question(benchmark.test[number])
    return benchmark.prompt(question, benchmark.shots(question, number, 1)).text


def test_coco_is_read(coco: Coco.Config) -> None:
    benchmark = coco.build()
    first, second = (benchmark.question(record) for record in benchmark.test)
    assert (first.id, len(first.answers), len(second.answers)) == (
        "391895",
        2,
        1,
    )
    assert (
        first.answers[1]
        == "Man riding a motor bike on a dirt road on the countryside."
    )
    assert first.prompt.images == (tiny.picture(0),)
    assert (
        one_shot(benchmark, 0)
        == f"<image>A photo of {second.answer}\n<image>A photo of"
    )
    truths = [first.answer, second.answer]
    assert min(benchmark.score(truths, [first.answers, second.answers])) > 1
    assert list(
        benchmark.score(truths[::-1], [first.answers, second.answers])
    ) < [
        0.5,
        0.5,
    ]


def test_vqa_is_read(vqa: Vqa.Config) -> None:
    benchmark = vqa.build()
    questions = [benchmark.question(record) for record in benchmark.test]
    assert [question.answer for question in questions] == [
        "at table",
        "watching",
        "foodiebakercom",
    ]
    assert (
        questions[0].prompt.images
        == questions[1].prompt.images
        != questions[2].prompt.images
    )
    asked = (
        "<image>Question: What website copyrighted the picture? Short answer:"
    )
    for number in (0, 1):  # the only demonstration with another image
        assert (
            one_shot(benchmark, number)
            == f"{asked} foodiebakercom\n{questions[number].prompt.text}"
        )
    scores = benchmark.score(
        ["down", "spectating", "Foodiebakercom"],
        [question.answers for question in questions],
    )
    assert list(scores) == pytest.approx([1.0, 0.9, 0.0])


def edited(config: Any, name: str, change: Any) -> Benchmark:
    """The benchmark after a change to the JSON file in the config field `name`."""
    path = Path(getattr(config, name))
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return config.build()


def test_a_missing_image_is_named_with_its_question(
    coco: Coco.Config, vqa: Vqa.Config
) -> None:
    (Path(vqa.images) / "COCO_val2014_000000393225.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"question 393225001: no image at .*000000393225\.jpg",
    ):
        _ = vqa.build().test
    (Path(coco.images) / "COCO_val2014_000000522418.jpg").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"image 522418: no image at .*000000522418\.jpg",
    ):
        _ = coco.build().test


def test_a_damaged_image_is_named_with_its_question(vqa: Vqa.Config) -> None:
    benchmark = vqa.build()
    (Path(vqa.images) / "COCO_val2014_000000393225.jpg").write_bytes(
        b"not a picture"
    )
    with pytest.raises(
        ImageError,
        match=r"question 393225001: .*000000393225\.jpg: not an image",
    ):
        benchmark.question(benchmark.test[2])


def test_records_that_occur_twice_are_refused(
    coco: Coco.Config, vqa: Vqa.Config
) -> None:
    with pytest.raises(
        ValueError, match=r"captions\.json: id 391895 occurs twice"
    ):
        _ = edited(
            coco,
            "annotations",
            lambda data: data["images"].append(data["images"][0]),
        ).test
    with pytest.raises(
        ValueError, match=r"questions\.json: question_id 262148001 occurs twice"
    ):
        _ = edited(
            vqa,
            "questions",
            lambda data: data["questions"].append(data["questions"][1]),
        ).test


def test_questions_without_answers_are_refused(
    coco: Coco.Config, vqa: Vqa.Config
) -> None:
    with pytest.raises(ValueError, match="image 522418 has no caption"):
        _ = edited(
            coco, "annotations", lambda data: data["annotations"].pop(1)
        ).test
    with pytest.raises(ValueError, match="question 262148001 has no answer"):
        _ = edited(
            vqa,
            "annotations",
            lambda data: data["annotations"][1].update(answers=ten(" ", "")),
        ).test
    with pytest.raises(
        ValueError, match="has no answers to question 262148001"
    ):
        _ = edited(
            vqa, "annotations", lambda data: data["annotations"].pop(1)
        ).test


def test_broken_and_missing_files_are_named(
    coco: Coco.Config, vqa: Vqa.Config
) -> None:
    with pytest.raises(ConfigError, match="annotations is empty"):
        _ = Coco.Config().build().test
    with pytest.raises(ConfigError, match="train_annotations is empty"):
        _ = Vqa.Config().build().train
    with pytest.raises(ValueError, match=r"captions\.json lacks annotations"):
        _ = edited(
            coco, "annotations", lambda data: data.pop("annotations")
        ).test
    write(Path(coco.annotations), '{"images": [')
    with pytest.raises(ValueError, match=r"captions\.json is not valid JSON"):
        _ = coco.build().test
    vqa.file_name = "{image}-{page}.png"
    with pytest.raises(ConfigError, match=r"file_name .* does not work"):
        _ = vqa.build().test
    shutil.rmtree(vqa.images)
    with pytest.raises(FileNotFoundError, match="images: there is no folder"):
        _ = vqa.build().test


@real_data
def test_real_vqa_annotations_give_the_known_accuracy(tmp_path: Path) -> None:
    """The sample has no images: their files are empty here."""
    questions = json.loads((REAL / "vqa" / "questions.json").read_text())
    (tmp_path / "pictures").mkdir()
    for asked in questions["questions"]:
        (
            tmp_path
            / "pictures"
            / f"COCO_{questions['data_subtype']}_{asked['image_id']:012d}.jpg"
        ).touch()
    config = Vqa.Config(
        questions=str(REAL / "vqa" / "questions.json"),
        annotations=str(REAL / "vqa" / "annotations.json"),
        images=str(tmp_path / "pictures"),
    )
    benchmark = config.build()
    results = json.loads(
        (REAL / "vqa" / "results_first_annotator.json").read_text()
    )
    said = {str(result["question_id"]): result["answer"] for result in results}
    scores = benchmark.score(
        [said[r.id] for r in benchmark.test],
        [r.answers for r in benchmark.test],
    )
    known = json.loads(
        (REAL / "vqa" / "per_question_first_annotator.json").read_text()
    )
    assert len(scores) == len(known) == 800
    # The reference rounds the accuracy of each question to 0.01%.
    for record, score in zip(benchmark.test, scores, strict=True):
        assert 100 * score == pytest.approx(known[record.id], abs=0.006)


def test_an_image_outside_its_folder_is_refused(coco: Coco.Config) -> None:
    path = Path(coco.annotations)
    content = json.loads(path.read_text())
    (Path(coco.images).parent / "secret.jpg").write_bytes(b"not ours")
    content["images"][0]["file_name"] = "../secret.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"the image .* leads out of"):
        coco.build().load_records((0,))
