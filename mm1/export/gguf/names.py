"""Names and layouts of GGUF's tensors, and those of the same families in transformers.

    blk.3.attn_q.weight    <->  model.layers.3.self_attn.q_proj.weight

llama.cpp turns neighbouring numbers of a query or key by RoPE where Llama is concerned,
and numbers half a head apart for other families, as transformers and we do for all. So
the rows of Llama's queries and keys are in another order in a GGUF.
"""

from torch import Tensor

FAMILIES = ("llama", "qwen2", "qwen3")
"""Architectures that are read and written: `general.architecture`."""

OUTSIDE = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE_BACK = {theirs: own for own, theirs in OUTSIDE.items()}
_BLOCK_BACK = {theirs: own for own, theirs in BLOCK.items()}


def published_name(name: str) -> str:
    """What transformers calls a tensor of a GGUF; an unknown name stays as it is."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    first, _, rest = stem.partition(".")
    number, _, part = rest.partition(".")
    if first == "blk" and part in BLOCK:
        return f"model.layers.{number}.{BLOCK[part]}.{kind}"
    return name


def gguf_name(published: str) -> str:
    """The inverse of `published_name`."""
    stem, _, kind = published.rpartition(".")
    if stem in _OUTSIDE_BACK:
        return f"{_OUTSIDE_BACK[stem]}.{kind}"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_BLOCK_BACK[part]}.{kind}"


def interleaved_rows(rows: Tensor, heads: int) -> Tensor:
    """Rows of Llama's queries or keys in GGUF's order: first, middle, second ... of
    each head."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def halved_rows(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `interleaved_rows`."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def num_heads(
    name: str, architecture: str, heads: int, kv_heads: int
) -> int | None:
    """Heads over which rows of a tensor are in another order; None: they are not."""
    if architecture != "llama":
        return None
    part = name.split(".")[-2]
    return {"attn_q": heads, "attn_k": kv_heads}.get(part)
