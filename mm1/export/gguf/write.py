"""A run's language model, or the decoder of a multimodal one, as a GGUF file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.export.card import Usage
from mm1.export.decoders.config import to_decoder_config
from mm1.export.gguf.file import gguf_library
from mm1.export.gguf.names import (
    FAMILIES,
    gguf_name,
    interleaved_rows,
    num_heads,
)
from mm1.export.gguf.tokenizer import add_tokenizer
from mm1.export.language_models import LIMITS, run_decoder
from mm1.export.mapping import parted, theirs_layout
from mm1.progress import track_tensors
from mm1.weight_files import NAMES, Layout

FILE = "model.gguf"

USAGE = Usage(
    what="A decoder-only language model in the GGUF format.",
    code="""
# pip install gguf accelerate
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER", gguf_file="model.gguf")
model = AutoModelForCausalLM.from_pretrained("FOLDER", gguf_file="model.gguf")
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=40)[0]
print(tokenizer.decode(output, skip_special_tokens=True))
""",
    limits=LIMITS,
    task="text-generation",
)


def write_gguf(run: Path, config: Any, folder: Path) -> str:
    """Writes `model.gguf`, tensor by tensor in the types of the run; returns the
    architecture.

    Raises:
        ConfigError: the decoder or the tokenizer has options that GGUF, as it is
            written here, has no room for, which are named; or the extra is not
            installed.
    """
    gguf = gguf_library()
    source = run_decoder(run, config)
    values = to_decoder_config(
        source.decoder, source.family, max_length=source.max_length
    )
    _check_room(source.family, values)
    writer = gguf.GGUFWriter(folder / FILE, source.family)
    writer.add_name(run.resolve().name)
    _add_config(writer, values)
    add_tokenizer(writer, source.tokenizer)
    layouts = theirs_layout(source.links, source.weights)
    for name, layout in layouts.items():
        stored = _stored(layout)
        writer.add_tensor_info(
            gguf_name(name),
            stored.shape,
            np.dtype("float32"),  # of no effect beside the kind
            stored.num_bytes,
            gguf.GGMLQuantizationType[NAMES[stored.dtype]],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total = sum(layout.num_bytes for layout in layouts.values())
    tensors = parted(source.links, source.weights)
    heads = values["num_attention_heads"], values["num_key_value_heads"]
    for name, tensor in track_tensors("export", tensors, total):
        over = num_heads(gguf_name(name), source.family, *heads)
        rows = tensor if over is None else interleaved_rows(tensor, over)
        writer.write_tensor_data(_numbers(rows))
    writer.close()
    return source.family


def _check_room(family: str, values: dict[str, Any]) -> None:
    if family not in FAMILIES:
        raise ConfigError(
            f"the decoder is of the family {family}, and a GGUF is written of"
            f" {', '.join(FAMILIES)} alone: export it for transformers"
        )
    if values["rope_scaling"] is not None:
        raise ConfigError(
            "decoder.llama3_scaling is not written to a GGUF: export it for"
            " transformers"
        )


def _add_config(writer: Any, values: dict[str, Any]) -> None:
    """`values` are those of `config.json`."""
    writer.add_context_length(values["max_position_embeddings"])
    writer.add_embedding_length(values["hidden_size"])
    writer.add_block_count(values["num_hidden_layers"])
    writer.add_feed_forward_length(values["intermediate_size"])
    writer.add_head_count(values["num_attention_heads"])
    writer.add_head_count_kv(values["num_key_value_heads"])
    writer.add_key_length(values["head_dim"])
    writer.add_value_length(values["head_dim"])
    writer.add_rope_dimension_count(values["head_dim"])
    writer.add_rope_freq_base(values["rope_theta"])
    writer.add_layer_norm_rms_eps(values["rms_norm_eps"])
    writer.add_vocab_size(values["vocab_size"])


def _stored(layout: Layout) -> Layout:
    """As the file has it: llama.cpp wants norms and biases in fp32."""
    return (
        Layout(torch.float32, layout.shape)
        if len(layout.shape) == 1
        else layout
    )


def _numbers(tensor: Tensor) -> np.ndarray:
    stored = tensor.to(_stored(Layout.of(tensor)).dtype).contiguous()
    # numpy has no bfloat16; the bytes are the same.
    plain = (
        stored.view(torch.int16) if stored.dtype == torch.bfloat16 else stored
    )
    return plain.numpy()
