"""Controls of few-shot figures: what the shots show, and answers from a closed set."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.eval.benchmarks import Benchmark, Question, Split
from mm1.eval.controls import (
    control_name,
    controls_of,
    is_control,
    with_controls,
)
from mm1.eval.evaluate import evaluate
from mm1.eval.metrics import exact_match
from mm1.infer.choose import choose
from mm1.miniature.benchmarks import Miniature
from mm1.miniature.score_table import score_table
from mm1.runs.results import RunFolder

FRUIT = ("fig", "lime", "plum", "pear")


class Fruit(Benchmark):
    """Pictures of noise, called by their number."""

    metric = "exact match"
    has_choices = True
    MANY = 40

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        stop: tuple[str, ...] = ()

    def records(self, split: Split) -> list[int]:
        first = 0 if split == "test" else self.MANY
        return list(range(first, first + self.MANY))

    def question(self, record: int) -> Question:
        prompt = Document((tiny.picture(record), Text(" which fruit")))
        return Question(prompt, (FRUIT[record % 4],), f"{record}", FRUIT)

    def score(self, predictions: Any, answers: Any) -> list[float]:
        pairs = zip(predictions, answers, strict=True)
        return [exact_match(*pair) for pair in pairs]


class Numbers(Fruit):
    """The same without a closed set."""

    has_choices = False

    @dataclass(kw_only=True, slots=True)
    class Config(Fruit.Config):
        pass

    def question(self, record: int) -> Question:
        return Question(Document((tiny.picture(record),)), (f"{record}",), "1")


def labels_of(prompt: Document) -> list[str]:
    """What its demonstrations say."""
    return [
        part.content.strip()
        for part in prompt.parts
        if isinstance(part, Text) and part.content.strip() in FRUIT
    ]


def asked(number: int, **options: Any) -> tuple[Question, Document]:
    benchmark = Fruit.Config(**options).build()
    return benchmark.question_and_prompt(number, 8, 0)


@pytest.mark.parametrize("same_shots", [False, True])
def test_wrong_labels_are_other_choices_of_the_same_pictures(
    same_shots: bool,
) -> None:
    moves = set()
    for number in range(12):
        truth, plain = asked(number, same_shots=same_shots)
        question, prompt = asked(
            number, shot_labels="wrong", same_shots=same_shots
        )
        assert question == truth
        assert prompt.images == plain.images
        pairs = list(zip(labels_of(plain), labels_of(prompt), strict=True))
        assert len(pairs) == 8
        assert all(right != wrong for right, wrong in pairs)
        moves |= set(pairs)
    # at random: a fixed wrong answer for each right one could be learnt from
    assert len(moves) > (4 if same_shots else 11)


def test_moved_labels_trade_places_in_shots_and_truth() -> None:
    moves: dict[str, set[str]] = {fruit: set() for fruit in FRUIT}
    for number in range(12):
        truth, plain = asked(number, seed=3)
        question, prompt = asked(number, shot_labels="moved", seed=3)
        assert prompt.images == plain.images
        moves[truth.answer].add(question.answer)
        for right, moved in zip(
            labels_of(plain), labels_of(prompt), strict=True
        ):
            moves[right].add(moved)
    assert all(len(moved) == 1 for moved in moves.values())
    assert set().union(*moves.values()) == set(FRUIT)
    assert all(right not in moved for right, moved in moves.items())


def test_labels_alone_leave_out_pictures_of_shots_only() -> None:
    truth, plain = asked(5)
    question, prompt = asked(5, shot_labels="alone")
    assert question == truth
    assert labels_of(prompt) == labels_of(plain)
    assert prompt.images == question.prompt.images


def test_fewer_wrong_shots_are_the_first_of_more() -> None:
    benchmark = Fruit.Config(shot_labels="wrong").build()
    _, two = benchmark.question_and_prompt(7, 2, 0)
    _, eight = benchmark.question_and_prompt(7, 8, 0)
    assert labels_of(two) == labels_of(eight)[:2]


def test_episodes_are_relabelled_with_their_own_names() -> None:
    options = {"task": "new labels", "restricted": True}
    plain = Miniature.Config(**options).build()
    wrong = Miniature.Config(**options, shot_labels="wrong").build()
    for number in range(4):
        question, prompt = plain.question_and_prompt(number, 6, 0)
        other, swapped = wrong.question_and_prompt(number, 6, 0)
        assert question == other
        for right, shown in zip(prompt.parts, swapped.parts, strict=True):
            if isinstance(right, Text) and isinstance(shown, Text):
                assert {right.content, shown.content} == set(question.choices)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("red", "green", "blue"), id="a-token-each"),
        pytest.param(("red", "red cat", "green dog sun"), id="several-tokens"),
    ],
)
def test_the_likeliest_choice_is_that_of_the_whole_answer(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    predictor = tiny.predictor(tmp_path, kind="word")
    prompts = [Document((tiny.picture(i), Text(" question"))) for i in range(6)]
    choices = [
        [Text(f" {word}") for word in order]
        for order in itertools.permutations(words)
    ]
    expected = []
    for prompt, own in zip(prompts, choices, strict=True):
        asked = Document((prompt.parts[0], Text(" question", loss=False)))
        nats = [
            predictor.log_likelihood([asked + Document((choice,))])[0]
            for choice in own
        ]
        expected.append(nats.index(max(nats)))
    assert choose(predictor, prompts, choices) == expected
    assert len(set(expected)) > 1


def test_restricted_answers_are_choices_and_say_so(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    fruit = Fruit.Config(restricted=True, num_questions=5, shots=(0, 2))
    scores = evaluate(
        predictor, {"fruit": fruit.build()}, (), tmp_path, version="1"
    )
    for count, result in scores["fruit"]["shots"].items():
        assert result["control"] == "answers restricted to the choices"
        lines = RunFolder(tmp_path).predictions("fruit", int(count))
        assert {line["prediction"] for line in lines} <= set(FRUIT)


@pytest.mark.parametrize(
    "options",
    [{"restricted": True}, {"shot_labels": "wrong"}, {"shot_labels": "moved"}],
)
def test_a_control_of_an_open_set_is_an_error(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    model = tiny.predictor(tmp_path).model
    Fruit.Config(**options).build().check(model)
    with pytest.raises(ConfigError, match="no closed set of answers"):
        Numbers.Config(**options).build().check(model)


def test_controls_stand_beside_the_figures_they_belong_to() -> None:
    benchmarks = with_controls(
        {
            "fruit": Fruit.Config(),
            "asked": Fruit.Config(shots=(0,)),
            "open": Numbers.Config(),
            "closed": Fruit.Config(restricted=True),
        },
        (0, 4),
    )
    # the controls of "asked" need no shots: that of the format alone is left
    assert list(benchmarks) == [
        "fruit",
        "fruit, restricted",
        "fruit, wrong labels",
        "fruit, labels alone",
        "fruit, moved labels",
        "asked",
        "asked, restricted",
        "open",
        "closed",
        "closed, wrong labels",
        "closed, labels alone",
        "closed, moved labels",
    ]
    assert benchmarks["fruit, restricted"].shots == (0, 4)
    assert benchmarks["fruit, moved labels"].shots == (4,)
    changed = {
        name.removeprefix("fruit, "): (config.shot_labels, config.restricted)
        for name, config in benchmarks.items()
        if name.startswith("fruit") and isinstance(config, Fruit.Config)
    }
    assert changed == {
        "fruit": ("right", False),
        "restricted": ("right", True),
        "wrong labels": ("wrong", False),
        "labels alone": ("alone", False),
        "moved labels": ("moved", False),
    }
    assert with_controls(benchmarks, (0, 4)).keys() == benchmarks.keys()
    control = {"under another name": Fruit.Config(shot_labels="wrong")}
    assert with_controls(control, (0, 4)) == control
    names = tuple(benchmarks)
    assert controls_of(names)["asked"] == ["restricted"]
    assert is_control("closed, labels alone", names)
    assert not is_control("open", names)


def test_the_table_shows_each_control_below_its_task_and_gaps_where_nothing_is(
    tmp_path: Path,
) -> None:
    one = {"chance": 0.25, "shots": {"0": {"score": 0.1}, "4": {"score": 0.8}}}
    two = {"shots": {"4": {"score": 0.75}}}
    scores = {
        "colour": one,
        "shape": {"chance": None, "shots": {"2": {"score": 0.5}}},
        control_name("colour", "wrong labels"): two,
    }
    before = RunFolder(tmp_path / "before")
    before.__dict__["scores"] = scores
    after = RunFolder(tmp_path / "after")
    after.__dict__["scores"] = {"colour": one}
    runs = {"before": before, "after": after}
    head, rows = score_table(runs)
    models = ("0 before", "2 before", "4 before")
    models += ("0 after", "2 after", "4 after")
    assert head == ("task", "chance", *models)
    wrong = ("·\N{NO-BREAK SPACE}wrong labels", "", "", "", "0.75", "", "", "")
    assert rows == [
        ("colour", "0.25", "0.10", "", "0.80", "0.10", "", "0.80"),
        wrong,
        ("shape", "", "", "0.50", "", "", "", ""),
    ]
    head, rows = score_table(runs, controlled=True)
    assert head == (
        "task",
        "chance",
        "0 before",
        "4 before",
        "0 after",
        "4 after",
    )
    assert [row[0] for row in rows] == [
        "colour",
        "·\N{NO-BREAK SPACE}wrong labels",
    ]
    assert score_table({"before": RunFolder(tmp_path / "none")})[1] == []
