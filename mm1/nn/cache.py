"""The key-value cache of generation: filled by the prompts at once, then by one token
per prompt at a time.

Prompts with a common beginning, such as questions after the same shots, can share it: a
prefix is read once, and all prompts see its keys and values without a copy.

    prefix    a b c         a token of "d e" sees a b c and what precedes it in "d e";
    prompts   d e   f       positions count from a
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mm1.nn.attention import AttentionContext, PackedAttention


class KVCache:
    """Keys and values of B prompts in every layer, up to `max_length` tokens each.

    Tensors are allocated by the first `prefill`; another one reads new prompts into
    them. `lengths` is the number of tokens per prompt; `bound` is an upper bound of it
    on the host, so that decoding reads only as many without a device sync.
    """

    def __init__(
        self,
        num_prompts: int,
        max_length: int,
        prefix: "KVCache | None" = None,
        *,
        static: bool = False,
    ) -> None:
        """`prefix` holds the one prompt that all of these continue; `max_length` does
        not count it.

        A step with a `static` cache reads all `max_length` places under a mask: each
        step has the same shapes and addresses, so that a CUDA graph can replay it.
        """
        self.prefix = prefix
        self.num_prompts = num_prompts
        self.max_length = max_length
        self.static = static
        self.bound = 0
        self.lengths: Int[Tensor, " B"] = torch.zeros(
            num_prompts, dtype=torch.int64
        )
        self.keys: dict[int, Float[Tensor, "B L kv_heads d"]] = {}
        self.values: dict[int, Float[Tensor, "B L kv_heads d"]] = {}

    @property
    def offset(self) -> int:
        """The position of the prompts' first tokens."""
        return 0 if self.prefix is None else self.prefix.bound

    def prefill(
        self, cu_seqlens: Int[Tensor, " ends"], max_seqlen: int
    ) -> "PrefillAttention":
        """The context that reads the first B documents of a packed stream into the
        cache; only padding may follow them.

        Raises:
            ValueError: fewer documents than prompts, or one longer than the cache.
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
        if self.keys:
            self.lengths.copy_(lengths)
        else:
            self.lengths = lengths
        self.bound = needed
        return PrefillAttention(self, cu_seqlens, max_seqlen)

    def step(self) -> "DecodeAttention":
        """The context that reads one more token of every prompt into the cache; call
        `advance` afterwards.

        Raises:
            ValueError: the cache is full.
        """
        if self.bound >= self.max_length:
            raise ValueError(
                f"the cache of {self.max_length} tokens a prompt is full"
            )
        return DecodeAttention(self)

    def advance(self) -> None:
        self.lengths.add_(1)
        self.bound += 1

    def first(self, length: int) -> "KVCache":
        """The first tokens of the only prompt, without a copy; a prefix for others.

        Raises:
            ValueError: there are several prompts, or fewer tokens.
        """
        if self.num_prompts != 1 or length > self.bound or self.prefix:
            raise ValueError(
                f"a cache of {self.num_prompts} prompts and {self.bound} tokens has no"
                f" first {length}"
            )
        view = KVCache(1, length)
        view.bound = length
        view.lengths = self.lengths.new_full((1,), length)
        view.keys = {n: keys[:, :length] for n, keys in self.keys.items()}
        view.values = {n: each[:, :length] for n, each in self.values.items()}
        return view

    def joined(self) -> "KVCache":
        """The only prompt with its prefix, as one cache without room for more; a copy.

        Raises:
            ValueError: there are several prompts.
        """
        if self.num_prompts != 1:
            raise ValueError(f"{self.num_prompts} prompts cannot be joined")
        whole = KVCache(1, self.offset + self.bound)
        whole.bound = whole.max_length
        whole.lengths = self.lengths + self.offset
        for own, past, joined in (
            (self.keys, self.prefix and self.prefix.keys, whole.keys),
            (self.values, self.prefix and self.prefix.values, whole.values),
        ):
            for layer, memory in own.items():
                parts = [memory[:, : self.bound]]
                if past:
                    parts.insert(0, past[layer][:, : self.offset])
                joined[layer] = torch.cat(parts, 1)
        return whole

    def write(
        self,
        layer: int,
        prompts: Int[Tensor, " n"],
        places: Int[Tensor, " n"],
        k: Float[Tensor, "n kv_heads d"],
        v: Float[Tensor, "n kv_heads d"],
    ) -> None:
        """Stores keys and values of one layer at these places of these prompts."""
        for memory, new in ((self.keys, k), (self.values, v)):
            if layer not in memory:
                memory[layer] = new.new_zeros(
                    self.num_prompts, self.max_length, *new.shape[1:]
                )
            memory[layer][prompts, places] = new


class PrefillAttention(AttentionContext):
    """Attention as in training; the prompts' keys and values go into the cache."""

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
        self.offset: Int[Tensor, " kept"] = (
            torch.arange(len(self.prompt), device=prompts.device)
            - starts[self.prompt]
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
        kept = len(self.prompt)
        cache.write(self.layer, self.prompt, self.offset, k[:kept], v[:kept])
        if cache.prefix is None:
            return self.packed.attend(q, k, v)
        size = cache.bound
        queries = q.new_zeros(cache.num_prompts, size, *q.shape[1:])
        queries[self.prompt, self.offset] = q[:kept]
        keys = cache.keys[self.layer][:, :size]
        values = cache.values[self.layer][:, :size]
        seen = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
        out = torch.zeros_like(q)
        mixed = _attend_with_prefix(
            cache.prefix, self.layer, queries, keys, values, seen
        )
        out[:kept] = mixed[self.prompt, self.offset]
        return out


class DecodeAttention(AttentionContext):
    """The new token of each prompt sees its prompt in the cache, and itself."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.layer = 0
        self.size = cache.max_length if cache.static else cache.bound + 1
        device = cache.lengths.device
        index = torch.arange(self.size, device=device)
        self.seen = (index <= cache.lengths[:, None])[:, None, None]
        self.prompts = torch.arange(cache.num_prompts, device=device)

    def for_layer(self, layer: int) -> "DecodeAttention":
        self.layer = layer
        return self

    def attend(
        self,
        q: Float[Tensor, "B heads d"],
        k: Float[Tensor, "B kv_heads d"],
        v: Float[Tensor, "B kv_heads d"],
    ) -> Float[Tensor, "B heads d"]:
        cache = self.cache
        cache.write(self.layer, self.prompts, cache.lengths, k, v)
        keys = cache.keys[self.layer][:, : self.size]
        values = cache.values[self.layer][:, : self.size]
        if cache.prefix is not None:
            return _attend_with_prefix(
                cache.prefix,
                self.layer,
                q[:, None],
                keys,
                values,
                self.seen[:, None],
            )[:, 0]
        # The query heads that share a key head see the same keys under the same mask,
        # so they are its queries: no kernel needs to know of groups.
        mixed = F.scaled_dot_product_attention(
            q.unflatten(1, (k.shape[1], -1)),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=self.seen,
        )
        return mixed.flatten(1, 2)


def _attend_with_prefix(
    prefix: KVCache,
    layer: int,
    q: Float[Tensor, "B L heads d"],
    keys: Float[Tensor, "B cached kv_heads d"],
    values: Float[Tensor, "B cached kv_heads d"],
    seen: Bool[Tensor, "*over L cached"],
) -> Float[Tensor, "B L heads d"]:
    """One fp32 softmax over the whole prefix and the visible tokens of each prompt.

    All prompts share the prefix, so its scores are one large matrix product per head.
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
