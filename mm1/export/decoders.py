"""Families of published language models as decoders: options and names of tensors, in
both directions.

    family      what sets it apart                                     Decoder.Config
    llama       Llama 2 and 3, SmolLM, TinyLlama ...                   (llama3_scaling)
    mistral     as Llama; a window that is at work is refused
    qwen2       biases of queries, keys and values                     qkv_bias
    qwen3       norms of queries and keys of each head                 qk_norm="head"
    olmo2       norms behind attention and feed-forward                norm_placement="post", qk_norm="full"
    mixtral     every block sparse                                     experts
    qwen3_moe   every n-th block sparse, norms as in Qwen3             experts, qk_norm="head"

The facts are those of the families' own config and model files in transformers 5.24.
"""

from typing import Any

from mm1.config import ConfigError
from mm1.export.mapping import Experts as ExpertLink
from mm1.export.mapping import Link, Rows, same
from mm1.export.options import Options
from mm1.nn.attention import Attention
from mm1.nn.block import SwiGLU
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE

FAMILIES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""`model_type` -> the class in transformers."""

UNUSED = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
"""Speeds of RoPE, which old checkpoints carry along; they follow from the config."""

NORM_EPS = {"olmo2": 1e-5, "mixtral": 1e-5}
ROPE_BASE = {"mixtral": 1e6}
"""What a config that does not say it means; 1e-6 and 1e4 elsewhere."""


def decoder_config(options: Options, family: str) -> Decoder.Config:
    """The decoder of a published config; takes every option that bears on it.

    Raises:
        ConfigError: an option has a value that is not supported; it is named.
    """
    dim, heads, depth = (
        options.need(k, int)
        for k in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    length = options.need("max_position_embeddings", int)
    _plain(options)
    _window(options, family, depth, length)
    base, scaling = _rope(options, family, length)
    return Decoder.Config(
        depth=depth,
        dim=dim,
        num_heads=heads,
        num_kv_heads=(
            options.take("num_key_value_heads", heads)
            if family in ("llama", "olmo2")
            else options.need("num_key_value_heads", int)
        ),
        head_dim=options.take("head_dim", 128 if family == "qwen3" else dim // heads),
        hidden_dim=options.need("intermediate_size", int),
        rope_base=base,
        llama3_scaling=scaling,
        qk_norm={"qwen3": "head", "qwen3_moe": "head", "olmo2": "full"}.get(family),  # type: ignore[arg-type]
        qkv_bias=family == "qwen2",
        norm_placement="post" if family == "olmo2" else "pre",
        tied=options.take("tie_word_embeddings", False),
        norm_eps=options.take("rms_norm_eps", NORM_EPS.get(family, 1e-6)),
        experts=_experts(options, family, depth),
    )


def _plain(options: Options) -> None:
    """Options that other models of these families' kind have, and ours has not."""
    options.only("hidden_act", "silu")
    options.only("attention_bias", False)
    options.only("mlp_bias", False)
    options.only("partial_rotary_factor", 1.0)
    options.only("rope_interleaved", False)
    options.only(
        "router_jitter_noise", 0.0, remedy="set it to 0: it is noise in training alone"
    )
    for key in ("output_router_logits", "router_aux_loss_coef", "is_llama_config"):
        options.raw(key)  # training, and a mark of who wrote the file


def _window(options: Options, family: str, depth: int, length: int) -> None:
    """Raises ConfigError where a token does not see all that came before it."""
    window = options.left.pop("sliding_window", 4096 if family == "mistral" else None)
    used = options.take("use_sliding_window", family in ("mistral", "mixtral"))
    full_below = options.take("max_window_layers", 28)
    kinds = options.raw("layer_types")
    if kinds is not None and set(kinds) - {"full_attention"}:
        options.refuse(
            "layer_types",
            kinds,
            "only full_attention is supported: such models cannot be imported",
        )
    if family not in ("qwen2", "qwen3"):
        full_below = 0  # all blocks or none
    if (
        used
        and window is not None
        and window < length
        and full_below < depth
        and kinds is None
    ):
        why = (
            f"within {window} tokens that changes nothing, but the model is made for"
            f" {length}"
        )
        remedy = (
            f"if no document of yours is longer than {window}, set sliding_window to"
            " null in the file"
        )
        options.refuse("sliding_window", window, f"{why}: {remedy}")


def _rope(
    options: Options, family: str, length: int
) -> tuple[float, tuple[float, float, float, int] | None]:
    """RoPE's base and Llama 3's scaling; transformers 5 writes both into
    `rope_parameters`."""
    base = options.take("rope_theta", ROPE_BASE.get(family, 1e4))
    old = options.raw("rope_scaling")
    new = options.raw("rope_parameters")
    given = Options(new or old or {}, options.origin)
    base = given.take("rope_theta", base)
    kind = given.raw("rope_type") or given.raw("type") or "default"
    given.raw("type")
    given.only("partial_rotary_factor", 1.0)
    scaling = None
    if kind == "llama3":
        factor, low, high = (
            given.need(key, float)
            for key in ("factor", "low_freq_factor", "high_freq_factor")
        )
        scaling = (
            factor,
            low,
            high,
            given.take("original_max_position_embeddings", length),
        )
    elif kind != "default":
        options.refuse(
            "rope_scaling",
            new or old,
            'only the types "default" and "llama3" are supported',
        )
    given.finish()
    return base, scaling


def _experts(options: Options, family: str, depth: int) -> MoE.Config | None:
    if family == "mixtral":
        return MoE.Config(
            num_experts=options.need("num_local_experts", int),
            top_k=options.need("num_experts_per_tok", int),
            every=1,
        )
    if family != "qwen3_moe":
        return None
    num_experts = options.raw("num_experts")
    step = options.take("decoder_sparse_step", 1)
    dense = options.take("mlp_only_layers", [])
    every = _every(
        {i for i in range(depth) if (i + 1) % step == 0 and i not in dense}, depth
    )
    if every is None:
        options.refuse(
            "mlp_only_layers",
            dense,
            f"with decoder_sparse_step {step} the sparse blocks are not every n-th",
        )
    return MoE.Config(
        num_experts=options.take("num_local_experts", num_experts or 0),
        top_k=options.need("num_experts_per_tok", int),
        every=every or depth,
        hidden_dim=options.need("moe_intermediate_size", int),
        renormalise=options.take("norm_topk_prob", False),
    )


def _every(sparse: set[int], depth: int) -> int | None:
    """n, where the sparse blocks are every n-th one."""
    return next(
        (
            n
            for n in range(1, depth + 1)
            if sparse == {i for i in range(depth) if (i + 1) % n == 0}
        ),
        None,
    )


def links(
    decoder: Decoder, family: str, *, ours: str = "decoder.", theirs: str = "model."
) -> list[Link]:
    """Between a decoder (its tensors begin with `ours`) and a family's tensors; the
    head is `lm_head` at the top.

    A decoder on the meta device will do.
    """
    table = {
        f"{ours}embedding.weight": f"{theirs}embed_tokens.weight",
        f"{ours}norm.weight": f"{theirs}norm.weight",
    }
    if decoder.output is not None:
        table[f"{ours}output.weight"] = "lm_head.weight"
    found = same(table)
    for i, block in enumerate(decoder.blocks):
        mine = f"{ours}blocks.{i}."
        layer = f"{theirs}layers.{i}."
        found += _attention(block.attention, f"{mine}attention.", f"{layer}self_attn.")  # type: ignore[arg-type]
        found += _feed_forward(
            block.feed_forward, f"{mine}feed_forward.", layer, family
        )
        first, second = (
            ("input", "post_attention")
            if family != "olmo2"
            else ("post_attention", "post_feedforward")
        )
        found += same(
            {
                f"{mine}attention_norm.weight": f"{layer}{first}_layernorm.weight",
                f"{mine}feed_forward_norm.weight": f"{layer}{second}_layernorm.weight",
            }
        )
    return found


def _attention(attention: Attention, ours: str, theirs: str) -> list[Link]:
    rows = tuple(heads * attention.head_dim for heads in attention.heads)
    kinds = ("weight", "bias") if attention.qkv.bias is not None else ("weight",)
    found: list[Link] = [
        Rows(
            (f"{ours}qkv.{kind}",),
            tuple(f"{theirs}{part}_proj.{kind}" for part in "qkv"),
            rows,
        )
        for kind in kinds
    ]
    norms = (
        {f"{ours}{p}_norm.weight": f"{theirs}{p}_norm.weight" for p in "qk"}
        if attention.qk_norm
        else {}
    )
    return found + same(norms | {f"{ours}out.weight": f"{theirs}o_proj.weight"})


def _feed_forward(module: Any, ours: str, layer: str, family: str) -> list[Link]:
    if isinstance(module, SwiGLU):
        hidden = module.down.in_features
        gate_up = tuple(f"{layer}mlp.{part}_proj.weight" for part in ("gate", "up"))
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
    names = [f"{layer}{block}.experts.{i}." for i in range(module.config.num_experts)]
    both = tuple(f"{name}{part}.weight" for name in names for part in (gate, up))
    return [
        Link((f"{ours}router.weight",), (f"{layer}{block}.gate.weight",)),
        ExpertLink((f"{ours}gate_up",), both, (module.hidden_dim, module.hidden_dim)),
        ExpertLink(
            (f"{ours}down",),
            tuple(f"{name}{down}.weight" for name in names),
            (module.dim,),
        ),
    ]


def family_of(c: Decoder.Config) -> str:
    """The family that computes what this decoder does.

    Raises:
        ConfigError: none does; the options that stand in the way are named.
    """
    shape = (c.norm_placement, c.qk_norm, c.qkv_bias)
    if c.experts is None:
        plain = (
            "mistral" if c.dim % c.num_heads else "llama"
        )  # Llama's config insists that heads divide the width
        dense = {
            ("pre", None, False): plain,
            ("pre", None, True): "qwen2",
            ("pre", "head", False): "qwen3",
        }
        family = (dense | {("post", "full", False): "olmo2"}).get(shape)
    elif (
        shape == ("pre", None, False) and c.experts.every == 1 and c.experts.renormalise
    ):
        family = "mixtral"
    else:
        family = "qwen3_moe" if shape == ("pre", "head", False) else None
    if family is None:
        options = {
            "norm_placement": c.norm_placement,
            "qk_norm": c.qk_norm,
            "qkv_bias": c.qkv_bias,
        }
        if c.experts is not None:
            options |= {
                "experts.every": c.experts.every,
                "experts.renormalise": c.experts.renormalise,
            }
        together = ", ".join(f"{key} = {value}" for key, value in options.items())
        raise ConfigError(
            f"no published family has {together} together; docs/weights.md lists what"
            " they have"
        )
    return family


def published_config(
    decoder: Decoder, family: str, *, max_length: int
) -> dict[str, Any]:
    """The family's `config.json` for this decoder, without token ids; older and newer
    libraries read it alike."""
    c = decoder.config
    values: dict[str, Any] = {
        "architectures": [FAMILIES[family]],
        "model_type": family,
        "vocab_size": decoder.vocab_size,
        "hidden_size": c.dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads or c.num_heads,
        "head_dim": decoder.head_dim,
        "intermediate_size": _hidden_dim(decoder),
        "hidden_act": "silu",
        "max_position_embeddings": max_length,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_base,
        "rope_scaling": None,
        "tie_word_embeddings": c.tied,
    }
    if c.llama3_scaling is not None:
        names = (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
        values["rope_scaling"] = {"rope_type": "llama3"} | dict(
            zip(names, c.llama3_scaling, strict=True)
        )
    if family in ("mistral", "mixtral"):
        values["sliding_window"] = None
    e = c.experts
    if e is not None:
        values |= {
            "num_experts_per_tok": e.top_k,
            "router_aux_loss_coef": e.balance_loss,
        }
    if e is not None and family == "mixtral":
        values |= {
            "num_local_experts": e.num_experts,
            "intermediate_size": e.hidden_dim or _hidden_dim(decoder),
        }
    elif e is not None:
        values |= {
            "num_experts": e.num_experts,
            "norm_topk_prob": e.renormalise,
            "decoder_sparse_step": e.every,
        }
        values |= {
            "moe_intermediate_size": e.hidden_dim or _hidden_dim(decoder),
            "mlp_only_layers": [],
        }
    return values


def _hidden_dim(decoder: Decoder) -> int:
    """Width of the dense feed-forwards, which is that of experts without one of their
    own."""
    modules = [block.feed_forward for block in decoder.blocks]
    dense = [m.down.in_features for m in modules if isinstance(m, SwiGLU)]
    sparse = [m.hidden_dim for m in modules if isinstance(m, MoE)]
    return decoder.config.hidden_dim or (dense + sparse)[0]
