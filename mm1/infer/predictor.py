"""The two things a trained model is asked for, over documents: to go on, and to say how
likely something is."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
import torch

from mm1.batch import PackedBatch, move
from mm1.data.document import Document, Image
from mm1.data.render import Grid, RenderedDocument, Renderer
from mm1.infer.generate import generate
from mm1.infer.score import score
from mm1.infer.trained import Trained, in_step
from mm1.loader.collate import Span, collate
from mm1.nn.cache import KVCache
from mm1.nn.decoder import LanguageModel
from mm1.nn.model import Model

TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 16_384}
"""On a CPU larger batches leave its caches: up to a third slower with a small
encoder."""


class Predictor(Trained):
    """A language model behind the renderer it was trained with.

    Documents are asked in batches of about equal lengths; answers come in the order of
    the questions. In a distributed run each rank asks its own documents, and all ranks
    must call together: a rank with fewer batches than another keeps step with empty
    ones.
    """

    def __init__(
        self,
        model: Model,
        renderer: Renderer,
        device: torch.device,
        *,
        tokens_per_batch: int | None = None,
    ) -> None:
        """`tokens_per_batch` bounds the prompts of a batch with the room for their
        answers, all as long as the longest.

        Raises:
            TypeError: the model cannot write.
        """
        if not isinstance(model, LanguageModel):
            raise TypeError(
                f"{type(model).__name__} is no language model: it has no answers to"
                " give"
            )
        super().__init__(model, renderer, device)
        self.model: LanguageModel = model
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH[device.type]

    def generate(
        self,
        documents: Sequence[Document],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        shared: bool = False,
    ) -> list[str]:
        """The greedy continuation of each document, without its stop string (see
        `generate.generate`).

        With `shared`, what all documents begin with is read but once; batches are then
        bounded by what is left. The answers are the same, but for the rounding of sums
        that are added up in another order.

        Raises:
            ValueError: a document is empty.
            ImageError: a picture cannot be decoded.
        """
        prompts = [self.renderer(document, end=False) for document in documents]
        if empty := [i for i, prompt in enumerate(prompts) if not len(prompt.tokens)]:
            raise ValueError(
                f"document {empty[0]} is empty: there is nothing to go on from"
            )
        answers = [""] * len(prompts)
        begin = shared_length(prompts) if shared else 0
        prefix = self._read(prompts, begin) if shared else None
        for members in in_step(self._batches(prompts, max_tokens - begin)):
            texts = generate(
                self.model,
                self._collate(prompts, members, begin),
                num_prompts=max(1, len(members)),
                tokenizer=self.renderer.tokenizer,
                max_tokens=max_tokens,
                stop=stop,
                prefix=prefix,
            )
            for i, text in zip(
                members, texts, strict=False
            ):  # an empty batch answers its dummy prompt
                answers[i] = text
        return answers

    def log_likelihood(self, documents: Sequence[Document]) -> list[float]:
        """The log-likelihood in nats of each document's parts that carry loss, given
        all that precedes them.

        An end token counts where a part asks for it (`Text(end=True)`); the very first
        token of a document has nothing that precedes it and never counts.
        """
        return [nats for nats, _ in self.score(documents)]

    def score(self, documents: Sequence[Document]) -> list[tuple[float, bool]]:
        """(`log_likelihood`, is each token that counts the most likely one of all at
        its place?) of each document."""
        sequences = [self.renderer(document, end=False) for document in documents]
        scores = [(0.0, True)] * len(sequences)
        for members in in_step(self._batches(sequences, 0)):
            nats, greedy = score(self.model, self._collate(sequences, members))
            for i, found in zip(
                members, zip(nats.tolist(), greedy.tolist(), strict=True), strict=False
            ):
                scores[i] = found
        return scores

    def _batches(
        self, sequences: Sequence[RenderedDocument], room: int
    ) -> list[list[int]]:
        """Indices of the sequences, longest first, so that what does not fit into
        memory fails at once."""
        lengths = [len(sequence.tokens) + room for sequence in sequences]
        batches: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            if (
                batches
                and (len(batches[-1]) + 1) * lengths[batches[-1][0]]
                <= self.tokens_per_batch
            ):
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    @torch.no_grad()
    def _read(
        self, sequences: Sequence[RenderedDocument], length: int
    ) -> KVCache | None:
        """The cache of what all sequences begin with; every rank reads something, since
        a sharded model needs all."""
        batch = self._collate(sequences, [0] if length else [], 0, length)
        cache = self.model.new_cache(1, batch.max_seqlen)
        self.model.prefill(batch, cache)
        return cache if length else None

    def _collate(
        self,
        sequences: Sequence[RenderedDocument],
        members: Sequence[int],
        begin: int = 0,
        end: int | None = None,
    ) -> PackedBatch:
        """Tokens `begin` to `end` (None: all that follow) of the members."""
        dummy = RenderedDocument(
            np.array([self.renderer.tokenizer.end]), np.array([False])
        )
        spans = [
            Span(
                sequences[i],
                begin,
                end or len(sequences[i].tokens),
                key=f"document {i}",
            )
            for i in members
        ]
        spans = spans or [Span.whole(dummy)]
        return move(collate([spans], self.renderer), self.device)


def shared_length(sequences: Sequence[RenderedDocument]) -> int:
    """How many tokens all sequences begin with. A picture is shared whole or not at
    all; one token of each is left."""
    if not sequences:
        return 0
    first = sequences[0]
    shared = min(len(sequence.tokens) for sequence in sequences) - 1
    for other in sequences:
        same = first.tokens[:shared] == other.tokens[:shared]
        shared = shared if same.all() else int(same.argmin())
        for one, two in zip_longest(_pictures(first), _pictures(other)):
            if one is not None and one[0] < shared and (one != two or one[1] > shared):
                shared = one[0]
    return shared


def _pictures(sequence: RenderedDocument) -> Iterator[tuple[int, int, Image, Grid]]:
    """Of each picture where it begins and ends, itself, and its grid."""
    for (begin, end), image, grid in zip(
        sequence.image_spans, sequence.images, sequence.grids, strict=True
    ):
        yield begin, end, image, grid
