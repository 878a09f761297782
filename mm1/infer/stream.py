"""The answer to one prompt, token by token, for a person who is waiting.

Unlike `mm1.infer.decoding` it looks at the logits of every step: tokens may be drawn,
and each comes with its probability and the likeliest alternatives.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mm1.batch import PackedBatch
from mm1.data.tokenizer import Tokenizer
from mm1.infer.generate import Answer
from mm1.infer.sampling import Sampler, Sampling
from mm1.nn.cache import KVCache
from mm1.nn.decoder import LanguageModel

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class StreamedToken:
    id: int
    text: str
    """What the answer grows by: nothing while a stop string may have begun or a
    character is incomplete."""
    log_prob: float
    """In nats, by the model as it is: temperature does not enter."""
    alternatives: tuple[tuple[int, float], ...]
    """(id, log-probability) of the most likely tokens, in order."""
    finish: Finish | None = None
    """Of the last token: why it is the last. An end token has no text."""


def stream_tokens(
    model: LanguageModel,
    batch: PackedBatch,
    cache: KVCache,
    *,
    tokenizer: Tokenizer,
    max_tokens: int,
    stop: Sequence[str],
    sampling: Sampling,
    num_alternatives: int,
) -> Generator[StreamedToken]:
    """The continuation of the batch's only document, which is read into the cache."""
    sampler = Sampler(sampling)
    answer = Answer()
    shown = 0
    logits = _first_logits(model, batch, cache)
    suppressed = torch.tensor(tokenizer.suppress_tokens, device=logits.device)
    for number in range(1, max_tokens + 1):
        logits.index_fill_(0, suppressed, -torch.inf)
        token = sampler.choose(logits)
        answer.extend([token], tokenizer, stop)
        finish: Finish | None = "length" if number == max_tokens else None
        if answer.done:
            finish = "stop"
        size = len(answer.text)
        if finish is None:
            size = max(shown, _settled(answer.text, stop))
        log_probs = logits.log_softmax(-1)
        yield StreamedToken(
            token,
            answer.text[shown:size],
            float(log_probs[token]),
            _most_likely(log_probs, num_alternatives),
            finish,
        )
        if finish is not None:
            return
        shown = size
        logits = _next_logits(model, token, cache)


# As decorators of a generator no_grad would be in force in whoever consumes it.
@torch.no_grad()
def _first_logits(
    model: LanguageModel, batch: PackedBatch, cache: KVCache
) -> Float[Tensor, " V"]:
    return model.prefill(batch, cache)[0]


@torch.no_grad()
def _next_logits(
    model: LanguageModel, token: int, cache: KVCache
) -> Float[Tensor, " V"]:
    return model.step(cache.lengths.new_tensor([token]), cache)[0]


def _most_likely(
    log_probs: Float[Tensor, " V"], number: int
) -> tuple[tuple[int, float], ...]:
    best = log_probs.topk(min(number, len(log_probs)))
    return tuple(
        (token, value)
        for token, value in zip(
            best.indices.tolist(), best.values.tolist(), strict=True
        )
        if value > -torch.inf
    )


def _settled(text: str, stop: Sequence[str]) -> int:
    """How much of a text will be part of the answer whatever follows: no character that
    lacks bytes, no beginning of a stop string."""
    size = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for mark in stop:
        for length in range(min(len(mark) - 1, len(text)), 0, -1):
            if text.endswith(mark[:length]):
                size = min(size, len(text) - length)
                break
    return size
