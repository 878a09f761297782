"""A run behind lm-evaluation-harness's interface: texts in, log-likelihoods and texts
out. Does not import that package.

The boundary of context and continuation is that of `TemplateLM._encode_pair` in lm-eval
0.4.13:

    trailing white space of the context is moved to the continuation
    both are tokenised as one string, of which the context alone gives the first tokens

So the tokens are those of a text written in one go. They are also those of two parts of
a document, as in training and in our own benchmarks, unless a token spans the boundary.
A byte-pair tokenizer whose words begin with a space has none there if the continuation
begins with a space and the context does not end with one.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mm1 import dist
from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.tokenizer import Tokenizer
from mm1.harness.limits import (
    Limits,
    answer_within_limits,
    generation_limits,
    map_over_ranks,
    sequence_length,
)
from mm1.infer.predictor import Predictor
from mm1.runs.weights import load_model


def tokenize_pair(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Tokens of context and continuation, split by the rule above."""
    before = tokenizer.encode(context.rstrip())
    return before, tokenizer.encode(context + continuation)[len(before) :]


def rolling_windows(
    ids: Sequence[int], limit: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """(context, scored) tokens of a long text: at most `limit` together, each token
    scored once with as much context as fits.

    The same windows as lm-eval's `get_rolling_token_windows` with a context of one
    token.
    """
    for start in range(0, len(ids), limit - 1):
        stop = min(start + limit - 1, len(ids))
        yield ids[max(0, min(start, stop - limit)) : start], ids[start:stop]


class TextModel:
    """Every rank passes all requests, computes its share and returns all results."""

    def __init__(self, predictor: Predictor, max_length: int) -> None:
        """`max_length` bounds the tokens of a forward pass; longer texts are truncated
        on the left, with a warning."""
        self.predictor = predictor
        self.max_length = max_length
        self.tokenizer = predictor.renderer.tokenizer
        self.num_begin = int(self.tokenizer.begin is not None)
        """Begin tokens before every document: 0 or 1."""
        self.max_scored = max_length + 1 - self.num_begin
        """Most tokens of a scored text: the last one is not an input."""

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str | None = None,
        max_length: int | None = None,
        tokens_per_batch: int | None = None,
    ) -> "TextModel":
        """A finished run, on the CPU with `device="cpu"`, else on this rank's GPU if
        there is one.

        `max_length` is by default the sequence length of the run's training.

        Raises:
            ConfigError, FileNotFoundError: it is not the run of a language model.
        """
        own = dist.start()
        # the harness says cuda:0 on every rank, with or without a GPU
        place = torch.device("cpu") if device == "cpu" else own
        model, renderer, config = load_model(Path(run), place)
        longest = sequence_length(run, config)
        return cls(
            Predictor(
                model, renderer, place, tokens_per_batch=tokens_per_batch
            ),
            max_length or longest,
        )

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the greedy continuation) of each
        continuation given its context.

        With an empty context and no begin token the first token has nothing to be
        predicted from and does not count.

        Raises:
            ConfigError: a continuation does not fit into `max_length`.
        """
        documents = []
        num_truncated = 0
        for context, continuation in pairs:
            before, scored = tokenize_pair(
                self.tokenizer, context, continuation
            )
            if len(scored) > self.max_length:
                raise ConfigError(
                    f"a continuation has {len(scored)} tokens, more than max_length="
                    f"{self.max_length}: raise it"
                )
            over = max(0, len(before) + len(scored) - self.max_scored)
            num_truncated += over > 0
            documents.append(_document(before[over:], scored))
        self._warn_truncated(num_truncated, len(documents))
        return map_over_ranks(
            documents, self.predictor.score, "log-likelihoods"
        )

    def rolling_log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood in nats of each whole text, in windows where it is long
        (see `rolling_windows`)."""
        owners = []
        documents = []
        for number, text in enumerate(texts):
            for context, scored in rolling_windows(
                self.tokenizer.encode(text), self.max_scored
            ):
                owners.append(number)
                documents.append(_document(context, scored))
        nats = [0.0] * len(texts)
        scores = map_over_ranks(
            documents, self.predictor.log_likelihood, "log-likelihoods of texts"
        )
        for number, score in zip(owners, scores, strict=True):
            nats[number] += score
        return nats

    def generate(
        self, requests: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> list[str]:
        """The greedy answer to each context under its task's `generation_kwargs`.

        Raises:
            ConfigError: they ask for sampling, or leave no room for the context.
        """
        limits = [generation_limits(options) for _, options in requests]
        documents = []
        num_truncated = 0
        for (context, _), (max_tokens, _) in zip(requests, limits, strict=True):
            room = self.max_length - self.num_begin - max_tokens
            if room < 1:
                raise ConfigError(
                    f"answers of {max_tokens} tokens leave no room for the context in"
                    f" max_length={self.max_length}: shorten them (lm_eval's"
                    " --gen_kwargs max_gen_toks=16) or raise max_length"
                )
            prompt = self.tokenizer.encode(context)
            num_truncated += len(prompt) > room
            documents.append(_document(prompt[-room:], ()))
        self._warn_truncated(num_truncated, len(requests))
        return answer_within_limits(documents, limits, self._answer)

    def _answer(
        self, documents: Sequence[Document], limits: Limits
    ) -> list[str]:
        max_tokens, stop = limits
        return map_over_ranks(
            documents,
            partial(self.predictor.generate, max_tokens=max_tokens, stop=stop),
            "answers",
        )

    def _warn_truncated(self, num_truncated: int, total: int) -> None:
        if num_truncated:
            dist.say(
                f"{num_truncated} of {total} texts are longer than"
                f" max_length={self.max_length} and were truncated on the left"
            )


def _document(context: Sequence[int], scored: Sequence[int]) -> Document:
    return Document(
        (
            Text("", loss=False, tokens=tuple(context)),
            Text("", tokens=tuple(scored)),
        )
    )
