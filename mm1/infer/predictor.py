"""The two things a trained model is asked for, over documents: to go on, and to say how likely something is."""

from collections.abc import Sequence

import numpy as np
import torch

from mm1.batch import PackedBatch, move
from mm1.data.collate import Span, collate
from mm1.data.document import Document
from mm1.data.render import Renderer
from mm1.data.render import Sequence as Rendered
from mm1.infer.generate import generate
from mm1.infer.score import log_likelihood
from mm1.infer.trained import Trained, in_step
from mm1.nn.decoder import LanguageModel
from mm1.nn.model import Model

TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 16_384}
"""On a CPU larger batches leave its caches: up to a third slower with a small encoder."""


class Predictor(Trained):
    """A language model behind the renderer it was trained with.

    Documents are asked in batches of about equal lengths; answers come in the order of the questions. In a distributed
    run each rank asks its own documents, and all ranks must call together: a rank with fewer batches than another keeps
    step with empty ones.
    """

    def __init__(
        self, model: Model, renderer: Renderer, device: torch.device, *, tokens_per_batch: int | None = None
    ) -> None:
        """`tokens_per_batch` bounds the prompts of a batch with the room for their answers, all as long as the longest.

        Raises:
            TypeError: the model cannot write.
        """
        if not isinstance(model, LanguageModel):
            raise TypeError(f"{type(model).__name__} is no language model: it has no answers to give")
        super().__init__(model, renderer, device)
        self.model: LanguageModel = model
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH[device.type]

    def generate(self, documents: Sequence[Document], *, max_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """The greedy continuation of each document, without its stop string (see `generate.generate`).

        Raises:
            ValueError: a document is empty.
            ImageError: a picture cannot be decoded.
        """
        prompts = [self.renderer(document, end=False) for document in documents]
        if empty := [i for i, prompt in enumerate(prompts) if not len(prompt.tokens)]:
            raise ValueError(f"document {empty[0]} is empty: there is nothing to go on from")
        answers = [""] * len(prompts)
        for members in in_step(self._batches(prompts, max_tokens)):
            texts = generate(
                self.model,
                self._collate(prompts, members),
                num_prompts=max(1, len(members)),
                tokenizer=self.renderer.tokenizer,
                max_tokens=max_tokens,
                stop=stop,
            )
            for i, text in zip(members, texts, strict=False):  # an empty batch answers its dummy prompt
                answers[i] = text
        return answers

    def log_likelihood(self, documents: Sequence[Document]) -> list[float]:
        """The log-likelihood in nats of each document's parts that carry loss, given all that precedes them.

        An end token counts where a part asks for it (`Text(end=True)`); the very first token of a document has nothing
        that precedes it and never counts.
        """
        sequences = [self.renderer(document, end=False) for document in documents]
        scores = [0.0] * len(sequences)
        for members in in_step(self._batches(sequences, 0)):
            found = log_likelihood(self.model, self._collate(sequences, members)).tolist()
            for i, score in zip(members, found, strict=False):
                scores[i] = score
        return scores

    def _batches(self, sequences: Sequence[Rendered], room: int) -> list[list[int]]:
        """Indices of the sequences, longest first, so that what does not fit into memory fails at once."""
        lengths = [len(sequence.tokens) + room for sequence in sequences]
        batches: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= self.tokens_per_batch:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def _collate(self, sequences: Sequence[Rendered], members: Sequence[int]) -> PackedBatch:
        dummy = Rendered(np.array([self.renderer.tokenizer.end]), np.array([False]))
        spans = [Span(sequences[i], 0, len(sequences[i].tokens), key=f"document {i}") for i in members]
        spans = spans or [Span.whole(dummy)]
        return move(collate([spans], self.renderer), self.device)
