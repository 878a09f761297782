"""Greedy answers to a batch of prompts: one packed prefill, then one token of every
prompt at a time."""

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
    """What has been said to one prompt so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    done: bool = False

    def add(self, token: int, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        if self.done:
            return
        if token == tokenizer.end:
            self.done = True
            return
        self.tokens.append(token)
        text = tokenizer.decode(
            self.tokens
        )  # a stop string may begin inside one token and end inside another
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
    """What the model says next to each of the first `num_prompts` documents of the
    batch, most likely token by token.

    The documents go on from `prefix`, which holds one that was read before, where it is
    given.

    An answer ends at the end token, after `max_tokens`, or before the first stop string
    in its text. Padding and pictures are never said. All ranks must call this together
    with equal `max_tokens`: a sharded model is computed by all ranks at once, so they
    go on until the last of them is done.
    """
    answers = [_Answer() for _ in range(num_prompts)]
    unsayable = tokenizer.unsayable
    cache = model.new_cache(num_prompts, batch.max_seqlen + max_tokens, prefix)
    logits = model.prefill(batch, cache)
    for left in reversed(range(max_tokens)):
        logits[:, unsayable] = -torch.inf
        tokens = logits.argmax(-1)
        for answer, token in zip(answers, tokens.tolist(), strict=True):
            answer.add(token, tokenizer, stop)
        if not left or dist.all_true(all(answer.done for answer in answers)):
            break
        logits = model.step(tokens, cache)
    return [answer.text for answer in answers]
