"""Tiny models as they are published: weights, config and tokenizer in a folder, made by
transformers itself."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders as token_decoders
from tokenizers import models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

TEXTS = [
    "a cat sat on a mat",
    "two dogs ran to the red house",
    "naïve 漢字 <image> text",
]

SHAPE: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 256,
}

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

EXPERTS = {"num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"rms_norm_eps": 1e-5}),
    "llama, slowed RoPE, tied": (
        LlamaConfig,
        {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    ),
    "mistral, wide heads": (
        MistralConfig,
        {
            "sliding_window": None,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
            "head_dim": 20,
        },
    ),
    "qwen2": (
        Qwen2Config,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen3": (Qwen3Config, {"head_dim": 16, "tie_word_embeddings": True}),
    "olmo2": (Olmo2Config, {"num_key_value_heads": 4}),
    "mixtral": (MixtralConfig, EXPERTS | {"num_local_experts": 4}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        EXPERTS
        | {
            "num_experts": 4,
            "moe_intermediate_size": 24,
            "decoder_sparse_step": 2,
            "head_dim": 16,
        },
    ),
}


def write_tokenizer(folder: Path, *, begin: bool = False) -> int:
    """A byte-pair tokenizer with names of its own and no padding token; returns its
    number of tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = token_decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<|begin|>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    if begin:
        tokens = [("<|begin|>", backend.token_to_id("<|begin|>"))]
        backend.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=tokens
        )  # type: ignore[assignment]
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "bos_token": "<|begin|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return backend.get_vocab_size()


def write_model(
    folder: Path,
    family: str,
    *,
    spare_rows: int = 0,
    begin: bool = False,
    **options: Any,
) -> Any:
    """The family's model with random weights and a tokenizer; `spare_rows` of its table
    have no token."""
    num_tokens = write_tokenizer(folder, begin=begin)
    config_class, own = FAMILIES[family]
    eos = Backend.from_file(str(folder / "tokenizer.json")).token_to_id(
        "<|endoftext|>"
    )
    config = config_class(
        **SHAPE
        | own
        | {"vocab_size": num_tokens + spare_rows, "eos_token_id": eos}
        | options
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    # far from initialisation: norms and biases count, and logits differ clearly
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn_like(parameter)
                * (
                    0.2
                    if parameter.ndim == 1
                    else 3 / parameter.shape[-1] ** 0.5
                )
            )
            if parameter.ndim == 1:
                parameter.add_(1.0)
    model.save_pretrained(folder)
    return model
