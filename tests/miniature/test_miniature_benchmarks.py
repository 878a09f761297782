"""The tasks of the miniature world as benchmarks: what is special about them."""

import pytest

from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.eval.benchmarks import Question
from mm1.miniature.benchmarks import Miniature
from mm1.miniature.caption_benchmark import MiniatureCaptions
from mm1.miniature.world.examples import TASKS


def prompt(
    benchmark: Miniature, number: int, num_shots: int
) -> tuple[Question, list[Document]]:
    question = benchmark.question(benchmark.test[number])
    return question, benchmark.shots(question, number, num_shots)


@pytest.mark.parametrize("task", [*TASKS, "new labels", "fact", "copy"])
def test_every_task_can_be_asked_with_shots(task: str) -> None:
    benchmark = Miniature.Config(task=task).build()
    for number in range(3):
        question, shots = prompt(benchmark, number, 2)
        assert " " not in question.answer
        assert shots == prompt(benchmark, number, 4)[1][:2]
        assert (
            len(
                {
                    document.text + str(document.images)
                    for document in (question.prompt, *shots)
                }
            )
            == 3
        )
        if task in TASKS:
            assert question.answer in TASKS[task].answers
            assert benchmark.chance == 1 / len(TASKS[task].answers)
            assert (
                shots[0].text.startswith(question.prompt.text)
                or task == "relation"
            )  # which names a shape


def test_a_question_without_a_name_is_the_picture_alone() -> None:
    benchmark = Miniature.Config(task="shape", named=False).build()
    question, (shot,) = prompt(benchmark, 0, 1)
    assert question.prompt.text == "<image>"
    assert shot.text.removeprefix("<image>") in TASKS["shape"].answers
    assert (
        prompt(Miniature.Config(task="shape").build(), 0, 1)[0].answers
        == question.answers
    )


def test_new_labels_mean_the_same_in_shots_and_question() -> None:
    benchmark = Miniature.Config(task="new labels").build()
    for number in range(6):
        question, shots = prompt(benchmark, number, 12)
        labels = {shot.text.removeprefix("<image>") for shot in shots}
        assert question.answer in labels
        assert len(labels) == 2


def test_a_caption_counts_its_right_words_in_any_order() -> None:
    benchmark = MiniatureCaptions.Config().build()
    truth = ("two large red ring",)
    said = [
        "ring red large two",
        "two ring",
        "two two red ring",
        "two large red ring cat",
        "",
        "cat",
    ]
    assert benchmark.score(said, [truth] * len(said)) == [
        1.0,
        0.5,
        0.75,
        0.8,
        0.0,
        0.0,
    ]
    seen = {
        len(benchmark.question(("test", n)).answer.split()) for n in range(12)
    }
    assert seen == {3, 4}  # "digit seven red", "two large red ring"


def test_words_about_four_things_count_at_their_places() -> None:
    benchmark = MiniatureCaptions.Config(four=True, max_tokens=10).build()
    truth = ("red ring blue cross green circle white square",)
    said = [
        *truth,
        "blue cross red ring green circle white square",
        "red ring",
        f"{truth[0]} red ring",
        "",
    ]
    assert benchmark.score(said, [truth] * len(said)) == [
        1.0,
        0.5,
        0.25,
        0.8,
        0.0,
    ]
    test, train = (
        {benchmark.question((split, n)).answer for n in range(50)}
        for split in ("test", "train")
    )
    assert all(len(answer.split()) == 8 for answer in test | train)
    assert not test & train


def test_an_unknown_task_is_named_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="no task 'colours'; did you mean 'colour'"
    ):
        Miniature.Config(task="colours").build()
