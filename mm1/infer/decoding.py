"""Greedy decoding of batches of prompts, token by token, with a key-value cache.

On the CPU a step reads as much of the cache as there is. On CUDA the cache is static
and a step is captured as a CUDA graph: without it, launching the kernels of a step
takes many times as long as running them.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mm1.batch import PackedBatch
from mm1.nn.cache import KVCache
from mm1.nn.decoder import LanguageModel

TOKENS_PER_CHECK = {"cpu": 1, "cuda": 4}
"""Steps between two looks at what has been generated. On CUDA a look waits for the
device, on the CPU it is free."""

STATIC_LENGTH_MULTIPLE = 64
"""Lengths of static caches are rounded up to a multiple, so that many batches share one
CUDA graph."""


class GreedyDecoding:
    """Generates the most likely continuations of one batch of prompts after another.

    With `static` caches, batches of the same number of prompts and the same rounded
    length use the same cache, and on CUDA the same graph. A sharded model gathers its
    weights in every step and a mixture of experts may wait for the device: their steps
    are not captured.
    """

    def __init__(
        self,
        model: LanguageModel,
        suppress_tokens: Sequence[int],
        *,
        static: bool,
        tokens_per_check: int,
    ) -> None:
        """`suppress_tokens` are never generated."""
        self.model = model
        self.static = static
        self.tokens_per_check = tokens_per_check
        device = model.decoder.head.device
        self.suppress: Int[Tensor, " n"] = torch.tensor(
            list(suppress_tokens), device=device
        )
        self.captured = static and device.type == "cuda" and _capturable(model)
        self.cache: KVCache | None = None
        self.tokens: Int[Tensor, " B"] = self.suppress.new_empty(0)
        """The last token of each prompt."""
        self.is_warm = False
        """Has a step been run with this cache?"""
        self.graph: torch.cuda.CUDAGraph | None = None

    def decode(
        self,
        batch: PackedBatch,
        *,
        num_prompts: int,
        max_tokens: int,
        prefix: KVCache | None = None,
    ) -> Iterator[list[list[int]]]:
        """Yields the next tokens of the batch's first `num_prompts` documents: for each
        of a few steps, a token of every prompt."""
        max_length = self.cache_length(batch.max_seqlen + max_tokens)
        cache = self._open(num_prompts, max_length, prefix)
        self._choose(self.model.prefill(batch, cache))
        for first in range(0, max_tokens, self.tokens_per_check):
            number = min(self.tokens_per_check, max_tokens - first)
            chunk = self.tokens.new_empty(number, num_prompts)
            for step, row in enumerate(chunk):
                if first or step:
                    self._step(cache)
                row.copy_(self.tokens)
            yield chunk.tolist()

    def cache_length(self, length: int) -> int:
        """The length of a cache for prompts and answers of `length` tokens."""
        if not self.static:
            return length
        multiple = STATIC_LENGTH_MULTIPLE
        return -(-length // multiple) * multiple

    def _open(
        self, num_prompts: int, max_length: int, prefix: KVCache | None
    ) -> KVCache:
        """The last batch's cache if it fits and is static, else a new one."""
        cache = self.cache
        if (
            cache is not None
            and cache.static
            and cache.num_prompts == num_prompts
            and cache.max_length == max_length
            and cache.prefix is prefix
        ):
            return cache
        # the graph's memory and the old cache are freed before a new one is made
        self.graph = None
        self.cache = None
        self.is_warm = False
        self.cache = self.model.new_cache(
            num_prompts, max_length, prefix, static=self.static
        )
        self.tokens = self.suppress.new_zeros(num_prompts)
        return self.cache

    def _choose(self, logits: Float[Tensor, "B V"]) -> None:
        logits.index_fill_(1, self.suppress, -torch.inf)
        self.tokens.copy_(logits.argmax(-1))

    def _step(self, cache: KVCache) -> None:
        """Replaces each prompt's last token by the one after it."""
        if self.captured and self.is_warm:
            if self.graph is None:
                self.graph = self._capture(cache)
            self.graph.replay()
            cache.bound += 1
            return
        with _masked_attention_kernels(self.tokens):
            self._choose(self.model.step(self.tokens, cache))
        self.is_warm = True

    def _capture(self, cache: KVCache) -> torch.cuda.CUDAGraph:
        """The graph of a step; nothing is computed yet."""
        bound = cache.bound
        graph = torch.cuda.CUDAGraph()
        # other threads may write a checkpoint meanwhile
        with (
            _masked_attention_kernels(self.tokens),
            torch.cuda.graph(graph, capture_error_mode="thread_local"),
        ):
            self._choose(self.model.step(self.tokens, cache))
        cache.bound = bound
        return graph


def _capturable(model: LanguageModel) -> bool:
    # imported here because it takes long and only CUDA needs it
    from torch.distributed.fsdp import FSDPModule

    return (
        not isinstance(model, FSDPModule)
        and model.decoder.config.experts is None
    )


def _masked_attention_kernels(like: Tensor):
    """Attention kernels for a mask without a plan for every shape: on Hopper torch may
    prefer cuDNN's, which takes about a second to make one."""
    if not like.is_cuda:
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
