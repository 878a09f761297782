"""The key-value cache of generation: a prompt fills its places at once, each new token
one more.

Prompts that begin alike, as questions after the same shots, can share what they begin
with: a prefix is read once, and its keys and values are seen by all prompts without a
copy.

    prefix    a b c         each new token of "d e" sees a b c and what is before it in "d e";
    prompts   d e   f       its position counts from a
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mm1.nn.attention import AttentionContext, PackedAttention


class KVCache:
    """Keys and values of B prompts in every layer, `max_length` places each, laid out
    by the first prompt that is read.

    `lengths` counts the places in use; `bound` is no less than the longest and lives on
    the host, so that a step reads only as many places without asking the device.
    """

    def __init__(
        self, num_prompts: int, max_length: int, prefix: "KVCache | None" = None
    ) -> None:
        """`prefix` holds the one prompt that all of these go on from; it takes none of
        the `max_length` places."""
        self.prefix = prefix
        self.num_prompts = num_prompts
        self.max_length = max_length
        self.bound = 0
        self.lengths: Int[Tensor, " B"] = torch.zeros(num_prompts, dtype=torch.int64)
        self.keys: dict[int, Float[Tensor, "B L kv_heads d"]] = {}
        self.values: dict[int, Float[Tensor, "B L kv_heads d"]] = {}

    @property
    def offset(self) -> int:
        """The position of the prompts' first tokens."""
        return 0 if self.prefix is None else self.prefix.bound

    def prefill(
        self, cu_seqlens: Int[Tensor, " ends"], max_seqlen: int
    ) -> "PrefillAttention":
        """The context that reads and keeps the first B documents of a packed stream; at
        most padding follows them.

        Raises:
            ValueError: there are fewer documents than prompts, or one is longer than
                the cache.
        """
        if len(cu_seqlens) <= self.num_prompts:
            raise ValueError(
                f"the cache holds {self.num_prompts} prompts, the batch has"
                f" {len(cu_seqlens) - 1} documents"
            )
        lengths = cu_seqlens.diff()[: self.num_prompts].long()
        if (needed := int(lengths.max())) > self.max_length:
            raise ValueError(
                f"a prompt of {needed} tokens does not fit a cache of {self.max_length}"
            )
        self.lengths = lengths
        self.bound = needed
        return PrefillAttention(self, cu_seqlens, max_seqlen)

    def step(self) -> "DecodeAttention":
        """The context in which one more token of every prompt is read and kept; then
        call `advance`.

        Raises:
            ValueError: the cache is full.
        """
        if self.bound >= self.max_length:
            raise ValueError(f"the cache of {self.max_length} tokens a prompt is full")
        return DecodeAttention(self)

    def advance(self) -> None:
        self.lengths = self.lengths + 1
        self.bound += 1


class PrefillAttention(AttentionContext):
    """Attention as in training; keys and values of the prompts stay in the cache."""

    def __init__(
        self, cache: KVCache, cu_seqlens: Int[Tensor, " ends"], max_seqlen: int
    ) -> None:
        self.cache = cache
        self.packed = PackedAttention(cu_seqlens, max_seqlen)
        self.layer = 0
        prompts = torch.arange(cache.num_prompts, device=cu_seqlens.device)
        self.prompt: Int[Tensor, " kept"] = torch.repeat_interleave(
            prompts, cache.lengths
        )
        starts = cu_seqlens[: cache.num_prompts].long()
        self.place: Int[Tensor, " kept"] = (
            torch.arange(len(self.prompt), device=prompts.device) - starts[self.prompt]
        )

    def for_layer(self, layer: int) -> "PrefillAttention":
        self.layer = layer
        return self

    def attend(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        cache = self.cache
        for memory, new in ((cache.keys, k), (cache.values, v)):
            memory[self.layer] = new.new_zeros(
                cache.num_prompts, cache.max_length, *new.shape[1:]
            )
            memory[self.layer][self.prompt, self.place] = new[: len(self.prompt)]
        if cache.prefix is None:
            return self.packed.attend(q, k, v)
        size = cache.bound
        side_by_side = q.new_zeros(cache.num_prompts, size, *q.shape[1:])
        side_by_side[self.prompt, self.place] = q[: len(self.prompt)]
        keys = cache.keys[self.layer][:, :size]
        values = cache.values[self.layer][:, :size]
        seen = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
        mixed = torch.zeros_like(q)
        found = _after(cache.prefix, self.layer, side_by_side, keys, values, seen)
        mixed[: len(self.prompt)] = found[self.prompt, self.place]
        return mixed


class DecodeAttention(AttentionContext):
    """The new token of each prompt sees what its prompt has in the cache, and
    itself."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.layer = 0
        self.size = cache.bound + 1
        places = torch.arange(self.size, device=cache.lengths.device)
        self.seen = (places <= cache.lengths[:, None])[:, None, None]
        self.prompts = torch.arange(cache.num_prompts, device=cache.lengths.device)

    def for_layer(self, layer: int) -> "DecodeAttention":
        self.layer = layer
        return self

    def attend(
        self,
        q: Float[Tensor, "B heads d"],
        k: Float[Tensor, "B kv_heads d"],
        v: Float[Tensor, "B kv_heads d"],
    ) -> Float[Tensor, "B heads d"]:
        keys = self.cache.keys[self.layer]
        values = self.cache.values[self.layer]
        values[self.prompts, self.cache.lengths] = v
        keys[self.prompts, self.cache.lengths] = k
        keys = keys[:, : self.size]
        values = values[:, : self.size]
        if self.cache.prefix is not None:
            return _after(
                self.cache.prefix,
                self.layer,
                q[:, None],
                keys,
                values,
                self.seen[:, None],
            )[:, 0]
        keys = keys.transpose(1, 2)
        values = values.transpose(1, 2)
        shared = q.shape[1] != k.shape[1]
        q = q[:, :, None]
        return F.scaled_dot_product_attention(
            q, keys, values, attn_mask=self.seen, enable_gqa=shared
        )[:, :, 0]


def _after(
    prefix: KVCache,
    layer: int,
    q: Float[Tensor, "B L heads d"],
    keys: Float[Tensor, "B places kv_heads d"],
    values: Float[Tensor, "B places kv_heads d"],
    seen: Bool[Tensor, "*over L places"],
) -> Float[Tensor, "B L heads d"]:
    """One softmax, in fp32, over the whole prefix and over a prompt's own places, as
    far as they are seen.

    The prefix is one and the same for all prompts, so its scores are one large matrix
    product for each head.
    """
    num_kv_heads = keys.shape[2]
    past = slice(prefix.bound)
    past_keys = prefix.keys[layer][0, past].float()
    past_values = prefix.values[layer][0, past].float()
    grouped = q.float().unflatten(2, (num_kv_heads, -1)) * q.shape[-1] ** -0.5
    before = torch.einsum("blkgd,pkd->bkglp", grouped, past_keys)
    own = torch.einsum("blkgd,bpkd->bkglp", grouped, keys.float()).masked_fill(
        ~seen, -torch.inf
    )
    weights = torch.cat((before, own), -1).softmax(-1)
    of_past, of_own = weights.split((before.shape[-1], own.shape[-1]), -1)
    mixed = torch.einsum("bkglp,pkd->blkgd", of_past, past_values)
    mixed = mixed + torch.einsum("bkglp,bpkd->blkgd", of_own, values.float())
    return mixed.flatten(2, 3).to(q.dtype)
