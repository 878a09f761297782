"""The interface for lm-evaluation-harness, without that package.

Boundaries, long texts, and agreement with our own scorer.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny
from export.exports import loader, make_run, model

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.harness.limits import generation_limits
from mm1.harness.text import TextModel, rolling_windows, tokenize_pair

PAIRS = [
    ("red green", " blue cat"),
    ("the answer is", " question two three"),
    ("question: cat? answer:", " dog"),
    ("red, green (blue)", " sun."),
    ("cat\n", "dog"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextModel]:
    """Two runs, the second with a begin token."""
    models = {}
    for kind in ("bpe", "foreign"):
        folder = tmp_path_factory.mktemp(kind)
        make_run(folder, model(), loader(), kind=kind)
        models[kind] = TextModel.load(folder)
    return models


def parts(context: str, continuation: str) -> Document:
    """As in training and in our own benchmarks."""
    return Document((Text(context, loss=False), Text(continuation)))


def names(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.name(token) for token in ids]


def test_context_and_continuation_are_tokenised_as_one_text(
    tmp_path: Path,
) -> None:
    tokenizer = train_tokenizer(
        [f" {tiny.WORDS}", tiny.WORDS],
        tmp_path / "tokenizer.json",
        vocab_size=400,
    )
    for context, continuation in PAIRS[:4]:
        before, scored = tokenize_pair(tokenizer, context, continuation)
        assert before + scored == tokenizer.encode(context + continuation)
        assert (before, scored) == (
            tokenizer.encode(context),
            tokenizer.encode(continuation),
        )
    # White space goes with the word that follows it, as in training.
    assert tokenize_pair(tokenizer, "red ", "green") == tokenize_pair(
        tokenizer, "red", " green"
    )
    assert names(tokenizer, tokenize_pair(tokenizer, "red ", "green")[1]) == [
        " green"
    ]
    assert (
        names(tokenizer, tokenize_pair(tokenizer, "cat\n", "dog")[1])[0] == "\n"
    )
    # A token spans the boundary: the context alone has three tokens, the whole text has
    # two, so nothing is left to score.
    assert names(tokenizer, tokenizer.encode("red green")) == ["red", " green"]
    before, scored = tokenize_pair(tokenizer, "red g", "reen")
    assert names(tokenizer, before) == ["red", " ", "g"]
    assert scored == []
    assert tokenize_pair(tokenizer, "", " red") == (
        [],
        tokenizer.encode(" red"),
    )


@pytest.mark.parametrize("kind", ["bpe", "foreign"])
def test_log_likelihoods_match_our_own_scorer(
    runs: dict[str, TextModel], kind: str
) -> None:
    asked = runs[kind]
    pairs = [*PAIRS, ("", "red green cat")]
    ours = asked.predictor.score([parts(*pair) for pair in pairs])
    # Pair 4 has its line break moved to the continuation, so its score differs.
    scores = asked.log_likelihoods(pairs)
    assert [score for n, score in enumerate(scores) if n != 4] == [
        score for n, score in enumerate(ours) if n != 4
    ]
    # In a batch of its own, sums differ in their last bits on some processors: 1.1e-7
    # relative was measured.
    alone, greedy = asked.predictor.score([parts("cat", "\ndog")])[0]
    assert scores[4] == (pytest.approx(alone, rel=1e-6), greedy)
    assert scores[4][0] != pytest.approx(ours[4][0], rel=1e-3)
    assert all(nats < -1 and not greedy for nats, greedy in scores)
    assert asked.log_likelihoods([]) == []


def test_long_contexts_are_truncated_on_the_left(
    runs: dict[str, TextModel], capsys: pytest.CaptureFixture[str]
) -> None:
    """A model reads `max_length` tokens; the last scored token is not read."""
    for asked in runs.values():
        words = " cat dog sun" * 4
        end = " red blue"
        num = len(asked.tokenizer.encode(" cat dog sun red blue"))
        short = TextModel(asked.predictor, max_length=num - 1 + asked.num_begin)
        scores = short.log_likelihoods([(words, end), (" cat dog sun", end)])
        (cut, _), (short_one, _), (whole, _) = (
            *scores,
            *asked.log_likelihoods([(words, end)]),
        )
        # 6e-8 measured: the same tokens, elsewhere in the batch
        assert cut == pytest.approx(short_one, rel=1e-6)
        assert cut != pytest.approx(whole, rel=1e-3)
        assert (
            "1 of 2 texts are longer than max_length" in capsys.readouterr().err
        )
        with pytest.raises(
            ConfigError,
            match=r"a continuation has \d+ tokens, more than max_length=",
        ):
            short.log_likelihoods([("red", words)])


def test_windows_score_each_token_once_with_all_context_that_fits() -> None:
    assert list(rolling_windows(range(3), 5)) == [(range(0), range(3))]
    assert [(list(a), list(b)) for a, b in rolling_windows(range(10), 5)] == [
        ([], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]
    assert list(rolling_windows([], 5)) == []


def test_rolling_log_likelihoods_add_up(runs: dict[str, TextModel]) -> None:
    for asked in runs.values():
        text = " cat dog sun red green blue"
        ids = asked.tokenizer.encode(" cat dog sun red green blue")
        whole = asked.predictor.log_likelihood([Document((Text(text),))])
        assert asked.rolling_log_likelihoods([text, "", text]) == pytest.approx(
            [*whole, 0.0, *whole], abs=1e-4
        )
        short = TextModel(asked.predictor, max_length=len(ids) // 2 + 1)
        pieces = [
            Document(
                (
                    Text("", loss=False, tokens=tuple(context)),
                    Text("", tokens=tuple(scored)),
                )
            )
            for context, scored in rolling_windows(ids, short.max_scored)
        ]
        assert len(pieces) > 1
        wanted = sum(asked.predictor.log_likelihood(pieces))
        assert short.rolling_log_likelihoods([text]) == pytest.approx(
            [wanted], abs=1e-4
        )


def test_answers_match_our_own_predictor(runs: dict[str, TextModel]) -> None:
    """Each with its own stop strings and length, in the order of the requests."""
    for asked in runs.values():
        contexts = ["red green", "cat dog sun", "question"]
        long, short = ({"until": ["\n\n"], "max_gen_toks": n} for n in (6, 2))
        six, two = (
            asked.predictor.generate(
                [Document((Text(c),)) for c in contexts],
                max_tokens=n,
                stop=["\n\n"],
            )
            for n in (6, 2)
        )
        answers = asked.generate(
            [(contexts[0], long), (contexts[1], short), (contexts[2], long)]
        )
        assert answers == [six[0], two[1], six[2]]
        mark = six[0][1:3]
        assert asked.generate([(contexts[0], long | {"until": mark})]) == [
            six[0].partition(mark)[0]
        ]
        last = TextModel(
            asked.predictor,
            max_length=6
            + asked.num_begin
            + len(asked.tokenizer.encode(" red")),
        )
        assert last.generate([("dog sun red", long)]) == asked.generate(
            [(" red", long)]
        )


def test_unsupported_requests_are_refused(
    runs: dict[str, TextModel], tmp_path: Path
) -> None:
    asked: Any = runs["bpe"]
    assert generation_limits(
        {"until": ["\n", ""], "do_sample": False, "temperature": 0.7}
    ) == (
        256,
        ("\n",),
    )
    assert generation_limits({"until": ".", "max_new_tokens": 5}) == (5, (".",))
    for options in ({"do_sample": True}, {"temperature": 0.5}):
        with pytest.raises(
            ConfigError,
            match="decoding is greedy, but the task asks for sampling",
        ):
            asked.generate([("red", options)])
    with pytest.raises(
        ConfigError,
        match=r"answers of 512 tokens leave no room .* max_length=512",
    ):
        asked.generate([("red", {"max_gen_toks": 512})])
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        TextModel.load(tmp_path)
