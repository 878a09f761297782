"""POPE and ScienceQA in the official formats, how answers are read, and errors in such
files."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from mm1.config import ConfigError
from mm1.eval.benchmarks.pope import Pope, yes_or_no
from mm1.eval.benchmarks.scienceqa import ScienceQA

REAL = (
    Path(
        os.environ.get(
            "MM1_REAL_DATA",
            Path(__file__).parents[2].parent / "shared" / "real",
        )
    )
    / "metrics"
    / "pope"
)

POPE: list[dict[str, Any]] = [
    {
        "question_id": 1,
        "image": "a.jpg",
        "text": "Is there a snowboard in the image?",
        "label": "yes",
    },
    {
        "question_id": 2,
        "image": "a.jpg",
        "text": "Is there a backpack in the image?",
        "label": "no",
    },
]
PROBLEMS: dict[str, Any] = {
    "5": {
        "question": "Which is magnetic? ",
        "choices": ["wood", "iron"],
        "answer": 1,
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "natural science",
        "topic": "physics",
        "category": "Materials",
        "skill": "Identify magnets",
        "lecture": "Magnets attract some metals.",
        "solution": "Iron is attracted.",
        "split": "test",
    },
    "7": {
        "question": "What is the name of the colony?",
        "choices": ["Ohio", "Iowa", "Maine"],
        "answer": 2,
        "hint": "It lies in the north.",
        "image": None,
        "split": "test",
    },
    "1": {
        "question": "Is it?",
        "choices": ["yes", "no"],
        "answer": 0,
        "hint": "",
        "image": None,
        "split": "train",
    },
}
SPLITS = {"train": ["1"], "val": [], "test": ["5", "7"], "minitest": ["7"]}


def lines(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def pope(tmp_path: Path) -> Pope.Config:
    (tmp_path / "a.jpg").write_bytes(tiny.picture(0).data)
    path = lines(tmp_path / "coco_pope_random.json", POPE)
    return Pope.Config(annotations=path, images=str(tmp_path))


@pytest.fixture
def science(tmp_path: Path) -> ScienceQA.Config:
    (tmp_path / "test" / "5").mkdir(parents=True)
    (tmp_path / "test" / "5" / "image.png").write_bytes(tiny.picture(0).data)
    for name, content in (("problems", PROBLEMS), ("pid_splits", SPLITS)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return ScienceQA.Config(
        problems=str(tmp_path / "problems.json"),
        splits=str(tmp_path / "pid_splits.json"),
        images=str(tmp_path),
    )


def test_pope_is_read(pope: Pope.Config) -> None:
    benchmark = pope.build()
    questions = [benchmark.question(record) for record in benchmark.test]
    assert [(question.id, question.answer) for question in questions] == [
        ("1", "yes"),
        ("2", "no"),
    ]
    assert questions[0].prompt.images == (tiny.picture(0),)
    assert (
        questions[0].prompt.text
        == "<image>Question: Is there a snowboard in the image? Short answer:"
    )
    assert benchmark.score(
        ["Yes", "There is none."], [question.answers for question in questions]
    ) == [1, 0]
    pope.chat = True
    tuned = pope.build()
    words = (
        "backpack in the image?\n"
        "Answer the question using a single word or phrase.\n"
    )
    assert tuned.formatted_question(tuned.test[1]).prompt.text.endswith(words)


def test_an_answer_is_a_no_by_the_authors_rule() -> None:
    for said in (
        "no",
        "No, there is not",
        "It is not. Yes",
        "There is no dog, yes",
    ):
        assert yes_or_no(said) == "no"
    for said in ("yes", "Yes. No", "", "none", "NO", "nothing"):
        assert yes_or_no(said) == "yes"


def test_pope_reports_precision_and_recall_of_yes(pope: Pope.Config) -> None:
    """3 true yes, 1 false no, 1 false yes, 3 true no."""
    pairs = (
        [("yes", "yes")] * 3
        + [("no", "yes"), ("yes", "no")]
        + [("no", "no")] * 3
    )
    found = [{"prediction": said, "answers": (true,)} for said, true in pairs]
    benchmark = pope.build()
    assert benchmark.extra_metrics(found) == {
        "precision": 0.75,
        "recall": 0.75,
        "f1": 0.75,
        "yes": 0.5,
    }
    silent = [
        {"prediction": "no", "answers": (true,)} for true in ("yes", "no")
    ]
    assert benchmark.extra_metrics(silent) == {
        "precision": 0,
        "recall": 0,
        "f1": 0,
        "yes": 0,
    }


def test_broken_pope_files_are_refused(
    pope: Pope.Config, tmp_path: Path
) -> None:
    wrong = [
        ([POPE[0], POPE[0]], "question_id 1 occurs twice"),
        (
            [{**POPE[0], "label": "maybe"}],
            "label of question 1 is 'maybe', not yes or no",
        ),
        (
            [{"question_id": 3, "image": "a.jpg"}],
            "question 3 has no label, text",
        ),
        ([POPE], "line 1 is not an object"),
    ]
    for records, match in wrong:
        lines(Path(pope.annotations), records)
        with pytest.raises(ValueError, match=match):
            _ = pope.build().test
    Path(pope.annotations).write_text('{"question_id": 1\n')
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        _ = pope.build().test
    lines(Path(pope.annotations), [{**POPE[0], "image": "b.jpg"}])
    with pytest.raises(FileNotFoundError, match="question 1: no image at"):
        _ = pope.build().test
    Path(pope.annotations).unlink()
    with pytest.raises(
        FileNotFoundError, match="annotations: there is no file"
    ):
        _ = pope.build().test
    with pytest.raises(ConfigError, match="train_annotations is empty"):
        _ = pope.build().train


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no POPE files at {REAL}; set MM1_REAL_DATA"
)
def test_the_published_pope_files_are_read(tmp_path: Path) -> None:
    for part in ("adversarial", "popular", "random"):
        path = REAL / f"coco_pope_{part}.jsonl"
        for line in path.read_text().splitlines():
            (tmp_path / json.loads(line)["image"]).touch()
        benchmark = Pope.Config(
            annotations=str(path), images=str(tmp_path)
        ).build()
        labels = [record.answers[0] for record in benchmark.test]
        assert (labels.count("yes"), labels.count("no")) == (300, 300)


def test_scienceqa_is_read(science: ScienceQA.Config) -> None:
    benchmark = science.build()
    first, second = (benchmark.question(record) for record in benchmark.test)
    assert (
        first.prompt.text
        == "<image>Which is magnetic?\nA. wood\nB. iron\nAnswer:"
    )
    assert first.prompt.images == (tiny.picture(0),)
    context = "Context: It lies in the north.\n"
    assert (
        second.prompt.text
        == f"{context}What is the name of the colony?\nA. Ohio\nB. Iowa\nC."
        " Maine\nAnswer:"
    )
    assert (first.answers, second.answers) == (("B",), ("C",))
    prompt = benchmark.prompt(second, benchmark.shots(second, 1, 1)).text
    assert prompt == f"Is it?\nA. yes\nB. no\nAnswer: A\n{second.prompt.text}"
    said = [{"id": "5", "score": 1.0}, {"id": "7", "score": 0.0}]
    assert benchmark.extra_metrics(said) == {
        "with picture": 1.0,
        "without picture": 0.0,
    }


def test_scienceqa_filters_by_image_and_split(
    science: ScienceQA.Config,
) -> None:
    cases: tuple[tuple[dict[str, Any], list[str]], ...] = (
        ({"with_image": True}, ["5"]),
        ({"with_image": False, "images": ""}, ["7"]),
        ({"test_split": "minitest", "images": ""}, ["7"]),
    )
    for fields, wanted in cases:
        config = replace(science, **fields)
        benchmark = config.build()
        assert [record.id for record in benchmark.test] == wanted
        assert benchmark.extra_metrics([{"id": wanted[0], "score": 1.0}]) == {}


def test_a_letter_is_an_answer(science: ScienceQA.Config) -> None:
    benchmark = science.build()
    for said in (
        "B",
        "b",
        "B.",
        "(B)",
        "B. iron",
        "(B) iron",
        "B: iron\nor wood",
    ):
        assert benchmark.score([said], [("B",)]) == [1], said
    for said in (
        "",
        "iron",
        "BB",
        "A",
        "Bad",
        "A. B",
        "b. iron is it",
        "The answer is B",
    ):
        assert benchmark.score([said], [("B",)]) == [0], said


def test_broken_scienceqa_files_are_refused(
    science: ScienceQA.Config,
) -> None:
    def read(number: str, **change: Any) -> Any:
        Path(science.problems).write_text(
            json.dumps(PROBLEMS | {number: PROBLEMS[number] | change})
        )
        return science.build().test

    with pytest.raises(
        ValueError,
        match="the answer of problem 5 is choice 2, but it has 2, counted from 0",
    ):
        read("5", answer=2)
    with pytest.raises(
        FileNotFoundError, match=r"problem 5: no image at .*test/5/other\.png"
    ):
        read("5", image="other.png")
    Path(science.problems).write_text(json.dumps({"5": {"question": "?"}}))
    with pytest.raises(ValueError, match="problem 5 has no answer, choices"):
        _ = science.build().test
    Path(science.problems).write_text(json.dumps({"5": PROBLEMS["5"]}))
    with pytest.raises(
        ValueError, match=r"has no problem 7, which is in the split test"
    ):
        _ = science.build().test
    science.test_split = "tests"
    with pytest.raises(
        ConfigError, match="no split 'tests'; did you mean 'test'"
    ):
        _ = science.build().test
