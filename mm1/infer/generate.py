"""Greedy decoding of a batch of prompts: a packed prefill, then a token of each prompt
at every step."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mm1 import dist
from mm1.batch import PackedBatch
from mm1.data.tokenizer import Tokenizer
from mm1.nn.cache import KVCache
from mm1.nn.decoder import LanguageModel


@dataclass(slots=True)
class _Answer:
    """What has been generated for one prompt so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    done: bool = False

    def add(
        self, token: int, tokenizer: Tokenizer, stop: Sequence[str]
    ) -> None:
        if self.done:
            return
        if token == tokenizer.end:
            self.done = True
            return
        self.tokens.append(token)
        # decoded again each time: a stop string may span tokens
        text = tokenizer.decode(self.tokens)
        ends = [at for mark in stop if (at := text.find(mark)) >= 0]
        self.done = bool(ends)
        self.text = text[: min(ends, default=None)]


@torch.no_grad()
def generate(
    model: LanguageModel,
    batch: PackedBatch,
    *,
    num_prompts: int,
    tokenizer: Tokenizer,
    max_tokens: int,
    stop: Sequence[str] = (),
    prefix: KVCache | None = None,
) -> list[str]:
    """The greedy continuation of each of the batch's first `num_prompts` documents.

    With a `prefix`, the cache of one document read before, the documents continue it.

    An answer ends at the end token, after `max_tokens`, or before the first stop string
    in its text. Padding and image tokens are never generated. All ranks must call this
    together with the same `max_tokens`: a sharded model needs every rank for each step,
    so they go on until the last one is done.
    """
    answers = [_Answer() for _ in range(num_prompts)]
    suppress_tokens = tokenizer.suppress_tokens
    cache = model.new_cache(num_prompts, batch.max_seqlen + max_tokens, prefix)
    logits = model.prefill(batch, cache)
    for left in reversed(range(max_tokens)):
        logits[:, suppress_tokens] = -torch.inf
        tokens = logits.argmax(-1)
        for answer, token in zip(answers, tokens.tolist(), strict=True):
            answer.add(token, tokenizer, stop)
        if not left or dist.all_true(all(answer.done for answer in answers)):
            break
        logits = model.step(tokens, cache)
    return [answer.text for answer in answers]
