"""VL-ICL Bench's files, written afresh in their published format."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.eval.benchmarks.open_mi import OpenMi
from mm1.eval.benchmarks.operator_induction import OperatorInduction

NAMES = ("zib", "quor", "melt")


def write(folder: Path, task: str, name: str, entries: Any) -> None:
    (folder / task).mkdir(parents=True, exist_ok=True)
    (folder / task / name).write_text(json.dumps(entries))


def picture(folder: Path, task: str, number: int) -> str:
    (folder / task).mkdir(parents=True, exist_ok=True)
    name = f"{task}/{number}.png"
    (folder / name).write_bytes(tiny.picture(number).data)
    return name


def classes(folder: Path) -> Path:
    """Two questions; each name has three images, as question 0 has them."""
    queries = [
        {
            "id": f"q{n}",
            "image": [picture(folder, "open_mi", 100 + n)],
            "question": "This is a",
            "answer": NAMES[n],
            "classes": list(NAMES),
            "support": {
                name: {
                    "images": [
                        picture(folder, "open_mi", 10 * i + j) for j in range(3)
                    ],
                    "caption": "not used",
                }
                for i, name in enumerate(NAMES)
            },
        }
        for n in range(2)
    ]
    write(folder, "open_mi", "query.json", queries)
    return folder


def operators(folder: Path) -> Path:
    task = "operator_induction"
    support = [
        {
            "id": n,
            "image": [picture(folder, task, n)],
            "question": "What is the result?",
            "answer": [n + 2, n - 2, n * 2],
        }
        for n in range(5)
    ]
    queries = [
        {
            "id": f"q{sign}",
            "image": picture(folder, task, 50 + n),
            "question": "What is the result?",
            "operator": sign,
            "answer": 12 + n,
        }
        for n, sign in enumerate("+-x")
    ]
    write(folder, task, "support.json", support)
    write(folder, task, "query.json", queries)
    return folder


def words(prompt: Document) -> str:
    return "".join(
        "<i>" if isinstance(part, Image) else part.content
        for part in prompt.parts
    )


def test_two_names_and_as_many_images_of_each_as_shots(tmp_path: Path) -> None:
    benchmark = OpenMi.Config(folder=str(classes(tmp_path))).build()
    for number in range(2):
        question, prompt = benchmark.question_and_prompt(number, 2, 0)
        assert question.answer == NAMES[number]
        first, second = words(prompt).split("\n")[1:4:2]
        assert {
            first.removeprefix("Answer: "),
            second.removeprefix("Answer: "),
        } == set(question.choices)
        shown = "".join(
            f"<i>This is a\n{said}\n" for said in (first, second) * 2
        )
        assert words(prompt) == f"{shown}<i>This is a\nAnswer:"
        # each image shows the class whose name follows it
        for image, said in zip(
            prompt.images, (first, second) * 2, strict=False
        ):
            own = NAMES.index(said.removeprefix("Answer: "))
            pictures = [tiny.picture(10 * own + j).data for j in range(3)]
            assert image.data in pictures
        assert len({image.data for image in prompt.images}) == 5


def test_names_that_trade_places_change_the_right_answer(
    tmp_path: Path,
) -> None:
    folder = str(classes(tmp_path))
    plain = OpenMi.Config(folder=folder).build()
    moved = OpenMi.Config(folder=folder, shot_labels="moved").build()
    for number in range(2):
        question, prompt = plain.question_and_prompt(number, 3, 0)
        other, swapped = moved.question_and_prompt(number, 3, 0)
        assert {question.answer, other.answer} == set(question.choices)
        assert prompt.images == swapped.images
        for one, two in zip(prompt.parts, swapped.parts, strict=True):
            if isinstance(one, Text) and isinstance(two, Text):
                names = question.choices
                turned = one.content.translate({})
                for a, b in (names, names[::-1]):
                    if f" {a}\n" == one.content:
                        turned = f" {b}\n"
                assert two.content == turned


def test_a_description_comes_first(tmp_path: Path) -> None:
    config = OpenMi.Config(
        folder=str(classes(tmp_path)), description="detailed"
    )
    _, prompt = config.build().question_and_prompt(0, 1, 0)
    assert words(prompt).startswith("Induce the concept")


def test_supports_answer_by_the_operator_of_the_question(
    tmp_path: Path,
) -> None:
    benchmark = OperatorInduction.Config(
        folder=str(operators(tmp_path))
    ).build()
    for number, result in enumerate(
        (lambda n: n + 2, lambda n: n - 2, lambda n: n * 2)
    ):
        question, prompt = benchmark.question_and_prompt(number, 5, 0)
        assert question.answers == (f"{12 + number}",)
        said = [
            part.content.strip()
            for part in prompt.parts
            if isinstance(part, Text) and part.content.endswith("\n")
        ]
        shown = [
            next(n for n in range(5) if tiny.picture(n).data == image.data)
            for image in prompt.images[:-1]
        ]
        assert sorted(shown) == list(range(5))
        assert said == [str(result(n)) for n in shown]


def test_answers_are_read_as_the_authors_read_them() -> None:
    names = OpenMi.Config().build()
    assert names.score(
        ["Zib\nThis is a", "zib. It is", "a zib", ""], [("zib",)] * 4
    ) == [1.0, 1.0, 0.0, 0.0]
    numbers = OperatorInduction.Config().build()
    assert numbers.score(
        [" 12", "it is 12.", "-3", "twelve"],
        [("12",), ("12",), ("-3",), ("12",)],
    ) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classes": ["zib"]},
            "entry 0: the answer 'zib' is not one of several",
        ),
        (
            {"support": {"zib": {"images": []}}},
            "entry 0: class 'zib' has no support",
        ),
        ({"image": ["open_mi/gone.png"]}, "entry 0: no image at"),
        ({"image": ["../out.png"]}, "entry 0: the image"),
        ({"image": 3}, "entry 0: its image 3 is no path"),
        ({"answer": None}, "has no answer"),
    ],
)
def test_a_broken_entry_is_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = classes(tmp_path)
    path = folder / "open_mi" / "query.json"
    entries = json.loads(path.read_text())
    entries[0] |= change
    if change.get("answer", 0) is None:
        del entries[0]["answer"]
    path.write_text(json.dumps(entries))
    with pytest.raises(
        (ValueError, FileNotFoundError, ConfigError), match=message
    ):
        OpenMi.Config(folder=str(folder)).build().records("test")


def test_more_shots_than_images_is_an_error(tmp_path: Path) -> None:
    benchmark = OpenMi.Config(folder=str(classes(tmp_path))).build()
    with pytest.raises(
        ConfigError, match="question q0 has 3 images of a class"
    ):
        benchmark.question_and_prompt(0, 4, 0)
    numbers = OperatorInduction.Config(folder=str(operators(tmp_path))).build()
    with pytest.raises(ConfigError, match="there are 5 supports"):
        numbers.question_and_prompt(0, 6, 0)


def test_a_support_without_an_answer_for_each_operator_is_named(
    tmp_path: Path,
) -> None:
    folder = operators(tmp_path)
    path = folder / "operator_induction" / "support.json"
    entries = json.loads(path.read_text())
    entries[2]["answer"] = [1, 2]
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"support\.json: entry 2: its answer"):
        OperatorInduction.Config(folder=str(folder)).build().records("train")
