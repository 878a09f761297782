"""Bad published models: the error names the fault, with the tensor or option and the
remedy, and nothing is left behind."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from published import write_model
from safetensors.torch import load_file, save_file

from mm1.config import ConfigError, UserError
from mm1.export import run_folder
from mm1.export.import_model import import_model
from mm1.export.origin import find_model

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "published"
    write_model(folder, "llama")
    return folder


@pytest.fixture
def published(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "published"))


def refused(
    published: Path, said: str, error: type[Exception] = ConfigError
) -> None:
    out = published.parent / "run"
    with pytest.raises(error, match=said):
        import_model(str(published), out)
    assert [path.name for path in published.parent.iterdir()] == [
        published.name
    ]  # nothing is left


def change_tensors(
    published: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    tensors = load_file(published / "model.safetensors")
    change(tensors)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        published / "model.safetensors",
    )


def change_config(published: Path, **options: Any) -> None:
    path = published / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


# --- tensors


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop(Q), f"missing {Q}"),
    "left over": (
        lambda t: t.update({"lora_A.weight": torch.ones(2)}),
        "not known to this family lora_A.weight",
    ),
    "another shape": (
        lambda t: t.update({Q: t[Q][:40]}),
        rf"{Q} is \[40, 48\], the config asks for \[48, 48\]",
    ),
    "NaN": (
        lambda t: t[Q].__setitem__((0, 3), torch.nan),
        f"1 numbers of {Q} are NaN or infinite",
    ),
    "infinite": (
        lambda t: t[Q].__setitem__((0, 3), -torch.inf),
        f"1 numbers of {Q} are NaN or infinite",
    ),
    "quantised": (lambda t: t.update({Q: t[Q].to(torch.int8)}), f"{Q} is I8"),
}


@pytest.mark.parametrize("fault", TENSORS)
def test_a_tensor_that_is_wrong(fault: str, published: Path) -> None:
    change, said = TENSORS[fault]
    change_tensors(published, change)
    refused(published, said)


def test_a_head_that_is_not_the_table_it_is_tied_to(published: Path) -> None:
    change_config(published, tie_word_embeddings=True)
    refused(published, "lm_head.weight is not model.embed_tokens.weight")
    change_tensors(
        published,
        lambda t: t.update(
            {"lm_head.weight": t["model.embed_tokens.weight"].clone()}
        ),
    )
    import_model(str(published), published.parent / "run")


# --- files


def test_a_truncated_file(published: Path) -> None:
    path = published / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refused(published, "model.safetensors is damaged")


def test_a_file_that_is_something_else(published: Path) -> None:
    (published / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1"
    )
    refused(published, "model.safetensors is damaged")


def test_a_missing_shard_and_a_broken_index(published: Path) -> None:
    (published / "model.safetensors").rename(
        published / "model-00001-of-00002.safetensors"
    )
    names = {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
    }
    index = published / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    refused(
        published,
        "lacks the shards model-00002-of-00002.safetensors",
        FileNotFoundError,
    )
    index.write_text('{"weight_map": ')
    refused(published, "is not JSON")
    for wrong in ('{"weight_map": 3}', '{"weight_map": {"a": 3}}'):
        index.write_text(wrong)
        refused(published, "is no index of shards")
    for name in ("../outside.safetensors", "/dev/zero", "a/../../b"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        refused(published, "the shard .* leads out of")


def test_one_file_beside_older_shards_is_read_as_transformers_reads_it(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(published / "model.safetensors")
    older = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(older, published / "model-00001-of-00001.safetensors")
    shards = dict.fromkeys(older, "model-00001-of-00001.safetensors")
    index = published / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    run = published.parent / "run"
    import_model(str(published), run)
    said = capsys.readouterr().err
    assert "model.safetensors is read, not the shards of" in said
    assert index.name in said
    theirs = transformers.AutoModelForCausalLM.from_pretrained(published)
    ours = load_file(run / "model.safetensors")
    table = ours["decoder.embedding.weight"][
        : len(tensors["model.embed_tokens.weight"])
    ]
    assert torch.equal(table, theirs.get_input_embeddings().weight)


def test_no_weights_at_all(published: Path) -> None:
    (published / "model.safetensors").unlink()
    refused(published, "has no weights", FileNotFoundError)


def test_a_pickle_is_refused_unless_asked_for_and_runs_no_code(
    published: Path,
) -> None:
    tensors = load_file(published / "model.safetensors")
    torch.save(tensors, published / "pytorch_model.bin")
    import_model(str(published), published.parent / "expected")
    (published / "model.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"pytorch_model.bin is a pickle.*--pickle"
    ):
        import_model(str(published), published.parent / "run")
    import_model(str(published), published.parent / "run", pickle=True)
    same = [
        (published.parent / name / "model.safetensors").read_bytes()
        for name in ("expected", "run")
    ]
    assert same[0] == same[1]

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (published / "pwned",)

    (published / "pytorch_model.bin").write_bytes(
        pickle.dumps({"weight": Attack()})
    )
    with pytest.raises(
        ConfigError, match="cannot be read with weights_only=True"
    ):
        import_model(str(published), published.parent / "attacked", pickle=True)
    assert not (published / "pwned").exists()


# --- options


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no family": ({"model_type": None}, "does not say model_type"),
    "unknown family": (
        {"model_type": "lama"},
        "model_type 'lama' is not known here; did you mean 'llama'",
    ),
    "far from any family": (
        {"model_type": "rwkv"},
        "known: .*llama, mistral, mixtral",
    ),
    "no width": ({"hidden_size": None}, "does not say hidden_size"),
    "a width in words": ({"hidden_size": "48"}, 'hidden_size is "48", not int'),
    "activation": (
        {"hidden_act": "gelu"},
        'hidden_act is "gelu"; only "silu" is supported',
    ),
    "attention biases": ({"attention_bias": True}, "attention_bias is true"),
    "MLP biases": ({"mlp_bias": True}, "mlp_bias is true"),
    "other RoPE": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        'rope_scaling is {"rope_type": "yarn"',
    ),
    "old RoPE": (
        {
            "rope_parameters": None,
            "rope_scaling": {"type": "linear", "factor": 2},
        },
        '"linear"',
    ),
    "more of RoPE": (
        {"rope_parameters": {"rope_theta": 1e4, "beta_fast": 32}},
        "beta_fast = 32",
    ),
    "part of RoPE": (
        {"partial_rotary_factor": 0.5},
        "partial_rotary_factor is 0.5",
    ),
    "local attention": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types",
    ),
    "softcapping": (
        {"final_logit_softcapping": 30.0},
        "sets what is not known here: final_logit_softcapping = 30.0",
    ),
    "a multiplier": ({"embedding_multiplier": 12}, "embedding_multiplier = 12"),
    "code of its own": (
        {"auto_map": {"AutoModel": "x.y"}},
        "auto_map is set: the model brings code of its own",
    ),
    "quantisation": (
        {"quantization_config": {"bits": 4}},
        "quantization_config is set",
    ),
    "another size": (
        {"intermediate_size": 96},
        r"gate_proj.weight is \[80, 48\], the config asks for \[96, 48\]",
    ),
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_an_option_that_is_not_supported(fault: str, published: Path) -> None:
    options, said = OPTIONS[fault]
    change_config(published, **options)
    refused(published, said)


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ({"sliding_window": None}, True),
        ({"sliding_window": 256}, True),  # as long as the model's longest text
        ({"sliding_window": 255}, False),
        ({}, False),  # Mistral's config means 4,096 where it says nothing
    ],
)
def test_a_window_is_refused_where_it_is_at_work(
    options: dict[str, Any], works: bool, published: Path
) -> None:
    change_config(
        published,
        model_type="mistral",
        **options | ({} if options else {"max_position_embeddings": 8192}),
    )
    if works:
        import_model(str(published), published.parent / "run")
    else:
        refused(published, "sliding_window is .*set sliding_window to null")


def test_a_config_that_is_none(published: Path) -> None:
    (published / "config.json").write_text("[]")
    refused(published, "holds a list")
    (published / "config.json").write_text("{")
    refused(published, "is not JSON")
    (published / "config.json").unlink()
    refused(published, "has no config.json", FileNotFoundError)


# --- tokenizers


def test_a_tokenizer_that_ends_nothing(published: Path) -> None:
    (published / "tokenizer_config.json").unlink()
    (published / "generation_config.json").unlink()
    change_config(published, eos_token_id=None)
    refused(published, "no token ends a text.*eos_token")


def test_a_sentencepiece_model_alone(published: Path) -> None:
    (published / "tokenizer.json").rename(published / "tokenizer.model")
    refused(
        published, "only tokenizer.model.*save_pretrained", FileNotFoundError
    )


def test_a_tokenizer_of_another_model(published: Path) -> None:
    change_config(published, vocab_size=200)
    refused(published, "ids up to 299, the model's table 200 rows")


# --- places


def test_what_is_there_is_not_overwritten(published: Path) -> None:
    (published.parent / "run").mkdir()
    (published.parent / "run" / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        import_model(str(published), published.parent / "run")
    assert (published.parent / "run" / "file").read_text() == "mine"


def test_an_interruption_leaves_nothing(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        run_folder, "write_json", interrupted
    )  # after the weights are written
    with pytest.raises(KeyboardInterrupt):
        import_model(str(published), published.parent / "run")
    assert [path.name for path in published.parent.iterdir()] == ["published"]


def test_a_model_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no folder or file ./nowhere"):
        find_model("./nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError,
        match=r"no folder nobody/nothing@main, and it could .*download it elsewhere",
    ):
        find_model("nobody/nothing@main")
