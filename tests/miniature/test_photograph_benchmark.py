"""Questions about photographs, and how answers to them are scored."""

from pathlib import Path

import pytest

from mm1.config import UserError
from mm1.miniature.cifar.cifar10 import LABELS
from mm1.miniature.photograph_benchmark import Photographs, labels_in
from mm1.miniature.photograph_classes import PhotographClasses
from mm1.miniature.photographs_smollm2 import photographs_smollm2
from mm1.study.plan import StudyPlan
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


def test_a_language_model_and_text_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MM1_TEXT", raising=False)
    prepare = photographs_smollm2().prepare
    assert prepare is not None
    with pytest.raises(UserError, match="mm1 import HuggingFaceTB/SmolLM2"):
        prepare(tmp_path / "out")
    (tmp_path / "runs" / "smollm2").mkdir(parents=True)
    (tmp_path / "runs" / "smollm2" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="environment variable MM1_TEXT"):
        prepare(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_loss_on_text_before_is_that_of_the_frozen_row(
    tmp_path: Path,
) -> None:
    """Each row starts from the same connector, whose language model was frozen."""
    plan = StudyPlan(tmp_path)
    rows = photographs_smollm2().rows(plan, 7)
    starts = {tuple(plan.runs[run].init.items()) for run in rows.values()}
    assert len(starts) == 1
    assert set(dict(*starts)) == {"encoder", "connector", "decoder"}
    (start,) = set(dict(*starts).values())
    assert plan.runs[start].frozen == ("decoder",)
    assert plan.runs[start].init["decoder"] == "runs/smollm2"
    frozen = {row for row, run in rows.items() if plan.runs[run].frozen}
    assert frozen == {"frozen"}
