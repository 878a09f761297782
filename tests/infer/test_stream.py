"""An answer token by token: greedy as `generate`, drawn as asked for, stopped when
nobody listens, and read on from what is known."""

from itertools import islice
from pathlib import Path

import pytest
import tiny
import torch

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.infer.predictor import Predictor
from mm1.infer.prefix_caches import MIN_SHARED, PrefixCaches
from mm1.infer.sampling import Sampler, Sampling
from mm1.infer.stream import StreamedToken, _settled


def text(tokens: list[StreamedToken]) -> str:
    return "".join(token.text for token in tokens)


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_greedy_tokens_make_the_text_of_generate(
    tmp_path: Path, kind: str
) -> None:
    predictor = tiny.predictor(tmp_path, kind=kind)
    documents = tiny.prompts(9)
    whole = predictor.generate(documents, max_tokens=8)
    mark = max(whole, key=len)[2:4]
    for stop in ((), ("never said", mark)):
        wanted = predictor.generate(documents, max_tokens=8, stop=stop)
        for document, answer in zip(documents, wanted, strict=True):
            tokens = list(predictor.stream(document, max_tokens=8, stop=stop))
            assert text(tokens) == answer
            assert [t.finish for t in tokens[:-1]] == [None] * (len(tokens) - 1)
            ended = tokens[-1].id == predictor.renderer.tokenizer.end
            cut = stop and len(tokens) < 8
            assert tokens[-1].finish == ("stop" if ended or cut else "length")


def test_what_may_be_the_beginning_of_a_stop_string_waits() -> None:
    assert _settled("a line\n", ("\n\n",)) == 6
    assert _settled("a Quest", ("Question:", "est!")) == 2
    assert _settled("an answer", ("Question:",)) == 9
    assert _settled("half a \N{REPLACEMENT CHARACTER}", ()) == 7
    assert _settled("", ("x",)) == 0


@torch.no_grad()
def test_probabilities_are_those_of_a_forward_pass_for_each_token(
    tmp_path: Path,
) -> None:
    predictor = tiny.predictor(tmp_path)
    document = Document((tiny.picture(3), Text("red cat", loss=False)))
    tokens = list(predictor.stream(document, max_tokens=5, num_alternatives=3))
    for number, token in enumerate(tokens):
        before = tuple(each.id for each in tokens[:number])
        so_far = document + Document((Text("", tokens=before),))
        batch = predictor._collate([predictor.renderer(so_far, end=False)], [0])
        cache = predictor.model.new_cache(1, batch.max_seqlen)
        logits = predictor.model.prefill(batch, cache)[0]
        logits[predictor.renderer.tokenizer.suppress_tokens] = -torch.inf
        best = logits.log_softmax(-1).topk(3)
        # rounding in fp32 of logits up to 31; over 12 prompts 5.3e-5 was the worst
        assert token.log_prob == pytest.approx(float(best.values[0]), abs=1e-4)
        assert [i for i, _ in token.alternatives] == best.indices.tolist()
        assert token.alternatives[0] == (token.id, token.log_prob)


def test_tokens_are_drawn_by_their_probability() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])

    def shares(**options: float) -> torch.Tensor:
        sampler = Sampler(Sampling(seed=5, **options))  # type: ignore[arg-type]
        drawn = [sampler.choose(logits) for _ in range(4_000)]
        return torch.bincount(torch.tensor(drawn), minlength=5) / len(drawn)

    # 0.03 is four standard errors of a share drawn 4,000 times
    for found, wanted in (
        (shares(temperature=1.0), logits.softmax(0)),
        (shares(temperature=2.0), (logits / 2).softmax(0)),
        (
            shares(temperature=1.0, top_k=2),
            torch.tensor([*logits[:2].softmax(0), 0, 0, 0]),
        ),
        (
            # 0.64, 0.24, 0.09 ...: two make up 0.7
            shares(temperature=1.0, top_p=0.7),
            torch.tensor([*logits[:2].softmax(0), 0, 0, 0]),
        ),
    ):
        assert (found - wanted).abs().max() < 0.03
        assert (found[wanted == 0] == 0).all()
    assert shares(temperature=0.0)[0] == 1
    assert shares(temperature=1.0, top_p=0.01)[0] == 1
    assert shares(temperature=3.0, top_k=1)[0] == 1


def test_a_seed_repeats_an_answer(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    (document,) = tiny.prompts(1)

    def drawn(seed: int | None) -> list[int]:
        sampling = Sampling(temperature=2.0, seed=seed)
        tokens = predictor.stream(document, max_tokens=12, sampling=sampling)
        return [token.id for token in tokens]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) > 1
    assert len({tuple(drawn(None)) for _ in range(6)}) > 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", 0),
        ("seed", 2**70),
    ],
)
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Sampling(**{name: value})  # type: ignore[arg-type]


def test_a_closed_stream_computes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = tiny.predictor(tmp_path)
    steps = count_steps(predictor, monkeypatch)
    stream = predictor.stream(tiny.prompts(1)[0], max_tokens=50)
    assert len(list(islice(stream, 3))) == 3
    stream.close()
    assert len(steps) == 2
    assert torch.is_grad_enabled()
    with pytest.raises(ConfigError, match="the prompt is empty"):
        next(predictor.stream(Document(()), max_tokens=2))


def count_steps(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    steps: list[int] = []
    step = predictor.model.step
    monkeypatch.setattr(
        predictor.model,
        "step",
        lambda tokens, cache: steps.append(1) or step(tokens, cache),
    )
    return steps


def test_a_conversation_is_read_on_from_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = tiny.predictor(tmp_path)
    read: list[int] = []
    prefill = predictor.model.prefill
    monkeypatch.setattr(
        predictor.model,
        "prefill",
        lambda batch, cache: (
            read.append(len(batch.tokens)) or prefill(batch, cache)
        ),
    )
    opening = sum(tiny.prompts(8)[1:], Document(()))
    turns = [
        Text(f" {word} dog", loss=False) for word in ("red", "blue", "sun")
    ]
    caches = PrefixCaches(10_000)
    document = opening
    for number, turn in enumerate(turns):
        document = document + Document((turn, tiny.picture(number)))
        (wanted,) = predictor.generate([document], max_tokens=7)
        read.clear()
        tokens = list(predictor.stream(document, max_tokens=7, prefixes=caches))
        assert text(tokens) == wanted
        length = len(predictor.renderer(document, end=False).tokens)
        assert read == [length if not number else pytest.approx(15, abs=15)]
        answer = Text("", loss=False, tokens=tuple(t.id for t in tokens[:-1]))
        document = document + Document((answer,))
    assert len(caches.entries) == 1  # each has taken the place of its beginning
    assert length > MIN_SHARED + 30


def test_caches_keep_to_their_budget(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    caches = PrefixCaches(200)
    begin = sum(tiny.prompts(5)[1:], Document(()))
    documents = [
        Document((Text(f"{word} ", loss=False),)) + begin
        for word in ("red", "blue", "cat", "dog")
    ]
    for document in documents:
        list(predictor.stream(document, max_tokens=3, prefixes=caches))
    kept = [cache.bound for _, cache in caches.entries]
    assert sum(kept) <= 200
    assert 1 <= len(kept) < 4
    known = predictor.renderer(documents[-1], end=False)
    other = predictor.renderer(documents[0], end=False)
    assert caches.longest(known) is not None
    assert caches.longest(other) is None
