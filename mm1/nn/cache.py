"""The key-value cache of generation: a prompt fills its places at once, each new token one more."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mm1.nn.attention import Context, Packed


class Cache:
    """Keys and values of B prompts in every layer, `max_length` places each, laid out by the first prompt that is read.

    `lengths` counts the places in use; `bound` is no less than the longest and lives on the host, so that a step reads
    only as many places without asking the device.
    """

    def __init__(self, num_prompts: int, max_length: int) -> None:
        self.num_prompts, self.max_length, self.bound = num_prompts, max_length, 0
        self.lengths: Int[Tensor, " B"] = torch.zeros(num_prompts, dtype=torch.int64)
        self.keys: dict[int, Float[Tensor, "B L kv_heads d"]] = {}
        self.values: dict[int, Float[Tensor, "B L kv_heads d"]] = {}

    def prefill(self, boundaries: Int[Tensor, " ends"], longest: int) -> "Prefill":
        """The context that reads and keeps the first B documents of a packed stream; at most padding follows them.

        Raises:
            ValueError: there are fewer documents than prompts, or one is longer than the cache.
        """
        if len(boundaries) <= self.num_prompts:
            raise ValueError(
                f"the cache holds {self.num_prompts} prompts, the batch has {len(boundaries) - 1} documents"
            )
        lengths = boundaries.diff()[: self.num_prompts].long()
        if (needed := int(lengths.max())) > self.max_length:
            raise ValueError(f"a prompt of {needed} tokens does not fit a cache of {self.max_length}")
        self.lengths, self.bound = lengths, needed
        return Prefill(self, boundaries, longest)

    def step(self) -> "Step":
        """The context in which one more token of every prompt is read and kept; then call `advance`.

        Raises:
            ValueError: the cache is full.
        """
        if self.bound >= self.max_length:
            raise ValueError(f"the cache of {self.max_length} tokens a prompt is full")
        return Step(self)

    def advance(self) -> None:
        self.lengths = self.lengths + 1
        self.bound += 1


class Prefill(Context):
    """Attention as in training; keys and values of the prompts stay in the cache."""

    def __init__(self, cache: Cache, boundaries: Int[Tensor, " ends"], longest: int) -> None:
        self.cache, self.packed, self.layer = cache, Packed(boundaries, longest), 0
        prompts = torch.arange(cache.num_prompts, device=boundaries.device)
        self.prompt: Int[Tensor, " kept"] = torch.repeat_interleave(prompts, cache.lengths)
        starts = boundaries[: cache.num_prompts].long()
        self.place: Int[Tensor, " kept"] = torch.arange(len(self.prompt), device=prompts.device) - starts[self.prompt]

    def at(self, layer: int) -> "Prefill":
        self.layer = layer
        return self

    def attend(
        self, q: Float[Tensor, "T heads d"], k: Float[Tensor, "T kv_heads d"], v: Float[Tensor, "T kv_heads d"]
    ) -> Float[Tensor, "T heads d"]:
        cache = self.cache
        for memory, new in ((cache.keys, k), (cache.values, v)):
            memory[self.layer] = new.new_zeros(cache.num_prompts, cache.max_length, *new.shape[1:])
            memory[self.layer][self.prompt, self.place] = new[: len(self.prompt)]
        return self.packed.attend(q, k, v)


class Step(Context):
    """The new token of each prompt sees what its prompt has in the cache, and itself."""

    def __init__(self, cache: Cache) -> None:
        self.cache, self.layer, self.size = cache, 0, cache.bound + 1
        places = torch.arange(self.size, device=cache.lengths.device)
        self.seen = (places <= cache.lengths[:, None])[:, None, None]
        self.prompts = torch.arange(cache.num_prompts, device=cache.lengths.device)

    def at(self, layer: int) -> "Step":
        self.layer = layer
        return self

    def attend(
        self, q: Float[Tensor, "B heads d"], k: Float[Tensor, "B kv_heads d"], v: Float[Tensor, "B kv_heads d"]
    ) -> Float[Tensor, "B heads d"]:
        keys, values = self.cache.keys[self.layer], self.cache.values[self.layer]
        keys[self.prompts, self.cache.lengths], values[self.prompts, self.cache.lengths] = k, v
        keys, values = keys[:, : self.size].transpose(1, 2), values[:, : self.size].transpose(1, 2)
        shared, q = q.shape[1] != k.shape[1], q[:, :, None]
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=self.seen, enable_gqa=shared)[:, :, 0]
