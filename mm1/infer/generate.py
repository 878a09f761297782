"""Answers to a batch of prompts: text up to the end token, a stop string or a limit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mm1 import dist
from mm1.batch import PackedBatch
from mm1.data.tokenizer import Tokenizer
from mm1.infer.decoding import GreedyDecoding
from mm1.nn.cache import KVCache


@dataclass(slots=True)
class Answer:
    """What has been generated for one prompt so far."""

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    done: bool = False

    def extend(
        self, tokens: list[int], tokenizer: Tokenizer, stop: Sequence[str]
    ) -> None:
        if self.done:
            return
        if tokenizer.end in tokens:
            self.done = True
            tokens = tokens[: tokens.index(tokenizer.end)]
        # decoded again each time: a stop string may span tokens
        text = tokenizer.decode([*self.tokens, *tokens])
        if not any(mark in text for mark in stop):
            self.tokens += tokens
            self.text = text
            return
        # Of several stop strings the one completed first counts.
        self.done = True
        for token in tokens:
            self.tokens.append(token)
            text = tokenizer.decode(self.tokens)
            ends = [at for mark in stop if (at := text.find(mark)) >= 0]
            if ends:
                self.text = text[: min(ends)]
                return


@torch.no_grad()
def generate(
    decoding: GreedyDecoding,
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
    in its text. All ranks must call this together with the same `max_tokens`: a sharded
    model needs every rank for each step, so they go on until the last one is done.
    """
    answers = [Answer() for _ in range(num_prompts)]
    for steps in decoding.decode(
        batch, num_prompts=num_prompts, max_tokens=max_tokens, prefix=prefix
    ):
        for answer, tokens in zip(
            answers, zip(*steps, strict=True), strict=True
        ):
            answer.extend(list(tokens), tokenizer, stop)
        if dist.all_true(all(answer.done for answer in answers)):
            break
    return [answer.text for answer in answers]
