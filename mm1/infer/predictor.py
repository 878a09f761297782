"""Text from a trained language model: continuations of documents, and likelihoods."""

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mm1 import dist
from mm1.batch import PackedBatch, move
from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.data.render import RenderedDocument, Renderer
from mm1.infer.decoding import TOKENS_PER_CHECK, GreedyDecoding
from mm1.infer.generate import generate
from mm1.infer.prefix_caches import PrefixCaches
from mm1.infer.prefixes import common_prefix_length
from mm1.infer.ranks import in_step
from mm1.infer.sampling import Sampling
from mm1.infer.stream import StreamedToken, stream_tokens
from mm1.infer.trained_model import TrainedModel
from mm1.loader.collate import RenderedSegment, collate
from mm1.nn.cache import KVCache
from mm1.nn.decoder import LanguageModel
from mm1.nn.model import Model

TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 16_384}
"""On a CPU larger batches spill out of its caches, and smaller ones read the weights of
a large model more often."""


class Predictor(TrainedModel):
    """A language model that reads documents.

    Documents are batched by length; results come in the order of the documents. In a
    distributed run each rank passes its own documents and all ranks must call together:
    a rank with fewer batches than another runs empty ones.
    """

    def __init__(
        self,
        model: Model,
        renderer: Renderer,
        device: torch.device,
        *,
        tokens_per_batch: int | None = None,
    ) -> None:
        """`tokens_per_batch` bounds a batch: prompts padded to the longest, with room
        for the answers.

        Raises:
            TypeError: the model is not a language model.
        """
        if not isinstance(model, LanguageModel):
            raise TypeError(
                f"{type(model).__name__} is not a language model: it cannot generate"
                " text"
            )
        super().__init__(model, renderer, device)
        self.longest = renderer.trained_length or 0
        """Tokens of the longest document so far that was warned of."""
        self.model: LanguageModel = model
        self.tokens_per_batch = (
            tokens_per_batch or TOKENS_PER_BATCH[device.type]
        )
        self.decoding = GreedyDecoding(
            model,
            renderer.tokenizer.suppress_tokens,
            static=device.type == "cuda",
            tokens_per_check=TOKENS_PER_CHECK[device.type],
        )

    def generate(
        self,
        documents: Sequence[Document],
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        share_prefix: bool = False,
    ) -> list[str]:
        """The greedy continuation of each document, without its stop string.

        With `share_prefix`, the longest common prefix of all documents is read only
        once and batches are bounded by the rest. Answers are the same up to rounding:
        sums are taken in another order.

        Raises:
            ValueError: a document is empty.
            ImageError: an image cannot be decoded.
        """
        prompts = [self.renderer(document, end=False) for document in documents]
        if empty := [
            i for i, prompt in enumerate(prompts) if not len(prompt.tokens)
        ]:
            raise ValueError(
                f"document {empty[0]} is empty: there is no prompt"
            )
        self._warn_of_length(prompts)
        answers = [""] * len(prompts)
        begin = common_prefix_length(prompts) if share_prefix else 0
        prefix = self._read(prompts, begin) if share_prefix else None
        lengths = [
            self.decoding.cache_length(len(prompt.tokens) - begin + max_tokens)
            for prompt in prompts
        ]
        for members in in_step(self._batches(lengths)):
            texts = generate(
                self.decoding,
                self._collate(prompts, members, begin),
                num_prompts=max(1, len(members)),
                tokenizer=self.renderer.tokenizer,
                max_tokens=max_tokens,
                stop=stop,
                prefix=prefix,
            )
            # an empty batch answers its dummy prompt, which has no member
            for i, text in zip(members, texts, strict=False):
                answers[i] = text
        return answers

    def stream(
        self,
        document: Document,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        num_alternatives: int = 0,
        prefixes: PrefixCaches | None = None,
    ) -> Generator[StreamedToken]:
        """The continuation of one document, token by token; closing the iterator stops
        it. In one process only.

        Args:
            sampling: None is greedy decoding, whose text is that of `generate`.
            num_alternatives: how many of the most likely tokens come with each.
            prefixes: beginnings that have been read before; what is read now is added.

        Raises:
            ConfigError: the document is empty.
            ImageError: an image cannot be decoded.
        """
        prompt = self.renderer(document, end=False)
        if not len(prompt.tokens):
            raise ConfigError("the prompt is empty")
        self._warn_of_length([prompt])
        prefix = prefixes.longest(prompt) if prefixes is not None else None
        begin = 0 if prefix is None else prefix.bound
        rest = len(prompt.tokens) - begin
        cache = self.model.new_cache(1, rest + max_tokens, prefix)
        read: list[int] = []
        try:
            for token in stream_tokens(
                self.model,
                self._collate([prompt], [0], begin),
                cache,
                tokenizer=self.renderer.tokenizer,
                max_tokens=max_tokens,
                stop=stop,
                sampling=sampling or Sampling(),
                num_alternatives=num_alternatives,
            ):
                read.append(token.id)
                yield token
        finally:
            if prefixes is not None and read:
                said = read[: cache.bound - rest]
                prefixes.add(continued(prompt, said), cache)

    def log_likelihood(self, documents: Sequence[Document]) -> list[float]:
        """The log-likelihood in nats of each document's parts that carry loss, given
        everything before them.

        An end token counts where a part asks for it (`Text(end=True)`). The first token
        of a document has no context and never counts.
        """
        return [nats for nats, _ in self.score(documents)]

    def score(self, documents: Sequence[Document]) -> list[tuple[float, bool]]:
        """(`log_likelihood`, whether greedy decoding would give these tokens) of each
        document."""
        sequences = [
            self.renderer(document, end=False) for document in documents
        ]
        self._warn_of_length(sequences)
        scores = [(0.0, True)] * len(sequences)
        lengths = [len(sequence.tokens) for sequence in sequences]
        for members in in_step(self._batches(lengths)):
            nats, greedy = self._score(self._collate(sequences, members))
            pairs = zip(nats.tolist(), greedy.tolist(), strict=True)
            for i, pair in zip(members, pairs, strict=False):
                scores[i] = pair
        return scores

    @torch.no_grad()
    def next_token_logits(
        self,
        documents: Sequence[Document],
        tokens: Sequence[Sequence[int]],
    ) -> list[list[float]]:
        """For each document, the logits of these tokens as its next one."""
        prompts = [self.renderer(document, end=False) for document in documents]
        self._warn_of_length(prompts)
        results: list[list[float]] = [[] for _ in prompts]
        lengths = [len(prompt.tokens) for prompt in prompts]
        for members in in_step(self._batches(lengths)):
            batch = self._collate(prompts, members)
            cache = self.model.new_cache(max(1, len(members)), batch.max_seqlen)
            logits = self.model.prefill(batch, cache)
            for i, row in zip(members, logits, strict=False):
                results[i] = row[list(tokens[i])].tolist()
        return results

    def _warn_of_length(self, sequences: Sequence[RenderedDocument]) -> None:
        """Says where documents are longer than anything the model was trained on, and
        than those that it was said of before."""
        lengths = [len(sequence.tokens) for sequence in sequences]
        trained = self.renderer.trained_length
        if trained is None or max(lengths, default=0) <= self.longest:
            return
        self.longest = max(lengths)
        num = sum(length > trained for length in lengths)
        dist.say(
            f"warning: {num} of {len(lengths)} prompts are longer than the sequences"
            f" that the model was trained on: up to {self.longest} tokens, trained on"
            f" {trained}; it has never seen such positions"
        )

    @torch.no_grad()
    def _score(
        self, batch: PackedBatch
    ) -> tuple[Float[Tensor, " S"], Bool[Tensor, " S"]]:
        """Log-likelihood of each packed document's targets, and whether all of them are
        the argmax; 0 and true without targets."""
        log_probs, hits = self.model.log_probs(batch)
        lengths = batch.cu_seqlens.diff()
        documents = torch.repeat_interleave(lengths, output_size=len(log_probs))
        zeros = log_probs.new_zeros(len(lengths))
        misses = zeros.index_add(0, documents, (~hits).to(zeros.dtype))
        return zeros.index_add(0, documents, log_probs), misses == 0

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of sequences of these lengths, longest first, so that running out of
        memory shows at once."""
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
        """The cache of the common prefix.

        Every rank reads at least a dummy, since a sharded model needs all of them.
        """
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
        """Tokens `begin` to `end` (None: to the last) of the members; a dummy without
        members."""
        dummy = RenderedDocument(
            np.array([self.renderer.tokenizer.end]), np.array([False])
        )
        spans = [
            RenderedSegment(
                sequences[i],
                begin,
                end or len(sequences[i].tokens),
                key=f"document {i}",
            )
            for i in members
        ]
        spans = spans or [RenderedSegment.whole(dummy)]
        return move(collate([spans], self.renderer), self.device)


def continued(
    prompt: RenderedDocument, tokens: Sequence[int]
) -> RenderedDocument:
    """The prompt with tokens after it."""
    said = np.array(tokens, dtype=np.int64)
    return replace(
        prompt,
        tokens=np.concatenate((prompt.tokens, said)),
        loss_mask=np.concatenate((prompt.loss_mask, np.ones(len(said), bool))),
    )
