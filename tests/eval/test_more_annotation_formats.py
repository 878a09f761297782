"""NoCaps, TextCaps, TextVQA, VizWiz and GQA in the official formats, and errors in such
files."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from mm1.config import ConfigError
from mm1.eval.benchmarks import Benchmark
from mm1.eval.benchmarks.gqa import Gqa
from mm1.eval.benchmarks.nocaps import NoCaps
from mm1.eval.benchmarks.textcaps import TextCaps
from mm1.eval.benchmarks.textvqa import TextVqa
from mm1.eval.benchmarks.vizwiz import VizWiz
from mm1.eval.captioning_and_vqa import AnnotationBenchmark


def captions_of(
    image: str, number: int, *captions: str
) -> list[dict[str, Any]]:
    """TextCaps has an entry for each caption."""
    return [
        {
            "image_id": image,
            "image_name": image,
            "image_path": f"val/{image}.jpg",
            "set_name": "val",
            "caption_id": number + i,
            "caption_str": caption,
            "caption_tokens": caption.split(),
            "reference_strs": list(captions),
        }
        for i, caption in enumerate(captions)
    ]


def sure(*answers: str) -> list[dict[str, str]]:
    return [
        {"answer": answer, "answer_confidence": "yes"} for answer in answers
    ]


FILES: dict[type[AnnotationBenchmark], Any] = {
    NoCaps: {
        "info": {"url": "http://nocaps.org", "version": "0.1"},
        "images": [
            {
                "id": 0,
                "open_images_id": "0013ea20",
                "file_name": "0013ea20.jpg",
                "domain": "in-domain",
            },
            {
                "id": 1,
                "open_images_id": "0053a02a",
                "file_name": "0053a02a.jpg",
                "domain": "out-domain",
            },
        ],
        "annotations": [
            {
                "image_id": 0,
                "id": 0,
                "caption": "A baby is standing in front of a house.",
            },
            {
                "image_id": 0,
                "id": 1,
                "caption": "A little girl in a white jacket and sandals.",
            },
            {"image_id": 1, "id": 2, "caption": "A walrus\nlies on the ice."},
        ],
    },
    TextCaps: {
        "dataset_name": "textcaps",
        "dataset_type": "val",
        "data": [
            *captions_of(
                "011e7e62",
                100,
                "Five Listerine bottles on a shelf",
                "Many bottles of  Listerine",
            ),
            *captions_of(
                "08b87b4a", 105, "A dictionary is open at the word gob"
            ),
        ],
    },
    TextVqa: {
        "dataset_type": "val",
        "data": [
            {
                "question": "what is the brand of this camera?",
                "image_id": "003a8ae2ef43b901",
                "image_classes": ["Cassette deck"],
                "answers": [
                    "nous les gosses",
                    "dakota",
                    "clos culombu",
                    "dakota digital",
                    *["dakota"] * 6,
                ],
                "question_id": 34602,
                "set_name": "val",
            },
            {
                "question": "what does the sign say?",
                "image_id": "0b",
                "answers": ["stop"] * 10,
                "question_id": 34603,
            },
        ],
    },
    VizWiz: [
        {
            "image": "VizWiz_val_00000001.jpg",
            "question": "Can you tell me what this medicine is please?",
            "answers": sure(
                "no",
                *["night time"] * 6,
                "unanswerable",
                "unanswerable",
                "unanswerable",
            ),
            "answer_type": "other",
            "answerable": 1,
        },
        {
            "image": "VizWiz_val_00000002.jpg",
            "question": "What is this?",
            "answers": sure(*["unanswerable"] * 10),
            "answer_type": "unanswerable",
            "answerable": 0,
        },
    ],
    Gqa: {
        "201307251": {
            "imageId": "n161313",
            "question": "Is it overcast?",
            "answer": "no",
            "fullAnswer": "No, it is clear.",
            "isBalanced": True,
            "types": {
                "structural": "verify",
                "semantic": "attr",
                "detailed": "verifyAttr",
            },
        },
        "202225914": {
            "imageId": "n235859",
            "question": "Who is wearing the dress?",
            "answer": "Woman",
        },
    },
}

PICTURES = {
    NoCaps: ("0013ea20.jpg", "0053a02a.jpg"),
    TextCaps: ("011e7e62.jpg", "08b87b4a.jpg"),
    TextVqa: ("003a8ae2ef43b901.jpg", "0b.jpg"),
    VizWiz: ("VizWiz_val_00000001.jpg", "VizWiz_val_00000002.jpg"),
    Gqa: ("n161313.jpg", "n235859.jpg"),
}


def built(
    cls: type[AnnotationBenchmark],
    folder: Path,
    change: Any = lambda data: None,
) -> Benchmark:
    """The benchmark on its two records, after a change to the file."""
    data = json.loads(json.dumps(FILES[cls]))
    change(data)
    (folder / "val.json").write_text(json.dumps(data))
    (folder / "pictures").mkdir(exist_ok=True)
    for number, name in enumerate(PICTURES[cls]):
        (folder / "pictures" / name).write_bytes(tiny.picture(number).data)
    file = str(folder / "val.json")
    return cls.Config(
        annotations=file,
        images=str(folder / "pictures"),
        train_annotations=file,
    ).build()


ANSWERS = {  # the answer in the demonstration of each record
    NoCaps: (
        "A baby is standing in front of a house.",
        "A walrus lies on the ice.",
    ),
    TextCaps: (
        "Five Listerine bottles on a shelf",
        "A dictionary is open at the word gob",
    ),
    TextVqa: ("dakota", "stop"),
    VizWiz: ("night time", "unanswerable"),
    Gqa: ("no", "Woman"),
}
IDS = {
    NoCaps: ("0", "1"),
    TextCaps: ("011e7e62", "08b87b4a"),
    TextVqa: ("34602", "34603"),
    VizWiz: PICTURES[VizWiz],
    Gqa: ("201307251", "202225914"),
}
every_format = pytest.mark.parametrize(
    "cls", FILES, ids=lambda cls: cls.__name__
)


@every_format
def test_two_records_are_read(
    cls: type[AnnotationBenchmark], tmp_path: Path
) -> None:
    benchmark = built(cls, tmp_path)
    questions = [benchmark.question(record) for record in benchmark.test]
    assert tuple(question.id for question in questions) == IDS[cls]
    assert tuple(question.answer for question in questions) == ANSWERS[cls]
    assert [question.prompt.images[0] for question in questions] == [
        tiny.picture(0),
        tiny.picture(1),
    ]
    shot = benchmark.shots(questions[0], 0, 1)[0]
    assert shot.text == f"{questions[1].prompt.text} {ANSWERS[cls][1]}\n"
    scores = benchmark.score(
        list(ANSWERS[cls]), [question.answers for question in questions]
    )
    assert min(scores) >= 0.9
    assert (
        max(
            benchmark.score(
                ["xyzzy", ""], [question.answers for question in questions]
            )
        )
        == 0
    )


def blank(cls: type[AnnotationBenchmark], data: Any) -> None:
    """Empties the answers of the second record."""
    if cls is NoCaps:
        data["annotations"][2]["caption"] = " "
    elif cls is TextCaps:
        data["data"][2]["reference_strs"] = [""]
    elif cls is TextVqa:
        data["data"][1]["answers"] = [
            ""
        ] * 10  # as in the test split, whose answers are not public
    elif cls is VizWiz:
        data[1].pop("answers")
    else:
        data["202225914"]["answer"] = ""


@every_format
def test_errors_name_the_record(
    cls: type[AnnotationBenchmark], tmp_path: Path
) -> None:
    name = IDS[cls][1]
    with pytest.raises(
        ValueError,
        match=rf"val\.json: (image|question) {name} has no (caption|answer)",
    ):
        _ = built(cls, tmp_path, lambda data: blank(cls, data)).test
    benchmark = built(cls, tmp_path)
    (tmp_path / "pictures" / PICTURES[cls][1]).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=rf"(image|question) {name}: no image at .*{PICTURES[cls][1]}",
    ):
        _ = benchmark.test
    (tmp_path / "val.json").write_text("[]" if cls is not VizWiz else "{}")
    with pytest.raises(
        ValueError, match=r"val\.json does not hold (an object|a list)"
    ):
        _ = benchmark.test


def test_records_that_occur_twice_are_refused(tmp_path: Path) -> None:
    def twice(data: Any) -> None:
        records = (
            data
            if isinstance(data, list)
            else data.get("images") or data["data"]
        )
        records.append(records[1])

    for cls, said in (
        (NoCaps, "id 1 occurs twice"),
        (TextCaps, "caption_id 101 occurs twice"),
        (TextVqa, "question_id 34603 occurs twice"),
        (VizWiz, r"image VizWiz_val_00000002\.jpg occurs twice"),
    ):
        with pytest.raises(ValueError, match=rf"val\.json: {said}"):
            _ = built(cls, tmp_path, twice).test
    benchmark = built(Gqa, tmp_path)
    content = (
        (tmp_path / "val.json").read_text().replace("202225914", "201307251")
    )
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"val\.json is not valid JSON: 201307251 occurs twice"
    ):
        _ = benchmark.test


def test_an_images_captions_agree_in_textcaps(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match="image 011e7e62 occurs twice, with other reference_strs",
    ):
        _ = built(
            TextCaps,
            tmp_path,
            lambda data: data["data"][1]["reference_strs"].pop(),
        ).test


def test_nocaps_is_scored_by_domain_too(tmp_path: Path) -> None:
    """An image scored alone has a CIDEr of 0, so each domain has two."""

    def more(data: Any) -> None:
        for number, domain in ((2, "in-domain"), (3, "out-domain")):
            data["images"].append(
                {"id": number, "file_name": "0013ea20.jpg", "domain": domain}
            )
            data["annotations"].append(
                {
                    "image_id": number,
                    "id": 9 + number,
                    "caption": f"Cats number {number}.",
                }
            )

    benchmark = built(NoCaps, tmp_path, more)
    lines = [
        {
            "id": record.id,
            "answers": record.captions,
            "prediction": record.captions[0] if record.id != "1" else "no",
        }
        for record in benchmark.test
    ]
    found = benchmark.extra_metrics(lines)
    assert list(found) == ["in-domain", "out-domain"]
    own = [lines[0], lines[2]]
    assert found["in-domain"] == pytest.approx(
        sum(
            benchmark.score(
                [line["prediction"] for line in own],
                [line["answers"] for line in own],
            )
        )
        / 2
    )
    assert found["out-domain"] < found["in-domain"]
    plain = built(
        NoCaps,
        tmp_path,
        lambda data: [image.pop("domain") for image in data["images"]],
    )
    assert (
        plain.extra_metrics([{"id": record.id} for record in plain.test]) == {}
    )


def test_an_instruction_has_a_place_for_the_question() -> None:
    with pytest.raises(ConfigError, match=r"instruction 'Why\?' needs one {}"):
        TextVqa.Config(instruction="Why?").build()
    asked = (
        TextVqa.Config(instruction="Q: {} A:").build().question(TextVqa.EXAMPLE)
    )
    assert asked.prompt.text == "<image>Q: Where is he looking? A:"
