"""The contract of a benchmark, for every file in `mm1/eval/benchmarks`."""

import inspect
import json
import os
import pickle
import pkgutil
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from components import classes_in

from mm1 import config as configs
from mm1 import miniature
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.eval import benchmarks
from mm1.eval.benchmarks import Benchmark
from mm1.prepare.conversation import parse_conversation
from mm1.prepare.placeholders import IMAGE_PLACEHOLDER


def every_benchmark() -> list[type[Benchmark]]:
    return classes_in(Benchmark, benchmarks, miniature)


@pytest.fixture(params=every_benchmark(), ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Benchmark]:
    return request.param


@pytest.fixture
def benchmark(cls: type[Benchmark]) -> Benchmark:
    return cls.Config().build()  # without any file


def test_every_file_holds_one() -> None:
    files = {m.name for m in pkgutil.iter_modules(benchmarks.__path__)}
    assert {
        cls.__module__.rpartition(".")[2]
        for cls in classes_in(Benchmark, benchmarks)
    } == files


def test_its_config_is_text_and_back(cls: type[Benchmark]) -> None:
    config = cls.Config(num_questions=3, stop=("\n", "."))
    assert (
        configs.from_json(json.loads(json.dumps(configs.to_json(config))))
        == config
    )
    assert pickle.loads(pickle.dumps(config)) == config


def test_it_has_a_metric_and_a_docstring(benchmark: Benchmark) -> None:
    assert benchmark.metric
    assert benchmark.chance is None or 0 <= benchmark.chance < 1
    assert benchmark.config.max_tokens > 0
    assert (
        inspect.getdoc(type(benchmark))
        or inspect.getmodule(type(benchmark)).__doc__
    )  # type: ignore[union-attr]


def test_the_example_is_a_question(benchmark: Benchmark) -> None:
    question = benchmark.question(benchmark.EXAMPLE)
    assert question.id
    assert question.answer.strip()
    assert question.answer in question.answers
    assert question == benchmark.question(benchmark.EXAMPLE)


def test_a_closed_set_of_answers_holds_the_right_one(
    benchmark: Benchmark,
) -> None:
    question = benchmark.question(benchmark.EXAMPLE)
    assert benchmark.has_choices == bool(question.choices)
    assert len(set(question.choices)) == len(question.choices)
    if benchmark.has_choices:
        assert question.answer in question.choices
        assert len(question.choices) > 1


def test_a_prompt_does_not_contain_the_answer(benchmark: Benchmark) -> None:
    question = benchmark.question(benchmark.EXAMPLE)
    assert question.answer.lower() not in question.prompt.text.lower().split()


def test_a_prompt_ends_where_an_answer_can_begin(benchmark: Benchmark) -> None:
    """Trailing white space would be a token of its own; in training it belongs to the
    next word."""
    question = benchmark.question(benchmark.EXAMPLE)
    assert question.prompt.parts
    assert question.prompt.text == question.prompt.text.rstrip()
    assert not any(
        isinstance(part, Text) and part.end for part in question.prompt.parts
    )


def test_a_shot_is_the_question_with_an_answer_that_stops(
    benchmark: Benchmark,
) -> None:
    """Cut at the stop string, as in generation, a shot's answer is the right one, or in
    words that count as such."""
    question = benchmark.question(benchmark.EXAMPLE)
    shot = benchmark.shot(benchmark.EXAMPLE)
    assert shot.text.startswith(question.prompt.text)
    assert shot.images == question.prompt.images
    said = shot.text.removeprefix(question.prompt.text)
    for mark in benchmark.config.stop:
        said = said.partition(mark)[0]
    assert said.strip() == question.answer or benchmark.score(
        [said.strip()], [question.answers]
    ) == [1.0]


def test_the_right_answer_scores_and_an_empty_one_does_not(
    benchmark: Benchmark,
) -> None:
    question = benchmark.question(benchmark.EXAMPLE)
    other = ("nothing like it",) * len(question.answers)
    truth, silence, wrong = benchmark.score(
        [question.answer, "", "xyzzy"], [question.answers, other, other]
    )
    assert truth > 0.3
    assert silence == wrong == 0


def test_shots_and_question_pass_through_the_training_renderer(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    renderer = Renderer(
        tiny.tokenizer(tmp_path), ImageProcessor((8, 8)), tokens_per_image=4
    )
    question = benchmark.question(benchmark.EXAMPLE)
    shot = benchmark.shot(benchmark.EXAMPLE)
    prompt = benchmark.prompt(question, [shot, shot])
    assert benchmark.prompt(question, []) == question.prompt
    assert len(prompt.images) == 3 * len(question.prompt.images)
    page = Document((*shot.parts, *shot.parts, *shot.parts))
    asked = renderer(prompt, end=False)
    trained = renderer(page)
    assert asked.tokens.tolist() == trained.tokens[: len(asked.tokens)].tolist()


def test_in_chat_it_is_laid_out_as_conversations_are_prepared(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    renderer = Renderer(
        tiny.tokenizer(tmp_path), ImageProcessor((8, 8)), tokens_per_image=4
    )
    chat = replace(benchmark.config, chat=True).build()
    question = chat.formatted_question(chat.EXAMPLE)
    shot = chat.shot(chat.EXAMPLE)
    words = "".join(
        IMAGE_PLACEHOLDER if isinstance(part, Image) else part.content
        for part in question.prompt.parts
    )
    turns = [
        {"role": "user", "content": words},
        {"role": "assistant", "content": question.answer},
    ] * 2
    prepared = parse_conversation(
        {"messages": turns}, [*shot.images, *question.prompt.images]
    )
    asked = renderer(chat.prompt(question, [shot]), end=False)
    trained = renderer(Document(prepared.parts[:-1]), end=False)
    assert asked.tokens.tolist() == trained.tokens.tolist()
    assert not renderer(question.prompt, end=False).loss_mask.any()


TOY = '''"""Is it a cat?"""

from mm1.data.document import Document, Text
from mm1.eval.benchmarks import Benchmark, Question
from mm1.eval.metrics import exact_match


class Cats(Benchmark):
    EXAMPLE = ("tom", "yes")
    metric = "exact match"

    def records(self, split):
        return [("tom", "yes"), ("rex", "no")]

    def question(self, record):
        prompt = Document((Text(f"Is {record[0]} a cat?"),))
        return Question(prompt, (record[1],), record[0])

    def score(self, predictions, answers):
        return [exact_match(*pair) for pair in zip(predictions, answers, strict=True)]
'''


@pytest.mark.long
def test_one_file_adds_a_tested_benchmark(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    shutil.copytree(
        root / "mm1",
        tmp_path / "mm1",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    shared = [
        path.relative_to(root)
        for path in (root / "tests").glob("*.py")
        if not path.name.startswith("test_")
    ]
    for name in (
        Path("pyproject.toml"),
        *shared,
        Path("tests/eval/test_benchmarks.py"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    (tmp_path / "mm1" / "eval" / "benchmarks" / "cats.py").write_text(TOY)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "tests/eval/test_benchmarks.py",
        "-k",
        "Cats or every_file",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert (
        "test_the_right_answer_scores_and_an_empty_one_does_not[Cats] PASSED"
        in done.stdout
    )


class Colours(Benchmark):
    """A hundred train and twenty test records; every fifth train image is a test
    image."""

    metric = "exact match"

    def records(self, split: benchmarks.Split) -> list[int]:
        return list(range(100)) if split == "train" else list(range(0, 100, 5))

    def question(self, record: int) -> benchmarks.Question:
        image = Image(f"picture {record}".encode(), 1, 1)
        return benchmarks.Question(
            Document((image, Text("colour?"))),
            (f"colour {record}",),
            str(record),
        )


def shots(colours: Benchmark, number: int, num_shots: int) -> list[Document]:
    return colours.shots(
        colours.question(colours.test[number]), number, num_shots
    )


def test_fewer_shots_begin_more_shots() -> None:
    colours = Colours.Config(seed=3).build()
    eight = shots(colours, 4, 8)
    assert len({shot.text + str(shot.images) for shot in eight}) == 8
    assert [shots(colours, 4, k) for k in (0, 1, 4)] == [
        eight[:0],
        eight[:1],
        eight[:4],
    ]
    assert shots(colours, 5, 8) != eight
    assert shots(Colours.Config(seed=4).build(), 4, 8) != eight


def test_each_draw_has_other_demonstrations() -> None:
    colours = Colours.Config(draws=2).build()
    question = colours.question(colours.test[4])
    first, second = (colours.shots(question, 4, 8, draw) for draw in range(2))
    assert (first, second != first) == (shots(colours, 4, 8), True)
    with pytest.raises(configs.ConfigError, match="draws=0 must be at least 1"):
        Colours.Config(draws=0).build()


def test_all_questions_share_shots_that_do_not_give_them_away() -> None:
    colours = Colours.Config(same_shots=True, draws=2).build()
    texts = [
        [shot.text for shot in shots(colours, number, 8)]
        for number in range(20)
    ]
    usual = max(texts, key=texts.count)
    given_away = [number for number in range(20) if texts[number] != usual]
    assert 0 < len(given_away) < 4
    for number in given_away:  # its own record is skipped for the next one
        own = f"<image>colour? colour {colours.test[number]}\n"
        assert [text for text in usual if text != own] == texts[number][:7]
        assert own in usual
    question = colours.question(colours.test[4])
    assert colours.shots(question, 4, 8, draw=1) != colours.shots(
        question, 4, 8
    )
    with pytest.raises(
        configs.ConfigError,
        match="same_shots=True with retrieval=runs/clip: retrieved shots differ",
    ):
        Colours.Config(same_shots=True, retrieval="runs/clip").build()


def test_the_image_of_a_question_is_never_in_a_demonstration() -> None:
    colours = Colours.Config().build()
    for number in range(20):
        asked = colours.question(colours.test[number])
        demonstrations = shots(colours, number, 99)
        assert asked.prompt.images[0] not in [
            image for shot in demonstrations for image in shot.images
        ]
        assert len(demonstrations) == 99
    with pytest.raises(
        configs.ConfigError,
        match="100 shots were asked for, but only 99 train records can demonstrate 0",
    ):
        shots(colours, 0, 100)


def test_fewer_questions_are_a_subset_of_more_with_the_same_shots() -> None:
    few, more = (Colours.Config(num_questions=n).build() for n in (5, 12))
    assert len(few.chosen) == 5
    assert (
        set(few.chosen)
        < set(more.chosen)
        < set(Colours.Config().build().chosen)
    )
    assert few.chosen == sorted(few.chosen)
    other = Colours.Config(num_questions=5, seed=1).build()
    assert other.chosen not in (few.chosen, list(range(5)))
    assert shots(few, few.chosen[0], 4) == shots(more, few.chosen[0], 4)


def test_a_demonstration_shows_the_most_frequent_answer() -> None:
    ask = Document((Text("?"),))
    assert (
        benchmarks.Question(ask, ("b", "a", " ", " ", " ", "a"), "1").answer
        == "a"
    )
    assert benchmarks.Question(ask, ("b", "a"), "1").answer == "b"
