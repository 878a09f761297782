"""Links between the tensors of our decoder and of published language models."""

from typing import Any

from mm1.export.mapping import Link, Rows, StackedExperts, same
from mm1.nn.attention import Attention
from mm1.nn.block import SwiGLU
from mm1.nn.decoder import Decoder

UNUSED = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
"""Frequencies of RoPE, which old checkpoints hold; they follow from the config."""


def decoder_links(
    decoder: Decoder, family: str, *, theirs: str = "model."
) -> list[Link]:
    """Links of a model's `decoder`, which may be on the meta device.

    `theirs` is the prefix of the family's tensors, but for the head, which is always
    `lm_head`.
    """
    names = {
        "decoder.embedding.weight": f"{theirs}embed_tokens.weight",
        "decoder.norm.weight": f"{theirs}norm.weight",
    }
    if decoder.output is not None:
        names["decoder.output.weight"] = "lm_head.weight"
    links = same(names)
    for i, block in enumerate(decoder.blocks):
        ours = f"decoder.blocks.{i}."
        layer = f"{theirs}layers.{i}."
        attention: Any = block.attention
        links += _attention_links(
            attention, f"{ours}attention.", f"{layer}self_attn."
        )
        links += _feed_forward_links(
            block.feed_forward, f"{ours}feed_forward.", layer, family
        )
        first = "post_attention" if family == "olmo2" else "input"
        second = "post_feedforward" if family == "olmo2" else "post_attention"
        norms = {
            f"{ours}attention_norm.weight": f"{layer}{first}_layernorm.weight",
            f"{ours}feed_forward_norm.weight": f"{layer}{second}_layernorm.weight",
        }
        links += same(norms)
    return links


def _attention_links(
    attention: Attention, ours: str, theirs: str
) -> list[Link]:
    rows = tuple(heads * attention.head_dim for heads in attention.heads)
    kinds = (
        ("weight", "bias") if attention.qkv.bias is not None else ("weight",)
    )
    qkv: list[Link] = [
        Rows(
            (f"{ours}qkv.{kind}",),
            tuple(f"{theirs}{part}_proj.{kind}" for part in "qkv"),
            rows,
        )
        for kind in kinds
    ]
    names = {f"{ours}out.weight": f"{theirs}o_proj.weight"}
    if attention.qk_norm:
        names |= {
            f"{ours}{p}_norm.weight": f"{theirs}{p}_norm.weight" for p in "qk"
        }
    return qkv + same(names)


def _feed_forward_links(
    module: Any, ours: str, layer: str, family: str
) -> list[Link]:
    if isinstance(module, SwiGLU):
        hidden = module.down.in_features
        gate_up = tuple(
            f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up")
        )
        return [
            Rows((f"{ours}gate_up.weight",), gate_up, (hidden, hidden)),
            Link((f"{ours}down.weight",), (f"{layer}mlp.down_proj.weight",)),
        ]
    block = "mlp"
    gate = "gate_proj"
    up = "up_proj"
    down = "down_proj"
    if family == "mixtral":
        block = "block_sparse_moe"
        gate = "w1"
        up = "w3"
        down = "w2"
    names = [
        f"{layer}{block}.experts.{i}." for i in range(module.config.num_experts)
    ]
    gates_ups = tuple(
        f"{name}{part}.weight" for name in names for part in (gate, up)
    )
    downs = tuple(f"{name}{down}.weight" for name in names)
    hidden = module.hidden_dim
    return [
        Link((f"{ours}router.weight",), (f"{layer}{block}.gate.weight",)),
        StackedExperts((f"{ours}gate_up",), gates_ups, (hidden, hidden)),
        StackedExperts((f"{ours}down",), downs, (module.dim,)),
    ]
