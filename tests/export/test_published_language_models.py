"""Configs as published language models carry them: as many weights as transformers
makes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from mm1.config import ConfigError
from mm1.export.decoders.config import from_decoder_config, to_decoder_config
from mm1.export.options import Options

PUBLISHED: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
        "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "attention_bias": False, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 32768,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "attention_bias": False, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "OLMo-2-1B": {
        "model_type": "olmo2", "attention_bias": False, "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 100352,
    },
    "Mixtral-8x7B": {
        "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 32000,
    },
    "Qwen3-30B-A3B": {
        "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
        "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_whole(name: str) -> None:
    values = PUBLISHED[name]
    options = Options(values, Path("config.json"))
    family = options.need("model_type", str)
    num_rows = options.need("vocab_size", int)
    config = from_decoder_config(options, family)
    options.finish()
    with torch.device("meta"):
        ours = config.build(vocab_size=num_rows)
        theirs = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**values)
        )
    assert sum(p.numel() for p in ours.parameters()) == sum(
        p.numel() for p in theirs.parameters()
    )
    # What the export writes for this decoder is read back as this decoder.
    written = Options(
        to_decoder_config(ours, family, max_length=4096), Path("config.json")
    )
    written.need("model_type", str), written.need("vocab_size", int)
    assert from_decoder_config(written, family) == config
    written.finish()


@pytest.mark.parametrize(
    ("dense", "step", "every"),
    [([], 1, 1), ([], 2, 2), ([0, 2], 1, 2), ([0], 1, None)],
)
def test_blocks_that_are_sparse(
    dense: list[int], step: int, every: int | None
) -> None:
    sparse = {
        "mlp_only_layers": dense,
        "decoder_sparse_step": step,
        "num_hidden_layers": 4,
    }
    options = Options(PUBLISHED["Qwen3-30B-A3B"] | sparse, Path("config.json"))
    if every is None:
        with pytest.raises(ConfigError, match=r"mlp_only_layers is \[0\]"):
            from_decoder_config(options, "qwen3_moe")
    else:
        experts = from_decoder_config(options, "qwen3_moe").experts
        assert experts is not None
        assert experts.every == every


@pytest.mark.parametrize(
    ("options", "works"),
    [
        (
            {
                "use_sliding_window": True,
                "sliding_window": 4096,
                "max_window_layers": 28,
            },
            True,
        ),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 4096,
                "max_window_layers": 27,
            },
            False,
        ),
        (
            {
                "use_sliding_window": True,
                "sliding_window": 40960,
                "max_window_layers": 0,
            },
            True,
        ),
        (
            {
                "use_sliding_window": False,
                "sliding_window": 4096,
                "max_window_layers": 0,
            },
            True,
        ),
    ],
)
def test_windows_of_qwen(options: dict[str, Any], works: bool) -> None:
    read = Options(PUBLISHED["Qwen3-0.6B"] | options, Path("config.json"))
    if works:
        from_decoder_config(read, "qwen3")
    else:
        with pytest.raises(ConfigError, match="sliding_window is 4096"):
            from_decoder_config(read, "qwen3")
