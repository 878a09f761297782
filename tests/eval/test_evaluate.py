"""Evaluation: what it writes, what it reuses, and that two ranks score as one."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
from ranks import on_ranks

from mm1 import dist
from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.eval.benchmarks import Benchmark, Question, Split
from mm1.eval.evaluate import build_benchmarks, evaluate, format_scores
from mm1.eval.metrics import exact_match
from mm1.infer.predictor import Predictor

NUM_QUESTIONS = 13


class Numbers(Benchmark):
    """Images of noise; the answer is the parity of the record's number."""

    metric = "exact match"
    chance = 0.5

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        first: int = 0
        max_tokens: int = 2

    config: Config

    def records(self, split: Split) -> list[int]:
        return (
            list(range(100, 130))
            if split == "train"
            else list(range(NUM_QUESTIONS))
        )

    def question(self, record: int) -> Question:
        parts = (
            tiny.picture(record, side=400 if record == 0 else 8),
            Text(" question"),
        )
        return Question(
            Document(parts), (f"{record % 2}", "cat"), f"number/{record}"
        )

    def score(self, predictions: Any, answers: Any) -> list[float]:
        return [
            exact_match(*pair)
            for pair in zip(predictions, answers, strict=True)
        ]


class Oracle(Predictor):
    """Right for even records: `cat` is always accepted, `dog` never."""

    calls = 0

    def generate(
        self,
        documents: Any,
        *,
        max_tokens: int,
        stop: Any = (),
        share_prefix: bool = False,
    ) -> list[str]:
        self.calls += 1
        assert (max_tokens, stop) == (2, ("\n",))
        return [" cat " if i % 2 == 0 else "dog" for i in range(len(documents))]


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    predictor = tiny.predictor(tmp_path)
    return Oracle(predictor.model, predictor.renderer, predictor.device)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "predictions" / name).read_text().splitlines()
    ]


def test_predictions_and_scores_are_written(
    tmp_path: Path, oracle: Oracle
) -> None:
    scores = evaluate(
        oracle,
        {"numbers": Numbers.Config().build()},
        (0, 2),
        tmp_path,
        version="v1",
    )
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    result = scores["numbers"]
    assert (result["metric"], result["chance"], list(result["shots"])) == (
        "exact match",
        0.5,
        ["0", "2"],
    )
    share = 7 / 13
    for shots in result["shots"].values():
        assert shots["score"] == pytest.approx(share)
        assert shots["stderr"] == pytest.approx(
            (share * (1 - share) / 13) ** 0.5
        )
        assert shots["num_questions"] == 13
    first, second, *rest = lines(tmp_path, "numbers-2shot.jsonl")
    assert first["id"] == "number/0"
    assert first["prompt"].startswith("<image> question ")
    assert first["prompt"].endswith("\n<image> question")
    assert (first["answers"], first["prediction"], first["score"]) == (
        ["0", "cat"],
        "cat",
        1.0,
    )
    assert (second["prediction"], second["score"]) == ("dog", 0.0)
    assert len(rest) == 11


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a\0b", ".."])
def test_a_benchmark_whose_name_leads_elsewhere_writes_nothing(
    name: str, tmp_path: Path, oracle: Oracle
) -> None:
    folder = tmp_path / "runs" / "own"
    folder.mkdir(parents=True)
    config = Numbers.Config()
    with pytest.raises(ConfigError, match=r"benchmark .* name of a file"):
        build_benchmarks({name: config}, oracle.model, (0,))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"benchmark .* name of a file"):
        evaluate(oracle, {name: config.build()}, (0,), folder, version="v1")
    assert sorted(tmp_path.rglob("*")) == before
    assert oracle.calls == 0


class Unreadable(Numbers):
    """Questions with characters that `str.splitlines` takes for line ends, and an id
    longer than the name of a file may be."""

    def question(self, record: int) -> Question:
        text = Text(f" {record}\u2028or\x85no\x0c?")
        picture = tiny.picture(record, side=8)
        return Question(
            Document((picture, text)), (f"{record % 2}",), f"{record}/" * 300
        )


def test_predictions_are_read_as_they_were_written(
    tmp_path: Path, oracle: Oracle
) -> None:
    def scores() -> Any:
        config = Unreadable.Config()
        return evaluate(
            oracle, {"odd": config.build()}, (0,), tmp_path, version="v1"
        )

    first = scores()
    calls = oracle.calls
    assert scores() == first
    assert oracle.calls == calls


def test_images_of_the_first_questions_are_written(
    tmp_path: Path, oracle: Oracle
) -> None:
    evaluate(
        oracle,
        {"numbers": Numbers.Config().build()},
        (0, 2),
        tmp_path,
        version="v1",
    )
    written = lines(tmp_path, "numbers-2shot.jsonl")
    assert written[0]["pictures"] == [
        f"predictions/numbers-2shot/number_0-{i}.png" for i in range(3)
    ]
    assert ["pictures" in line for line in written] == [True] * 12 + [False]
    shown = [(tmp_path / name).read_bytes() for name in written[0]["pictures"]]
    sizes = [
        (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
        for data in shown
    ]
    assert sizes == [
        (8, 8),
        (8, 8),
        (384, 384),
    ]  # the question comes last, and its image was scaled down


def test_results_are_reused(tmp_path: Path, oracle: Oracle) -> None:
    first = evaluate(
        oracle,
        {"numbers": Numbers.Config().build()},
        (0, 2),
        tmp_path,
        version="v1",
    )
    before = (tmp_path / "scores.json").read_bytes()
    evaluate(
        oracle,
        {"numbers": Numbers.Config().build()},
        (0, 2),
        tmp_path,
        version="v1",
    )
    assert oracle.calls == 2
    assert (tmp_path / "scores.json").read_bytes() == before
    (
        tmp_path / "predictions" / "numbers-2shot.jsonl"
    ).unlink()  # as if killed between two numbers of shots
    assert (
        evaluate(
            oracle,
            {"numbers": Numbers.Config().build()},
            (0, 2),
            tmp_path,
            version="v1",
        )
        == first
    )
    assert oracle.calls == 3
    evaluate(
        oracle,
        {"other": Numbers.Config(first=1).build()},
        (0,),
        tmp_path,
        version="v1",
    )
    both = evaluate(
        oracle,
        {"numbers": Numbers.Config(first=1).build()},
        (0,),
        tmp_path,
        version="v1",
    )
    assert oracle.calls == 5  # other settings
    assert list(both) == ["numbers", "other"]
    assert list(both["numbers"]["shots"]) == ["0", "2"]
    last = evaluate(
        oracle,
        {"other": Numbers.Config(first=1).build()},
        (0,),
        tmp_path,
        version="v2",
    )
    assert oracle.calls == 6  # other weights: nothing is reused
    assert {name: list(result["shots"]) for name, result in last.items()} == {
        "other": ["0"]
    }


class Fickle(Oracle):
    """Right for even records in every odd call, for odd records in every even one."""

    def generate(
        self,
        documents: Any,
        *,
        max_tokens: int,
        stop: Any = (),
        share_prefix: bool = False,
    ) -> list[str]:
        said = super().generate(documents, max_tokens=max_tokens, stop=stop)
        return (
            said
            if self.calls % 2
            else ["dog" if answer == " cat " else " cat " for answer in said]
        )


def test_draws_are_evaluated_one_by_one_and_averaged(
    tmp_path: Path, oracle: Oracle
) -> None:
    fickle = Fickle(oracle.model, oracle.renderer, oracle.device)

    def asked(draws: int) -> dict[str, Any]:
        return evaluate(
            fickle,
            {"numbers": Numbers.Config(draws=draws).build()},
            (0, 2),
            tmp_path,
            version="v1",
        )

    result = asked(3)["numbers"]["shots"]
    assert fickle.calls == 4  # without demonstrations there is one draw
    assert (result["0"]["draws"], "spread" in result["0"]) == (
        [pytest.approx(7 / 13)],
        False,
    )
    few = result["2"]
    assert few["draws"] == [pytest.approx(share / 13) for share in (6, 7, 6)]
    assert few["score"] == pytest.approx(19 / 39)
    assert few["spread"] == pytest.approx(
        3**-0.5 / 13
    )  # of 6, 7 and 6 thirteenths, with n - 1
    assert few["stderr"] == pytest.approx(
        (7 / 13 * 6 / 13) ** 0.5 / 3 / 13**0.5
    )  # 1/3 for even ones, 2/3 for odd
    prompts = [
        lines(tmp_path, f"numbers-2shot{draw}.jsonl")[3]["prompt"]
        for draw in ("", "-draw2", "-draw3")
    ]
    assert len(set(prompts)) > 1
    (
        tmp_path / "predictions" / "numbers-2shot-draw2.jsonl"
    ).unlink()  # as if killed there
    asked(3)
    assert fickle.calls == 5
    assert len(asked(4)["numbers"]["shots"]["2"]["draws"]) == 4
    assert fickle.calls == 6  # only the fourth draw
    assert "spread" not in asked(1)["numbers"]["shots"]["2"]
    assert fickle.calls == 6


def test_prompts_of_conversations_are_written_with_their_end_tokens(
    tmp_path: Path, oracle: Oracle
) -> None:
    benchmark = Numbers.Config(chat=True, num_questions=3).build()
    evaluate(oracle, {"numbers": benchmark}, (2,), tmp_path, version="v1")
    tokenizer = oracle.renderer.tokenizer
    for line in lines(tmp_path, "numbers-2shot.jsonl"):
        *shots, asked = line["prompt"].split(tokenizer.name(tokenizer.end))
        assert len(shots) == 2
        for shot in shots:
            assert re.fullmatch(r"<image> question\n(0|1|cat)", shot)
        assert asked == "<image> question\n"


def test_the_zero_shot_prompt_is_named_and_part_of_the_settings(
    tmp_path: Path, oracle: Oracle
) -> None:
    scores = evaluate(
        oracle,
        {"numbers": Numbers.Config().build()},
        (0, 2),
        tmp_path,
        version="v1",
    )
    assert (
        scores["numbers"]["shots"]["0"]["zero_shot_prompt"]
        == "no demonstrations"
    )
    assert "zero_shot_prompt" not in scores["numbers"]["shots"]["2"]
    config = Numbers.Config(zero_shot_prompt="text_only")
    plain = Numbers.Config().build()
    shown = config.build()
    assert plain.settings(0) != shown.settings(0)
    assert plain.settings(2) == shown.settings(2)
    scores = evaluate(
        oracle, {"numbers": config.build()}, (0, 2), tmp_path, version="v1"
    )
    assert oracle.calls == 3  # the result at 2 shots is reused
    first, second = format_scores(scores).splitlines()
    assert first.endswith(
        "0 shots  exact match 0.538 +- 0.138 (two demonstrations without pictures)"
    )
    assert second.endswith("2 shots  exact match 0.538 +- 0.138")
    line = lines(tmp_path, "numbers-0shot.jsonl")[0]
    assert re.fullmatch(
        r"( question (0|1|cat)\n){2}<image> question", line["prompt"]
    )
    assert len(line["pictures"]) == 1


def test_answers_after_shared_shots_are_those_of_each_prompt_alone(
    tmp_path: Path,
) -> None:
    """Some questions are among the shots and get others: they are generated apart."""

    class Overlapping(Numbers):
        def records(self, split: Split) -> list[int]:
            return list(range(1, 8)) if split == "train" else list(range(9))

    benchmark = Overlapping.Config(same_shots=True).build()
    predictor = tiny.predictor(tmp_path)
    prompts = [
        benchmark.question_and_prompt(number, 3, 0)[1]
        for number in benchmark.chosen
    ]
    assert 1 < len({prompt.parts[:-2] for prompt in prompts}) <= 4
    alone = [
        predictor.generate([prompt], max_tokens=2, stop=("\n",))[0].strip()
        for prompt in prompts
    ]
    assert [
        line["prediction"]
        for line in benchmark.evaluate(predictor, 3, lambda _: None)
    ] == alone


def test_zero_shots_need_no_train_split(tmp_path: Path, oracle: Oracle) -> None:
    class TestOnly(Numbers):
        def records(self, split: Split) -> list[int]:
            assert split == "test"
            return super().records(split)

    scores = evaluate(
        oracle,
        {"test_only": TestOnly.Config().build()},
        (0,),
        tmp_path,
        version="v1",
    )
    assert list(scores["test_only"]["shots"]) == ["0"]


def test_two_ranks_score_as_one(tmp_path: Path) -> None:
    """13 questions give the same predictions on two ranks as on one."""
    alone = tmp_path / "alone"
    together = tmp_path / "together"
    alone.mkdir(), together.mkdir()
    run(alone)
    on_ranks(2, run_on_a_rank, together)
    for name in ("scores.json", "predictions/numbers-1shot.jsonl"):
        assert (together / name).read_bytes() == (alone / name).read_bytes()


def run(folder: Path) -> None:
    place = folder / f"tokenizer{os.environ.get('RANK', '')}"
    place.mkdir()
    evaluate(
        tiny.predictor(place),
        {"numbers": Numbers.Config().build()},
        (1,),
        folder,
        version="v1",
    )


def run_on_a_rank(folder: Path) -> None:
    dist.start()
    run(folder)
