"""GGUF files that cannot be imported, and runs that cannot become one: one line that
names the file and what is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
import tiny

from mm1.config import ConfigError
from mm1.export.export_run import export_run
from mm1.export.gguf import file as gguf_file
from mm1.export.gguf import tokenizer as gguf_tokenizer
from mm1.export.gguf.read import gguf_as_folder
from mm1.export.import_model import import_model
from mm1.nn.decoder import Decoder, LanguageModel

gguf = pytest.importorskip("gguf", reason="pip install 'mm1[gguf]'")

TOKENS = ["a", "b", "ab", "<e>"]
METADATA: dict[str, Any] = {
    "llama.context_length": 32,
    "llama.embedding_length": 8,
    "llama.block_count": 1,
    "llama.feed_forward_length": 8,
    "llama.attention.head_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 3,
}
BLOCK = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
]
SHAPES = {
    "token_embd.weight": (4, 8),
    "output_norm.weight": (8,),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.ffn_norm.weight": (8,),
} | {f"blk.0.{part}.weight": (8, 8) for part in BLOCK}


def write(
    path: Path,
    architecture: str = "llama",
    metadata: dict[str, Any] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> None:
    """`metadata` and `shapes` change the model above; None leaves out an entry."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (METADATA | (metadata or {})).items():
        if value is None:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    for name, shape in (SHAPES | (shapes or {})).items():
        if shape is not None:
            writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_file_itself_can_be_imported(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    import_model(str(tmp_path / "m.gguf"), tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_folder_with_one_file_is_enough(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write(tmp_path / "models" / "m.gguf")
    import_model(str(tmp_path / "models"), tmp_path / "run")
    write(tmp_path / "models" / "other.gguf")
    with pytest.raises(ConfigError, match=r"several models, m\.gguf, other"):
        import_model(str(tmp_path / "models"), tmp_path / "again")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": (
        {"architecture": "gemma3"},
        "'gemma3' is not read from GGUF, only llama",
    ),
    "missing key": (
        {"metadata": {"llama.block_count": None}},
        r"does not say llama\.block_count",
    ),
    "unknown key": (
        {"metadata": {"llama.logit_scale": 0.5}},
        r"llama\.logit_scale = 0\.5",
    ),
    "experts": (
        {"metadata": {"llama.expert_count": 8}},
        r"llama\.expert_count is 8",
    ),
    "scaled rope": (
        {"metadata": {"llama.rope.scaling.type": "yarn"}},
        r'rope\.scaling\.type is "yarn"',
    ),
    "heads per block": (
        {"metadata": {"llama.attention.head_count": [2, 2]}},
        r"head_count is \[2, 2\], not int",
    ),
    "blocks beyond number": (
        {"metadata": {"llama.block_count": 4_000_000_000}},
        r"lacks blk\.1\.",
    ),
    "no heads": (
        {"metadata": {"llama.attention.head_count": 0}},
        "head_count is 0",
    ),
    "missing tensor": (
        {"shapes": {"blk.0.ffn_up.weight": None}},
        r"lacks blk\.0\.ffn_up\.weight",
    ),
    "unknown tensor": (
        {"shapes": {"blk.0.ssm_a.weight": (8,)}},
        r"has blk\.0\.ssm_a\.weight, unknown to llama",
    ),
    "slowed rope": (
        {"shapes": {"rope_freqs.weight": (2,)}},
        r"Llama 3\.1",
    ),
    "misshapen tensor": (
        {"shapes": {"blk.0.ffn_up.weight": (6, 8)}},
        r"m\.gguf does not fit its config: .*up_proj\.weight is \[6, 8\]",
    ),
    "sentence pieces": (
        {"metadata": {"tokenizer.ggml.model": "llama"}},
        "has 'llama' as tokenizer.ggml.model",
    ),
    "no tokenizer": (
        {"metadata": {"tokenizer.ggml.tokens": None}},
        "has no list tokenizer.ggml.tokens",
    ),
    "unknown words": (
        {"metadata": {"tokenizer.ggml.pre": "default"}},
        "pre is 'default'",
    ),
    "no end": (
        {"metadata": {"tokenizer.ggml.eos_token_id": None}},
        "does not say tokenizer.ggml.eos_token_id",
    ),
    "end beyond the tokens": (
        {"metadata": {"tokenizer.ggml.eos_token_id": 9}},
        "eos_token_id is 9",
    ),
    "impossible merge": (
        {"metadata": {"tokenizer.ggml.merges": ["b a"]}},
        "'b a' in tokenizer.ggml.merges",
    ),
    "token twice": (
        {"metadata": {"tokenizer.ggml.tokens": ["a", "a", "ab", "<e>"]}},
        "lists 1 tokens twice",
    ),
    "kinds": (
        {"metadata": {"tokenizer.ggml.token_type": [1, 1]}},
        "4 tokens and 2 kinds",
    ),
    "more tokens than rows": (
        {"shapes": {"token_embd.weight": (3, 8)}},
        "ids up to 3, the model's table 3 rows",
    ),
    "one of several": (
        {"metadata": {"split.count": 3}},
        "one of 3 shards",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line(fault: str, tmp_path: Path) -> None:
    changes, message = FAULTS[fault]
    write(tmp_path / "m.gguf", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        import_model(str(tmp_path / "m.gguf"), tmp_path / "run")
    assert str(tmp_path / "m.gguf") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    whole = (tmp_path / "m.gguf").read_bytes()
    for size in range(0, len(whole) - 32, 97):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with (
            pytest.raises(ConfigError, match=r"cut\.gguf"),
            gguf_as_folder(tmp_path / "cut.gguf"),
        ):
            pass


def test_other_files_are_none(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(ConfigError, match="is no GGUF file"):
        import_model(str(tmp_path / "m.safetensors"), tmp_path / "run")


def test_a_quantisation_that_the_library_cannot_undo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError

    write(tmp_path / "m.gguf")
    monkeypatch.setattr(gguf, "dequantize", refuse)
    with pytest.raises(
        ConfigError, match="quantised as F32, which the library"
    ):
        gguf_file.read_gguf(tmp_path / "m.gguf")


def make(folder: Path, decoder: Decoder.Config, kind: str = "bpe") -> Path:
    exports.write_run(LanguageModel.Config(decoder=decoder), folder, kind=kind)
    return folder


PLAIN = Decoder.Config(depth=1, dim=16, num_heads=2, hidden_dim=16)


def test_what_a_gguf_has_no_room_for(tmp_path: Path) -> None:
    refused = {
        "family olmo2": replace(PLAIN, norm_placement="post", qk_norm="full"),
        "llama3_scaling": replace(PLAIN, llama3_scaling=(8.0, 1.0, 4.0, 64)),
    }
    for i, (message, decoder) in enumerate(refused.items()):
        run = make(tmp_path / f"run{i}", decoder)
        with pytest.raises(ConfigError, match=message):
            export_run(run, tmp_path / "out", file_format="gguf")
    run = make(tmp_path / "words", PLAIN, "word")
    with pytest.raises(ConfigError, match="tokenizer is WordLevel"):
        export_run(run, tmp_path / "out", file_format="gguf")
    with pytest.raises(ConfigError, match="holds a language model"):
        export_run(run, tmp_path / "out", part="encoder", file_format="gguf")
    assert not (tmp_path / "out").exists()


def test_words_cut_in_another_way_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"llama\.cpp has no name"):
        gguf_tokenizer._rule_of(
            {
                "model": {"type": "BPE"},
                "normalizer": None,
                "pre_tokenizer": {"type": "Whitespace"},
            }
        )


def test_the_decoder_of_a_multimodal_run(tmp_path: Path) -> None:
    """Both formats hold the same numbers."""
    exports.write_run(tiny.config(), tmp_path / "run", kind="bpe")
    export_run(tmp_path / "run", tmp_path / "gguf", file_format="gguf")
    export_run(tmp_path / "run", tmp_path / "folder", part="decoder")
    import_model(str(tmp_path / "gguf" / "model.gguf"), tmp_path / "one")
    import_model(str(tmp_path / "folder"), tmp_path / "other")
    one, other = (
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("one", "other")
    )
    assert one == other
