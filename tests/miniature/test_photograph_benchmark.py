"""Questions about photographs, and how answers to them are scored."""

from pathlib import Path

import pytest

from mm1.config import UserError
from mm1.miniature.cifar.cifar10 import LABELS
from mm1.miniature.photograph_benchmark import Photographs, labels_in
from mm1.miniature.photograph_classes import PhotographClasses
from tests.miniature.test_cifar import write_cifar


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write_cifar(tmp_path / "train.parquet", [*LABELS] * 2)
    write_cifar(tmp_path / "test.parquet", ["frog", "airplane"], first=50)
    return str(tmp_path)


def test_shots_look_like_pages_and_naming_like_captions(folder: str) -> None:
    listed = Photographs.Config(folder=folder, task="list").build()
    question, prompt = listed.question_and_prompt(0, 3, 0)
    assert question.choices == LABELS
    words = prompt.text.split("<image>")
    assert words[0] == words[-1] == ""
    assert set(words[1:-1]) <= set(LABELS)
    naming = Photographs.Config(folder=folder, task="naming").build()
    question, prompt = naming.question_and_prompt(1, 1, 0)
    assert prompt.text.startswith("<image>a photo of a")
    assert prompt.text.endswith("<image>a photo of")
    assert naming.answer_text(question, question.answer).content == (
        " an airplane"
    )
    moved = Photographs.Config(
        folder=folder, task="list", shot_labels="moved"
    ).build()
    other, _ = moved.question_and_prompt(0, 3, 0)
    assert other.answer != "frog"


def test_a_caption_needs_the_label_and_no_other(folder: str) -> None:
    made = Photographs.Config(folder=folder, task="captions").build()
    said = ["A small photo of a Frog.", "a frog and a cat", "a tree", "cats"]
    assert made.score(said, [("frog",)] * 4) == [1, 0, 0, 0]
    assert labels_in('"truck", ship;') == {"truck", "ship"}
    assert not made.has_choices
    assert made.question(made.test[0]).choices == ()


def test_what_is_missing_is_said(tmp_path: Path, folder: str) -> None:
    lost = Photographs.Config(folder=str(tmp_path / "none")).build()
    with pytest.raises(UserError, match=r"cifar\.prepared .*none"):
        lost.records("test")
    classes = PhotographClasses.Config(folder=folder).build()
    found = [classes.labelled_image(each) for each in classes.records("test")]
    assert [LABELS[each.label] for each in found] == ["frog", "airplane"]
