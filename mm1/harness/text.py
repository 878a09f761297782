"""A run as lm-evaluation-harness asks it: texts in, log-likelihoods and texts out.
Nothing of that package is needed.

Where a context ends and its continuation begins is decided as by
`TemplateLM._encode_pair` of lm-eval 0.4.13:

    white space at the context's end is moved to the continuation
    the tokens of both as one string are cut behind as many as the context has by itself

So the tokens are those of a text that was written in one go. They are also those of two
parts of a document, as training and our own benchmarks have them, wherever no token
spans the boundary; a byte-pair tokenizer that begins words with their space has none
there if the continuation begins with a space and the context does not end with one.
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
from mm1.harness.answers import Limits, answers, limits, over_ranks, sequence_length
from mm1.infer.predictor import Predictor
from mm1.runs.folder import load_model


def split(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Tokens of context and continuation, by the rule above."""
    before = tokenizer.encode(context.rstrip())
    return before, tokenizer.encode(context + continuation)[len(before) :]


def windows(
    ids: Sequence[int], limit: int
) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """(context, scored) tokens of a long text: at most `limit` in all, each scored once
    with as much before it as fits.

    The same pieces as `get_rolling_token_windows` of lm-eval with a context of one
    token.
    """
    for start in range(0, len(ids), limit - 1):
        stop = min(start + limit - 1, len(ids))
        yield ids[max(0, min(start, stop - limit)) : start], ids[start:stop]


class TextModel:
    """Every rank is asked all, answers its share and returns all answers."""

    def __init__(self, predictor: Predictor, max_length: int) -> None:
        """`max_length` bounds the tokens that are read at once; what is longer loses
        its beginning, and it is said."""
        self.predictor = predictor
        self.max_length = max_length
        self.tokenizer = predictor.renderer.tokenizer
        self.begins = int(self.tokenizer.begin is not None)
        """Tokens before every document."""
        self.limit = max_length + 1 - self.begins
        """Tokens of a scored text: the last one need not be read."""

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str | None = None,
        max_length: int | None = None,
        tokens_per_batch: int | None = None,
    ) -> "TextModel":
        """A finished run, on the CPU if `device` says so, else on this rank's GPU where
        there is one.

        Without `max_length` it is the length of the rows that the run was trained with.

        Raises:
            ConfigError, FileNotFoundError: it is no run folder of a language model.
        """
        own = dist.start()
        place = (
            torch.device("cpu") if device == "cpu" else own
        )  # the harness says cuda:0 to all, GPU or not
        model, renderer, config = load_model(Path(run), place)
        longest = sequence_length(run, config)
        return cls(
            Predictor(model, renderer, place, tokens_per_batch=tokens_per_batch),
            max_length or longest,
        )

    def log_likelihoods(
        self, pairs: Sequence[tuple[str, str]]
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, is it what the model would say?) of each
        continuation after its context.

        After no context at all, the first token has nothing before it and does not
        count, unless the tokenizer has a token to begin with.

        Raises:
            ConfigError: a continuation does not fit into `max_length`.
        """
        documents = []
        num_cut = 0
        for context, continuation in pairs:
            before, scored = split(self.tokenizer, context, continuation)
            if len(scored) > self.max_length:
                raise ConfigError(
                    f"a continuation of {len(scored)} tokens, max_length is"
                    f" {self.max_length}: raise it"
                )
            over = max(0, len(before) + len(scored) - self.limit)
            num_cut += over > 0
            documents.append(_document(before[over:], scored))
        self._say_cut(num_cut, len(documents))
        return over_ranks(documents, self.predictor.score, "log-likelihoods")

    def rolling_log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood in nats of each whole text, piece by piece where it is
        long (see `windows`)."""
        owners = []
        documents = []
        for number, text in enumerate(texts):
            for context, scored in windows(self.tokenizer.encode(text), self.limit):
                owners.append(number)
                documents.append(_document(context, scored))
        nats = [0.0] * len(texts)
        found = over_ranks(
            documents, self.predictor.log_likelihood, "log-likelihoods of texts"
        )
        for number, score in zip(owners, found, strict=True):
            nats[number] += score
        return nats

    def generate(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The greedy answer to each context under its task's `generation_kwargs`.

        Raises:
            ConfigError: they ask for sampling, or leave no room for a question.
        """
        wanted = [limits(options) for _, options in asked]
        documents = []
        num_cut = 0
        for (context, _), (max_tokens, _) in zip(asked, wanted, strict=True):
            room = self.max_length - self.begins - max_tokens
            if room < 1:
                raise ConfigError(
                    f"answers of {max_tokens} tokens leave no room for a question in"
                    f" max_length={self.max_length}: shorten them (lm_eval's"
                    " --gen_kwargs max_gen_toks=16) or raise max_length"
                )
            prompt = self.tokenizer.encode(context)
            num_cut += len(prompt) > room
            documents.append(_document(prompt[-room:], ()))
        self._say_cut(num_cut, len(asked))
        return answers(documents, wanted, self._answer)

    def _answer(self, documents: Sequence[Document], within: Limits) -> list[str]:
        max_tokens, stop = within
        return over_ranks(
            documents,
            partial(self.predictor.generate, max_tokens=max_tokens, stop=stop),
            "answers",
        )

    def _say_cut(self, num_cut: int, total: int) -> None:
        if num_cut:
            dist.say(
                f"{num_cut} of {total} texts are longer than"
                f" max_length={self.max_length} and lose their beginning"
            )


def _document(context: Sequence[int], scored: Sequence[int]) -> Document:
    return Document(
        (Text("", loss=False, tokens=tuple(context)), Text("", tokens=tuple(scored)))
    )
