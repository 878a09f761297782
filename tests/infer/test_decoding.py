"""Decoding with a static cache, as on CUDA, beside the one that grows."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from nn.batches import DECODER, language_model, packed
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
)

from mm1.batch import PackedBatch, move
from mm1.data.tokenizer import Tokenizer
from mm1.infer.decoding import STATIC_LENGTH_MULTIPLE, GreedyDecoding
from mm1.infer.generate import Answer
from mm1.infer.predictor import Predictor
from mm1.nn.cache import KVCache
from mm1.nn.decoder import LanguageModel

LENGTHS = ((5, 1, 9), (2, 11, 7), (3, 3))
"""Prompts of three batches: two fit the same static cache."""
MAX_TOKENS = 11
SUPPRESS = (0, 7)


class Recorded(GreedyDecoding):
    """Keeps the logits that each choice was made from."""

    def __init__(self, model: LanguageModel, *, static: bool) -> None:
        super().__init__(
            model,
            SUPPRESS,
            static=static,
            tokens_per_check=4 if static else 1,
        )
        self.logits: list[Tensor] = []

    def _choose(self, logits: Tensor) -> None:
        super()._choose(logits)
        self.logits.append(logits.clone())


@torch.no_grad()
def run(
    decoding: GreedyDecoding, batch: PackedBatch, prefix: KVCache | None = None
) -> list[list[int]]:
    """All steps' tokens."""
    chunks = decoding.decode(
        batch,
        num_prompts=len(batch.cu_seqlens) - 1,
        max_tokens=MAX_TOKENS,
        prefix=prefix,
    )
    return [row for chunk in chunks for row in chunk]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("prefix_length", [0, 6])
@torch.no_grad()
def test_a_static_cache_gives_the_same_tokens_from_the_same_logits(
    kv_heads: int, prefix_length: int
) -> None:
    model = language_model(decoder=replace(DECODER, num_kv_heads=kv_heads))
    prefix = None
    if prefix_length:
        prefix = model.new_cache(1, prefix_length)
        model.prefill(packed([prefix_length], seed=9), prefix)
    growing = Recorded(model, static=False)
    static = Recorded(model, static=True)
    caches = set()
    for seed, lengths in enumerate(LENGTHS):
        batch = packed(lengths, seed=seed)
        tokens = run(static, batch, prefix)
        assert tokens == run(growing, batch, prefix)
        assert len(tokens) == MAX_TOKENS
        assert not set(SUPPRESS) & {token for row in tokens for token in row}
        assert static.cache is not None
        assert static.cache.max_length == STATIC_LENGTH_MULTIPLE
        caches.add(id(static.cache.keys[0]))
    assert len(caches) == 2
    assert len(static.logits) == len(growing.logits) == 3 * MAX_TOKENS
    # Masked places add zeros, in another order of fp32 sums over logits of unit size;
    # measured 1e-6.
    torch.testing.assert_close(
        torch.cat(static.logits), torch.cat(growing.logits), atol=1e-5, rtol=0
    )


def test_answers_are_the_same_however_rarely_they_are_looked_at(
    tmp_path: Path,
) -> None:
    documents = tiny.prompts(9)
    begin = sum(tiny.prompts(3)[1:], documents[4])
    shared = [begin + document for document in documents]
    usual = tiny.predictor(tmp_path, tokens_per_batch=200)
    whole = usual.generate(documents, max_tokens=9)
    stop = (whole[0][3:6], whole[0][2:4], whole[1][1:3])
    wanted = usual.generate(documents, max_tokens=9, stop=stop)
    assert sum(a != b for a, b in zip(whole, wanted, strict=True)) >= 2
    for tokens_per_check in (1, 4, 50):
        predictor = with_static_cache(usual, tokens_per_check)
        assert predictor.generate(documents, max_tokens=9) == whole
        assert predictor.generate(documents, max_tokens=9, stop=stop) == wanted
        assert predictor.generate(
            shared, max_tokens=9, stop=stop, share_prefix=True
        ) == usual.generate(shared, max_tokens=9, stop=stop)


def with_static_cache(predictor: Predictor, tokens_per_check: int) -> Predictor:
    changed = Predictor(
        predictor.model,
        predictor.renderer,
        predictor.device,
        tokens_per_batch=predictor.tokens_per_batch,
    )
    changed.decoding = GreedyDecoding(
        predictor.model,
        predictor.renderer.tokenizer.suppress_tokens,
        static=True,
        tokens_per_check=tokens_per_check,
    )
    return changed


def test_of_two_stop_strings_the_one_completed_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at after several tokens, the longer one is found as well, and begins
    earlier."""
    predictor = with_static_cache(tiny.predictor(tmp_path), 8)
    said = predictor.renderer.tokenizer.encode("a red cat sun")
    monkeypatch.setattr(
        predictor.decoding,
        "decode",
        lambda batch, **_: iter([[[token] for token in said]]),
    )
    documents = tiny.prompts(1)
    text = predictor.renderer.tokenizer.decode(said)
    assert predictor.generate(
        documents, max_tokens=9, stop=("cat sun", "at")
    ) == [text[: text.find("at")]]


class Spelled(Tokenizer):
    """Token n is the n-th of some strings."""

    strings = ("", "fig|lime;", "plum")

    def __init__(self) -> None:
        self.end = 0

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.strings[token] for token in ids)


def test_of_two_stop_strings_in_one_token_the_first_counts() -> None:
    answer = Answer()
    answer.extend([2], Spelled(), (";", "|"))
    assert (answer.text, answer.done) == ("plum", False)
    answer.extend([1, 2], Spelled(), (";", "|"))
    assert (answer.text, answer.done) == ("plumfig", True)


def test_an_answer_holds_neither_its_end_nor_what_comes_after() -> None:
    answer = Answer()
    answer.extend([2, 0, 1], Spelled(), ())
    assert (answer.tokens, answer.text, answer.done) == ([2], "plum", True)
    answer.extend([1], Spelled(), ())
    assert answer.tokens == [2]


def test_a_static_step_never_waits_for_the_device() -> None:
    """Reading a fake tensor's values is an error: only `decode` itself does so, every
    few tokens."""
    with FakeTensorMode(), torch.no_grad():
        decoding = GreedyDecoding(
            language_model(), SUPPRESS, static=True, tokens_per_check=4
        )
        cache = decoding._open(3, 16, None)
        cache.lengths = torch.tensor([4, 2, 5])
        for _ in range(3):
            decoding._step(cache)
        assert cache.bound == 3
        with pytest.raises(DataDependentOutputException):
            decoding.tokens.tolist()


class Replay:
    """Stands in for a CUDA graph: a replay runs the step without the host's part."""

    def __init__(self, decoding: "Captured", cache: KVCache) -> None:
        self.decoding = decoding
        self.cache = cache

    def replay(self) -> None:
        bound = self.cache.bound
        GreedyDecoding._choose(
            self.decoding,
            self.decoding.model.step(self.decoding.tokens, self.cache),
        )
        self.cache.bound = bound
        self.decoding.replays += 1


class Captured(GreedyDecoding):
    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model, SUPPRESS, static=True, tokens_per_check=4)
        self.captured = True
        self.captures = 0
        self.replays = 0

    def _capture(self, cache: KVCache) -> Replay:  # type: ignore[override]
        self.captures += 1
        return Replay(self, cache)


@torch.no_grad()
def test_a_shape_is_captured_once_and_replayed_by_later_batches() -> None:
    model = language_model()
    growing = GreedyDecoding(model, SUPPRESS, static=False, tokens_per_check=1)
    captured = Captured(model)
    for seed, lengths in enumerate(LENGTHS):
        batch = packed(lengths, seed=seed)
        assert run(captured, batch) == run(growing, batch)
        assert captured.cache is not None
        assert captured.cache.bound == max(lengths) + MAX_TOKENS - 1
    # the first step with each of two caches is run as it is
    assert captured.captures == 2
    assert captured.replays == len(LENGTHS) * (MAX_TOKENS - 1) - 2


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("prefix_length", [0, 6])
def test_cuda_graphs_give_the_same_tokens_as_the_cpu(
    prefix_length: int,
) -> None:
    answers = {}
    for device in ("cpu", "cuda"):
        model = language_model().to(device)
        prefix = None
        if prefix_length:
            prefix = model.new_cache(1, prefix_length)
            batch = packed([prefix_length], seed=9)
            model.prefill(move(batch, device), prefix)
        decoding = GreedyDecoding(
            model,
            SUPPRESS,
            static=device == "cuda",
            tokens_per_check={"cpu": 1, "cuda": 4}[device],
        )
        answers[device] = [
            run(decoding, move(packed(lengths, seed=seed), device), prefix)
            for seed, lengths in enumerate(LENGTHS)
        ]
        assert (decoding.graph is not None) == (device == "cuda")
    assert answers["cuda"] == answers["cpu"]
