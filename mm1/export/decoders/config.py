"""Families of published language models as decoders: their options in ours, and back.

    family      what sets it apart                         Decoder.Config
    llama       Llama 2 and 3, SmolLM, TinyLlama ...       (llama3_scaling)
    mistral     as Llama; a window in effect is refused
    qwen2       biases of queries, keys and values         qkv_bias
    qwen3       norms of queries and keys of each head     qk_norm="head"
    olmo2       norms after attention and feed-forward     norm_placement="post",
                                                           qk_norm="full"
    mixtral     every block sparse                         experts
    qwen3_moe   every n-th block sparse, norms as Qwen3    experts, qk_norm="head"

The facts are from the families' own config and model files in transformers 5.24.
"""

from typing import Any, NamedTuple

from mm1.config import ConfigError
from mm1.export.fields import Fields
from mm1.export.options import Options
from mm1.nn.attention import QKNorm
from mm1.nn.block import NormPlacement, SwiGLU
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE


class Family(NamedTuple):
    """A `model_type` of transformers."""

    architecture: str
    """Its class."""
    norm_placement: NormPlacement = "pre"
    qk_norm: QKNorm | None = None
    qkv_bias: bool = False
    default_eps: float = 1e-6
    """What a config without `rms_norm_eps` means."""
    default_rope_base: float = 1e4
    """What a config without `rope_theta` means."""

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.norm_placement, self.qk_norm, self.qkv_bias


FAMILIES = {
    "llama": Family("LlamaForCausalLM"),
    "mistral": Family("MistralForCausalLM"),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Family("Qwen3ForCausalLM", qk_norm="head"),
    "olmo2": Family("Olmo2ForCausalLM", "post", "full", default_eps=1e-5),
    "mixtral": Family(
        "MixtralForCausalLM", default_eps=1e-5, default_rope_base=1e6
    ),
    "qwen3_moe": Family("Qwen3MoeForCausalLM", qk_norm="head"),
}


def from_decoder_config(options: Options, family: str) -> Decoder.Config:
    """The decoder of a published config; reads every option that bears on it.

    Raises:
        ConfigError: an option has a value that is not supported; it is named.
    """
    dim = options.need("hidden_size", int)
    heads = options.need("num_attention_heads", int)
    depth = options.need("num_hidden_layers", int)
    length = options.need("max_position_embeddings", int)
    _only_plain(options)
    _no_window(options, family, depth, length)
    base, scaling = _from_rope(options, family, length)
    traits = FAMILIES[family]
    return Decoder.Config(
        depth=depth,
        dim=dim,
        num_heads=heads,
        num_kv_heads=(
            options.take("num_key_value_heads", heads)
            if family in ("llama", "olmo2")
            else options.need("num_key_value_heads", int)
        ),
        head_dim=options.take(
            "head_dim", 128 if family == "qwen3" else dim // heads
        ),
        hidden_dim=options.need("intermediate_size", int),
        rope_base=base,
        llama3_scaling=scaling,
        qk_norm=traits.qk_norm,
        qkv_bias=traits.qkv_bias,
        norm_placement=traits.norm_placement,
        tied=options.take("tie_word_embeddings", False),
        norm_eps=options.take("rms_norm_eps", traits.default_eps),
        experts=_from_experts(options, family, depth),
    )


def _only_plain(options: Options) -> None:
    """Options of similar models that our decoder lacks."""
    options.only("hidden_act", "silu")
    options.only("attention_bias", False)
    options.only("mlp_bias", False)
    options.only("partial_rotary_factor", 1.0)
    options.only("rope_interleaved", False)
    options.only(
        "router_jitter_noise",
        0.0,
        remedy="set it to 0: it adds noise in training only",
    )
    for key in (
        "output_router_logits",
        "router_aux_loss_coef",
        "is_llama_config",
    ):
        options.raw(key)  # about training, and about who wrote the file


def _no_window(options: Options, family: str, depth: int, length: int) -> None:
    """Raises ConfigError if a token does not see all tokens before it."""
    window = options.left.pop(
        "sliding_window", 4096 if family == "mistral" else None
    )
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


def _from_rope(
    options: Options, family: str, length: int
) -> tuple[float, tuple[float, float, float, int] | None]:
    """RoPE's base and Llama 3's scaling; transformers 5 writes both into
    `rope_parameters`."""
    base = options.take("rope_theta", FAMILIES[family].default_rope_base)
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


def _from_experts(
    options: Options, family: str, depth: int
) -> MoE.Config | None:
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
        {i for i in range(depth) if (i + 1) % step == 0 and i not in dense},
        depth,
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


def family_of(config: Decoder.Config) -> str:
    """The family that computes what this decoder does.

    Raises:
        ConfigError: there is none; the options that stand in the way are named.
    """
    experts = config.experts
    if experts is None:
        # Llama's config insists that the number of heads divides the width.
        candidates = ["mistral" if config.dim % config.num_heads else "llama"]
        candidates += ["qwen2", "qwen3", "olmo2"]
    elif experts.every == 1 and experts.renormalise:
        candidates = ["mixtral", "qwen3_moe"]
    else:
        candidates = ["qwen3_moe"]
    shape = (config.norm_placement, config.qk_norm, config.qkv_bias)
    for family in candidates:
        if FAMILIES[family].shape == shape:
            return family
    options: dict[str, Any] = {
        "norm_placement": config.norm_placement,
        "qk_norm": config.qk_norm,
        "qkv_bias": config.qkv_bias,
    }
    if experts is not None:
        options["experts.every"] = experts.every
        options["experts.renormalise"] = experts.renormalise
    together = ", ".join(f"{key} = {value}" for key, value in options.items())
    raise ConfigError(
        f"no published family has {together} together; docs/weights.md lists what they"
        " have"
    )


def to_decoder_config(
    decoder: Decoder, family: str, *, max_length: int
) -> dict[str, Any]:
    """The family's `config.json` for this decoder, without token ids; older and newer
    libraries read it alike.

    Raises:
        ConfigError: the family has no room for a field.
    """
    traits = FAMILIES[family]
    fields = Fields(decoder.config, Decoder, "decoder", to_decoder_config)
    fields.only("norm_placement", traits.norm_placement)
    fields.only("qk_norm", traits.qk_norm)
    fields.only("qkv_bias", traits.qkv_bias)
    fields.leave(
        "head_dim", "hidden_dim"
    )  # None has a meaning: the decoder tells
    heads = fields.take("num_heads")
    values: dict[str, Any] = {
        "architectures": [traits.architecture],
        "model_type": family,
        "vocab_size": decoder.vocab_size,
        "hidden_size": fields.take("dim"),
        "num_hidden_layers": fields.take("depth"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.take("num_kv_heads") or heads,
        "head_dim": decoder.head_dim,
        "intermediate_size": _hidden_dim(decoder),
        "hidden_act": "silu",
        "max_position_embeddings": max_length,
        "rms_norm_eps": fields.take("norm_eps"),
        "rope_theta": fields.take("rope_base"),
        "rope_scaling": _to_rope_scaling(fields.take("llama3_scaling")),
        "tie_word_embeddings": fields.take("tied"),
    }
    if family in ("mistral", "mixtral"):
        values["sliding_window"] = None
    if decoder.config.experts is None:
        fields.only("experts", None)
    else:
        experts = fields.within("experts", MoE)
        values |= _to_experts(experts, family, values["intermediate_size"])
    fields.finish(traits.architecture)
    return values


def _to_rope_scaling(scaling: tuple[Any, ...] | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    names = (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    )
    return {"rope_type": "llama3"} | dict(zip(names, scaling, strict=True))


def _to_experts(experts: Fields, family: str, dense_dim: int) -> dict[str, Any]:
    experts.leave("router_z_loss", "capacity_factor")  # of training alone
    num_experts = experts.take("num_experts")
    hidden_dim = experts.take("hidden_dim") or dense_dim
    values: dict[str, Any] = {
        "num_experts_per_tok": experts.take("top_k"),
        "router_aux_loss_coef": experts.take("balance_loss"),
    }
    if family == "mixtral":
        experts.only("every", 1)
        experts.only("renormalise", True)
        return values | {
            "num_local_experts": num_experts,
            "intermediate_size": hidden_dim,
        }
    return values | {
        "num_experts": num_experts,
        "norm_topk_prob": experts.take("renormalise"),
        "decoder_sparse_step": experts.take("every"),
        "moe_intermediate_size": hidden_dim,
        "mlp_only_layers": [],
    }


def _hidden_dim(decoder: Decoder) -> int:
    """Width of the dense feed-forwards, which experts have too unless told
    otherwise."""
    modules = [block.feed_forward for block in decoder.blocks]
    dense = [m.down.in_features for m in modules if isinstance(m, SwiGLU)]
    sparse = [m.hidden_dim for m in modules if isinstance(m, MoE)]
    return decoder.config.hidden_dim or (dense + sparse)[0]
