"""What lm-evaluation-harness is answered, without it: boundaries, long texts, and
equality with our own scorer."""

from pathlib import Path
from typing import Any

import pytest
import tiny
from export.exports import loader, make_run, model

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.harness.answers import limits
from mm1.harness.text import TextModel, split, windows

PAIRS = [
    ("red green", " blue cat"),
    ("the answer is", " question two three"),
    ("question: cat? answer:", " dog"),
    ("red, green (blue)", " sun."),
    ("cat\n", "dog"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextModel]:
    """Two runs, the second with a token that begins documents."""
    found = {}
    for kind in ("bpe", "foreign"):
        folder = tmp_path_factory.mktemp(kind)
        make_run(folder, model(), loader(), kind=kind)
        found[kind] = TextModel.load(folder)
    return found


def parts(context: str, continuation: str) -> Document:
    """As training and our own benchmarks have them."""
    return Document((Text(context, loss=False), Text(continuation)))


def names(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.name(token) for token in ids]


def test_a_continuation_begins_where_the_context_ends_in_the_whole_text(
    tmp_path: Path,
) -> None:
    tokenizer = train_tokenizer(
        [f" {tiny.WORDS}", tiny.WORDS], tmp_path / "tokenizer.json", vocab_size=400
    )
    for context, continuation in PAIRS[:4]:
        before, scored = split(tokenizer, context, continuation)
        assert before + scored == tokenizer.encode(context + continuation)
        assert (before, scored) == (
            tokenizer.encode(context),
            tokenizer.encode(continuation),
        )
    # White space goes with the word that follows it, as training saw it.
    assert split(tokenizer, "red ", "green") == split(tokenizer, "red", " green")
    assert names(tokenizer, split(tokenizer, "red ", "green")[1]) == [" green"]
    assert names(tokenizer, split(tokenizer, "cat\n", "dog")[1])[0] == "\n"
    # A token spans the boundary: the context has three tokens by itself, the whole two,
    # and nothing is left to score.
    assert names(tokenizer, tokenizer.encode("red green")) == ["red", " green"]
    before, scored = split(tokenizer, "red g", "reen")
    assert names(tokenizer, before) == ["red", " ", "g"]
    assert scored == []
    assert split(tokenizer, "", " red") == ([], tokenizer.encode(" red"))


@pytest.mark.parametrize("kind", ["bpe", "foreign"])
def test_log_likelihoods_are_those_of_our_own_scorer(
    runs: dict[str, TextModel], kind: str
) -> None:
    asked = runs[kind]
    pairs = [*PAIRS, ("", "red green cat")]
    ours = asked.predictor.score([parts(*pair) for pair in pairs])
    # The last-but-one has its line break in the continuation, so its score is another.
    found = asked.log_likelihoods(pairs)
    assert [score for n, score in enumerate(found) if n != 4] == [
        score for n, score in enumerate(ours) if n != 4
    ]
    # Asked alone, the last bits of sums may differ by the processor: 1.1e-7 relative
    # was measured.
    alone, greedy = asked.predictor.score([parts("cat", "\ndog")])[0]
    assert found[4] == (pytest.approx(alone, rel=1e-6), greedy)
    assert found[4][0] != pytest.approx(ours[4][0], rel=1e-3)
    assert all(nats < -1 and not greedy for nats, greedy in found)
    assert asked.log_likelihoods([]) == []


def test_long_contexts_lose_their_beginning(
    runs: dict[str, TextModel], capsys: pytest.CaptureFixture[str]
) -> None:
    """A model reads `max_length` tokens; the last one that is scored need not be
    read."""
    for asked in runs.values():
        words = " cat dog sun" * 4
        end = " red blue"
        num = len(asked.tokenizer.encode(" cat dog sun red blue"))
        short = TextModel(asked.predictor, max_length=num - 1 + asked.begins)
        found = short.log_likelihoods([(words, end), (" cat dog sun", end)])
        (cut, _), (short_one, _), (whole, _) = (
            *found,
            *asked.log_likelihoods([(words, end)]),
        )
        assert cut == pytest.approx(
            short_one, rel=1e-6
        )  # 6e-8 measured: the same tokens at another place of a batch
        assert cut != pytest.approx(whole, rel=1e-3)
        assert "1 of 2 texts are longer than max_length" in capsys.readouterr().err
        with pytest.raises(
            ConfigError, match=r"a continuation of \d+ tokens, max_length is"
        ):
            short.log_likelihoods([("red", words)])


def test_windows_score_each_token_once_after_as_many_as_fit() -> None:
    assert list(windows(range(3), 5)) == [(range(0), range(3))]
    assert [(list(a), list(b)) for a, b in windows(range(10), 5)] == [
        ([], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]
    assert list(windows([], 5)) == []


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
            for context, scored in windows(ids, short.limit)
        ]
        assert len(pieces) > 1
        wanted = sum(asked.predictor.log_likelihood(pieces))
        assert short.rolling_log_likelihoods([text]) == pytest.approx(
            [wanted], abs=1e-4
        )


def test_answers_are_those_of_our_own_predictor(runs: dict[str, TextModel]) -> None:
    """Each with its own stop strings and length, in the order asked."""
    for asked in runs.values():
        contexts = ["red green", "cat dog sun", "question"]
        long, short = ({"until": ["\n\n"], "max_gen_toks": n} for n in (6, 2))
        six, two = (
            asked.predictor.generate(
                [Document((Text(c),)) for c in contexts], max_tokens=n, stop=["\n\n"]
            )
            for n in (6, 2)
        )
        found = asked.generate(
            [(contexts[0], long), (contexts[1], short), (contexts[2], long)]
        )
        assert found == [six[0], two[1], six[2]]
        mark = six[0][1:3]
        assert asked.generate([(contexts[0], long | {"until": mark})]) == [
            six[0].partition(mark)[0]
        ]
        last = TextModel(
            asked.predictor,
            max_length=6 + asked.begins + len(asked.tokenizer.encode(" red")),
        )
        assert last.generate([("dog sun red", long)]) == asked.generate(
            [(" red", long)]
        )


def test_what_we_cannot_answer_is_refused(
    runs: dict[str, TextModel], tmp_path: Path
) -> None:
    asked: Any = runs["bpe"]
    assert limits({"until": ["\n", ""], "do_sample": False, "temperature": 0.7}) == (
        256,
        ("\n",),
    )
    assert limits({"until": ".", "max_new_tokens": 5}) == (5, (".",))
    for options in ({"do_sample": True}, {"temperature": 0.5}):
        with pytest.raises(
            ConfigError, match="answers are greedy, the task asks for sampling"
        ):
            asked.generate([("red", options)])
    with pytest.raises(
        ConfigError, match=r"answers of 512 tokens leave no room .* max_length=512"
    ):
        asked.generate([("red", {"max_gen_toks": 512})])
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        TextModel.load(tmp_path)
