"""A GGUF file as the Hugging Face folder that it was once made from: its metadata as
`config.json` and `tokenizer.json`, its tensors under their published names."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.tokenizer import TOKENIZER
from mm1.export.gguf.file import GGUFFile, read_gguf
from mm1.export.gguf.names import (
    BLOCK,
    FAMILIES,
    OUTSIDE,
    halved_rows,
    num_heads,
    published_name,
)
from mm1.export.gguf.tokenizer import read_tokenizer
from mm1.export.options import Options
from mm1.export.published_folder import CONFIG
from mm1.export.tokens import TOKENIZER_CONFIG
from mm1.files import FRESH_COPY, write_json
from mm1.weight_files import Slices, StoredTensor, WeightFiles

TABLE = "token_embd.weight"


def find_gguf(path: Path) -> Path | None:
    """The file itself, or the one in a folder that holds no other format.

    Raises:
        ConfigError: the folder holds several.
    """
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if not files or (path / CONFIG).is_file():
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ConfigError(f"{path} holds several models, {names}: name a file")
    return files[0]


@contextmanager
def gguf_as_folder(path: Path) -> Iterator[tuple[Path, WeightFiles]]:
    """A temporary folder with the configs and the tokenizer, and the weights, which are
    dequantised one by one.

    Raises:
        ConfigError: the file is damaged or incomplete, or holds a model, a tokenizer or
            numbers that are not read; it and what is wrong are named.
    """
    file = read_gguf(path)
    config = _config(file)
    tokenizer, names = read_tokenizer(file.metadata, path)
    weights = WeightFiles(path, {path: _published(file, config)})
    with TemporaryDirectory(prefix="mm1-gguf-") as name:
        folder = Path(name)
        write_json(folder / CONFIG, config)
        write_json(folder / TOKENIZER, tokenizer)
        write_json(folder / TOKENIZER_CONFIG, names)
        if licence := file.metadata.get("general.license"):
            card = f"---\nlicense: {licence}\n---\n"
            (folder / "README.md").write_text(card, encoding="utf-8")
        try:
            yield folder, weights
        except ConfigError as error:
            raise ConfigError(str(error).replace(name, str(path))) from error


def _config(file: GGUFFile) -> dict[str, Any]:
    """`config.json`; every key of the architecture is read, or an error."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in FAMILIES:
        raise ConfigError(
            f"{file.path}: the architecture {architecture!r} is not read from GGUF,"
            f" only {', '.join(FAMILIES)}; import the model's safetensors instead"
        )
    if TABLE not in file.tensors:
        raise ConfigError(f"{file.path} lacks {TABLE}; {FRESH_COPY}")
    prefix = f"{architecture}."
    keys = Options(
        {k: v for k, v in file.metadata.items() if k.startswith(prefix)},
        file.path,
    )
    dim = keys.need(f"{prefix}embedding_length", int)
    heads = keys.need(f"{prefix}attention.head_count", int)
    if heads < 1:
        keys.refuse(f"{prefix}attention.head_count", heads, FRESH_COPY)
    head_dim = keys.take(f"{prefix}attention.key_length", dim // heads)
    config = {
        "model_type": architecture,
        "hidden_size": dim,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.take(
            f"{prefix}attention.head_count_kv", heads
        ),
        "head_dim": head_dim,
        "num_hidden_layers": keys.need(f"{prefix}block_count", int),
        "intermediate_size": keys.need(f"{prefix}feed_forward_length", int),
        "max_position_embeddings": keys.need(f"{prefix}context_length", int),
        "rms_norm_eps": _decimal(
            keys.need(f"{prefix}attention.layer_norm_rms_epsilon", float)
        ),
        "rope_theta": _decimal(keys.take(f"{prefix}rope.freq_base", 1e4)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "vocab_size": _num_rows(file),
        "eos_token_id": file.metadata.get("tokenizer.ggml.eos_token_id"),
    }
    _only_plain(keys, prefix, head_dim, config["vocab_size"])
    _check_tensors(file, config)
    return config


def _only_plain(
    keys: Options, prefix: str, head_dim: int, num_rows: int
) -> None:
    """What other models of the architecture have, and ours lack."""
    keys.only(f"{prefix}attention.value_length", head_dim)
    keys.only(f"{prefix}rope.dimension_count", head_dim)
    keys.only(f"{prefix}rope.scaling.type", "none")
    keys.only(f"{prefix}rope.scaling.factor", 0.0, 1.0)
    keys.only(f"{prefix}expert_count", 0)
    keys.only(f"{prefix}expert_used_count", 0)
    keys.only(f"{prefix}vocab_size", num_rows)
    keys.finish()


def _decimal(number: float) -> float:
    """1e-05, which a GGUF holds in single precision: 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _num_rows(file: GGUFFile) -> int:
    layout = file.tensors[TABLE].layout
    return layout.shape[0] if layout else 0


def _check_tensors(file: GGUFFile, config: dict[str, Any]) -> None:
    """Raises ConfigError for missing and for unknown tensors, by their names in the
    file."""
    family = config["model_type"]
    parts = [
        f"{part}.weight"
        for part in BLOCK
        if family == "qwen3" or part not in ("attn_q_norm", "attn_k_norm")
    ]
    if family == "qwen2":
        parts += [f"attn_{part}.bias" for part in "qkv"]
    # A damaged number of blocks may be in the billions.
    depth = min(config["num_hidden_layers"], len(file.tensors))
    expected = {f"{name}.weight" for name in OUTSIDE if name != "output"}
    expected |= {f"blk.{i}.{part}" for i in range(depth) for part in parts}
    missing = sorted(expected - file.tensors.keys())
    extra = sorted(file.tensors.keys() - expected - {"output.weight"})
    if "rope_freqs.weight" in extra:
        raise ConfigError(
            f"{file.path} has rope_freqs.weight, the slowed RoPE of Llama 3.1 and"
            " later, which is not read from GGUF: import the model's safetensors"
        )
    if missing or extra:
        lacks = f" lacks {_some(missing)}" if missing else ""
        has = f" has {_some(extra)}, unknown to {family}" if extra else ""
        raise ConfigError(
            f"{file.path}{lacks}{' and' if lacks and has else ''}{has}: is it complete,"
            " and no adapter or mixture of experts?"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _published(
    file: GGUFFile, config: dict[str, Any]
) -> dict[str, StoredTensor]:
    """The tensors by their names in transformers, with their rows in its order."""
    heads = config["num_attention_heads"]
    kv_heads = config["num_key_value_heads"]
    return {
        published_name(name): _halved(
            stored, num_heads(name, config["model_type"], heads, kv_heads)
        )
        for name, stored in file.tensors.items()
    }


def _halved(stored: StoredTensor, heads: int | None) -> StoredTensor:
    if heads is None:
        return stored

    def read(slices: Slices | None) -> Tensor:
        whole = halved_rows(stored.read(None), heads)
        return whole if slices is None else whole[slices]

    return replace(stored, read=read)
