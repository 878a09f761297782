"""Prompts at the end of packed rows, as documents stand in training.

A model that was trained without isolation has hardly ever read a document that stands
alone; asked with a single document, it meets what it was not trained on.

    row      a cat <end> <i> red <end> ... <i> what colour?
             documents of the mixture      the prompt
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mm1 import dist
from mm1.batch import PackedBatch, move
from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.data.render import RenderedDocument
from mm1.infer.generate import Answer
from mm1.infer.predictor import Predictor, continued
from mm1.infer.trained_model import TrainedModel
from mm1.loader.collate import RenderedSegment, collate
from mm1.loader.packed import PackedLoader

RenderedRow = list[RenderedSegment]


class PackedPredictor(Predictor):
    """A predictor that puts documents of a mixture before each prompt, in the same row.

    What a prompt sees of them is as the loader's config says: nothing with `isolate`,
    when answers are those of `Predictor`, all of them without. Each prompt has the next
    row of the mixture, whose documents are left out where they do not fit. In one
    process only: rows would be others with each number of ranks.
    """

    def __init__(
        self, trained: TrainedModel, loader: PackedLoader.Config, *, seed: int
    ) -> None:
        """Raises ConfigError in a distributed run, or if a source is missing."""
        super().__init__(trained.model, trained.renderer, trained.device)
        if dist.world_size() > 1:
            raise ConfigError(
                "benchmarks in packed rows run in one process; evaluate with `mm1 eval`"
                " without torchrun"
            )
        self.loader = PackedLoader(loader, renderer=self.renderer, seed=seed)
        self.rows = (
            row for rows, _, _ in self.loader.plan_steps(None) for row in rows
        )

    @torch.no_grad()
    def generate(
        self,
        documents: Sequence[Document],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        share_prefix: bool = False,
    ) -> list[str]:
        """As `Predictor.generate`, but rows are read again for each token, and nothing
        is shared: prompts begin with documents of their own."""
        answers = [Answer() for _ in documents]
        for members, rows in self._batched(documents, room=max_tokens):
            said: list[list[int]] = [[] for _ in members]
            for _ in range(max_tokens):
                chosen = self._greedy(
                    [
                        _with_answer(row, tokens)
                        for row, tokens in zip(rows, said, strict=True)
                    ]
                )
                for n, tokens, token in zip(members, said, chosen, strict=True):
                    tokens.append(token)
                    answers[n].extend([token], self.renderer.tokenizer, stop)
                if all(answers[n].done for n in members):
                    break
        return [answer.text for answer in answers]

    @torch.no_grad()
    def score(self, documents: Sequence[Document]) -> list[tuple[float, bool]]:
        scores: list[tuple[float, bool]] = []
        for _, rows in self._batched(documents, room=0):
            nats, hits = self.model.log_probs(self._batch(rows))
            ends = list(accumulate(map(_length, rows)))
            scores += [
                (float(nats[begin:end].sum()), bool(hits[begin:end].all()))
                for begin, end in zip([0, *ends], ends, strict=False)
            ]
        return scores

    @torch.no_grad()
    def next_token_logits(
        self,
        documents: Sequence[Document],
        tokens: Sequence[Sequence[int]],
    ) -> list[list[float]]:
        results: list[list[float]] = []
        for members, rows in self._batched(documents, room=0):
            logits = self._last_logits(rows)
            results += [
                row[list(tokens[n])].tolist()
                for n, row in zip(members, logits, strict=True)
            ]
        return results

    def _batched(
        self, documents: Sequence[Document], room: int
    ) -> list[tuple[list[int], list[RenderedRow]]]:
        """Consecutive documents by number, and their rows with `room` tokens left."""
        prompts = [self.renderer(document, end=False) for document in documents]
        self._warn_of_length(prompts)
        size = max(
            1, self.tokens_per_batch // self.loader.config.sequence_length
        )
        return [
            (
                list(range(len(prompts))[begin : begin + size]),
                [
                    self._row(prompt, room)
                    for prompt in prompts[begin : begin + size]
                ],
            )
            for begin in range(0, len(prompts), size)
        ]

    def _row(self, prompt: RenderedDocument, room: int) -> RenderedRow:
        """Documents of the mixture's next row, without targets, then the prompt."""
        tokens = self.loader.config.sequence_length - len(prompt.tokens) - room
        images = self.loader.config.max_images - self._num_images(prompt)
        row: RenderedRow = []
        for segment in next(self.rows):
            length = segment.stop - segment.start
            if length > tokens or segment.images > images:
                continue
            tokens -= length
            images -= segment.images
            shards = self.loader.sources[
                self.loader.names[segment.source]
            ].shards
            rendered = self.renderer(shards.document(segment.document))
            unscored = replace(
                rendered, loss_mask=np.zeros_like(rendered.loss_mask)
            )
            row.append(RenderedSegment(unscored, segment.start, segment.stop))
        return [*row, RenderedSegment.whole(prompt)]

    def _num_images(self, prompt: RenderedDocument) -> int:
        """Sub-images count, as in rows."""
        tokens = prompt.tokens == self.renderer.tokenizer.image
        return int(tokens.sum()) // max(1, self.renderer.tokens_per_image)

    def _batch(self, rows: Sequence[RenderedRow]) -> PackedBatch:
        config = self.loader.config
        batch = collate(
            rows,
            self.renderer,
            isolate=config.isolate,
            restart_positions=config.restart_positions,
        )
        return move(batch, self.device)

    def _last_logits(
        self, rows: Sequence[RenderedRow]
    ) -> Float[Tensor, "rows V"]:
        batch = self._batch(rows)
        num_documents = len(batch.cu_seqlens) - 1
        cache = self.model.new_cache(num_documents, batch.max_seqlen)
        logits = self.model.prefill(batch, cache)
        per_row = (
            map(len, rows) if self.loader.config.isolate else [1] * len(rows)
        )
        last = [end - 1 for end in accumulate(per_row)]
        return logits[last]

    def _greedy(self, rows: Sequence[RenderedRow]) -> list[int]:
        logits = self._last_logits(rows)
        logits[:, list(self.renderer.tokenizer.suppress_tokens)] = -torch.inf
        return logits.argmax(-1).tolist()


def _length(row: RenderedRow) -> int:
    return sum(segment.stop - segment.start for segment in row)


def _with_answer(row: RenderedRow, tokens: Sequence[int]) -> RenderedRow:
    """The row with tokens after its last document, the prompt."""
    longer = continued(row[-1].rendered, tokens)
    return [*row[:-1], RenderedSegment.whole(longer)]
