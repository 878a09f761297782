"""What an import keeps and an export states: types, shards, tables, configs as
published, cards; what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from published import write_model
from safetensors.torch import load_file
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.export import published_folder
from mm1.export.decoders.config import (
    FAMILIES,
    family_of,
    from_decoder_config,
    to_decoder_config,
)
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.export.options import Options
from mm1.files import write_json
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.runs.description import read_config
from mm1.runs.weights import load_model, write_weights
from mm1.train.trainer import Trainer

TABLE = "decoder.embedding.weight"


def test_types_stay_and_shards_are_read(tmp_path: Path) -> None:
    model = write_model(tmp_path / "whole", "qwen2", spare_rows=20).bfloat16()
    model.model.norm.float()
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "shards" / name).write_bytes(
            (tmp_path / "whole" / name).read_bytes()
        )
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) == 2
    for name in ("whole", "shards"):
        import_model(str(tmp_path / name), tmp_path / f"run-{name}")
    weights = load_file(tmp_path / "run-shards" / "model.safetensors")
    assert {t.dtype for n, t in weights.items() if n != "decoder.norm.weight"} == {
        torch.bfloat16
    }
    assert weights["decoder.norm.weight"].dtype == torch.float32
    assert read_config(tmp_path / "run-shards").precision == "bf16"
    bytes_of = [
        (tmp_path / f"run-{name}" / "model.safetensors").read_bytes()
        for name in ("whole", "shards")
    ]
    assert bytes_of[0] == bytes_of[1]


def test_an_export_in_shards_opens_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "published", "mixtral")
    import_model(str(tmp_path / "published"), tmp_path / "run")
    cut = published_folder.write_sharded
    monkeypatch.setattr(
        published_folder, "write_sharded", lambda *a: cut(*a, max_shard_bytes=200_000)
    )
    export_run(tmp_path / "run", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    _, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(loading.values())
    import_model(str(tmp_path / "out"), tmp_path / "again")
    same = [
        (tmp_path / name / "model.safetensors").read_bytes()
        for name in ("run", "again")
    ]
    assert same[0] == same[1]


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_without_spare_rows_grows_by_mean_rows(
    tied: bool, tmp_path: Path
) -> None:
    before = write_model(
        tmp_path / "published", "llama", tie_word_embeddings=tied
    ).state_dict()
    import_model(str(tmp_path / "published"), tmp_path / "run")
    after = load_file(tmp_path / "run" / "model.safetensors")
    names = {TABLE: "model.embed_tokens.weight"} | (
        {} if tied else {"decoder.output.weight": "lm_head.weight"}
    )
    for ours, theirs in names.items():
        assert torch.equal(after[ours][:300], before[theirs])
        assert torch.equal(after[ours][300:], before[theirs].mean(0).expand(2, -1))


def test_spare_rows_are_left_as_they_were(tmp_path: Path) -> None:
    before = write_model(tmp_path / "published", "llama", spare_rows=20).state_dict()
    import_model(str(tmp_path / "published"), tmp_path / "run")
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert torch.equal(after[TABLE], before["model.embed_tokens.weight"])
    model, renderer, _ = load_model(tmp_path / "run", torch.device("cpu"))
    assert renderer.tokenizer.vocab_size == model.decoder.vocab_size == 320  # type: ignore[attr-defined]


def test_the_run_says_where_it_came_from(tmp_path: Path) -> None:
    write_model(tmp_path / "published", "llama")
    (tmp_path / "published" / "README.md").write_text(
        "---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\nlicense: no\n"
    )
    import_model(str(tmp_path / "published"), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    name = str(tmp_path / "published")
    assert summary["origin"] == {
        "name": name,
        "revision": None,
        "licence": "apache-2.0",
        "family": "llama",
    }
    assert summary["finished"]
    export_run(tmp_path / "run", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\nlicense: apache-2.0\n" in card
    assert "Not trained here" in card


def test_an_edited_config_overrules_what_our_export_carried_along(
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "published", "llama")
    import_model(str(tmp_path / "published"), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 5e5}))
    with pytest.raises(
        ConfigError,
        match=r"mm1.json and config.json describe two decoders: delete mm1.json",
    ):
        import_model(str(tmp_path / "out"), tmp_path / "again")
    (tmp_path / "out" / "mm1.json").unlink()
    import_model(str(tmp_path / "out"), tmp_path / "again")
    assert read_config(tmp_path / "again").model.decoder.rope_base == 5e5


def test_a_run_of_ours_goes_out_with_its_card(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    tokenizer = tiny.tokenizer(run)
    decoder = Decoder.Config(depth=2, dim=32, num_heads=2)
    config = Trainer.Config(
        model=LanguageModel.Config(decoder=decoder, z_loss=1e-4),
        steps=7,
        precision="fp32",
    )
    model = config.model.build(vocab_size=tokenizer.vocab_size)
    write_weights(run, model.state_dict())
    write_json(run / "config.json", configs.to_json(config))
    data = {"text": {"documents": 40, "tokens": 1234, "weight": 1.0}}
    write_json(
        run / "summary.json",
        {"params": {"decoder": 4321}, "data": data, "hardware": "CPU", "world_size": 2},
    )
    shots = {
        "0": {"score": 0.4, "stderr": 0.1, "zero_shot_prompt": "no demonstrations"},
        "4": {"score": 0.5, "stderr": 0.1},
    }
    scores = {"facts": {"metric": "accuracy", "chance": 0.25, "shots": shots}}
    write_json(run / "scores.json", scores)

    export_run(run, tmp_path / "out")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(
        opened.get_input_embeddings().weight, model.decoder.embedding.weight
    )  # type: ignore[attr-defined]
    text = "two cats, a dog"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)[
        "input_ids"
    ] == tokenizer.encode(text)
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        "4,321 in the decoder",
        "7 steps on 2 x CPU",
        "| text | 40 | 1,234 | 1.0 |",
        "| facts | accuracy | 0 (no demonstrations) | 0.400 +- 0.100 | 0.25 |",
        "| facts | accuracy | 4 | 0.500 +- 0.100 | 0.25 |",
        "model.z_loss = 0.0001",
    ):
        assert fact in card
    import_model(str(tmp_path / "out"), tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    assert not (tmp_path / "again" / "special_tokens.json").exists()
    assert read_config(tmp_path / "again").model == config.model


def test_a_decoder_that_no_family_has_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    tiny.tokenizer(tmp_path / "run")
    decoder = Decoder.Config(depth=2, dim=32, num_heads=2, qk_norm="full")
    write_json(
        tmp_path / "run" / "config.json",
        configs.to_json(Trainer.Config(model=LanguageModel.Config(decoder=decoder))),
    )
    with pytest.raises(
        ConfigError,
        match="no published family has norm_placement = pre, qk_norm = full",
    ):
        export_run(tmp_path / "run", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


PLAIN = Decoder.Config(depth=2, dim=32, num_heads=4)


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "llama"),
        ({"num_heads": 3, "head_dim": 8}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": "head"}, "qwen3"),
        ({"qk_norm": "full", "norm_placement": "post"}, "olmo2"),
        ({"experts": MoE.Config(every=1)}, "mixtral"),
        ({"experts": MoE.Config(every=2), "qk_norm": "head"}, "qwen3_moe"),
        (
            {"experts": MoE.Config(every=2)},
            "qk_norm = None, qkv_bias = False, experts.every = 2",
        ),
        (
            {"experts": MoE.Config(every=1, renormalise=False)},
            "experts.renormalise = False",
        ),
        ({"qk_norm": "full"}, "norm_placement = pre, qk_norm = full"),
        ({"qkv_bias": True, "qk_norm": "head"}, "qk_norm = head, qkv_bias = True"),
    ],
)
def test_the_family_is_chosen_by_the_options(
    changes: dict[str, Any], family: str
) -> None:
    config = replace(PLAIN, **changes)
    if family in FAMILIES:
        assert family_of(config) == family
    else:
        with pytest.raises(ConfigError, match=f"no published family has .*{family}"):
            family_of(config)


# As published: shapes, and the options that each family's configs carry.
PUBLISHED: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 576, "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
        "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False, "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 49152,
    },
    "Llama-3.2-1B": {
        "model_type": "llama", "attention_bias": False, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
    },
    "Mistral-7B-v0.3": {
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 32768,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "use_mrope": False,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-0.6B": {
        "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "OLMo-2-1B": {
        "model_type": "olmo2", "attention_bias": False, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 16, "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 500000, "tie_word_embeddings": False, "vocab_size": 100352,
    },
    "Mixtral-8x7B": {
        "model_type": "mixtral", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_experts_per_tok": 2,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
        "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 32000,
    },
    "Qwen3-30B-A3B": {
        "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None,
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
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
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
    ("dense", "step", "every"), [([], 1, 1), ([], 2, 2), ([0, 2], 1, 2), ([0], 1, None)]
)
def test_blocks_that_are_sparse(dense: list[int], step: int, every: int | None) -> None:
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
