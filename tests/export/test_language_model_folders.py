"""Folders of language models: types, shards, tables and origins of imports, cards and
refusals of exports."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from published import write_model
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.export import published_folder
from mm1.export.decoders.config import (
    FAMILIES,
    family_of,
)
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.files import write_json
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.runs.description import read_config
from mm1.runs.weights import load_model
from mm1.runs.weights_writer import write_weights
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
    assert {
        t.dtype for n, t in weights.items() if n != "decoder.norm.weight"
    } == {torch.bfloat16}
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
        published_folder,
        "write_sharded",
        lambda *a: cut(*a, max_shard_bytes=200_000),
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
        assert torch.equal(
            after[ours][300:], before[theirs].mean(0).expand(2, -1)
        )


def test_spare_rows_are_left_as_they_were(tmp_path: Path) -> None:
    before = write_model(
        tmp_path / "published", "llama", spare_rows=20
    ).state_dict()
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
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"rope_theta": 5e5})
    )
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
        {
            "params": {"decoder": 4321},
            "data": data,
            "hardware": "CPU",
            "world_size": 2,
        },
    )
    shots = {
        "0": {
            "score": 0.4,
            "stderr": 0.1,
            "zero_shot_prompt": "no demonstrations",
        },
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
        assert (tmp_path / "again" / name).read_bytes() == (
            run / name
        ).read_bytes()
    assert not (tmp_path / "again" / "special_tokens.json").exists()
    assert read_config(tmp_path / "again").model == config.model


def test_a_decoder_that_no_family_has_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    (tmp_path / "run").mkdir()
    tiny.tokenizer(tmp_path / "run")
    decoder = Decoder.Config(depth=2, dim=32, num_heads=2, qk_norm="full")
    write_json(
        tmp_path / "run" / "config.json",
        configs.to_json(
            Trainer.Config(model=LanguageModel.Config(decoder=decoder))
        ),
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
        (
            {"qkv_bias": True, "qk_norm": "head"},
            "qk_norm = head, qkv_bias = True",
        ),
    ],
)
def test_the_family_is_chosen_by_the_options(
    changes: dict[str, Any], family: str
) -> None:
    config = replace(PLAIN, **changes)
    if family in FAMILIES:
        assert family_of(config) == family
    else:
        with pytest.raises(
            ConfigError, match=f"no published family has .*{family}"
        ):
            family_of(config)


def test_prompts_of_different_lengths_are_continued_together_as_alone(
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "published", "llama")
    (tmp_path / "published" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, 5]})
    )
    import_model(str(tmp_path / "published"), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert tokenizer.padding_side == "left"

    def continued(texts: list[str]) -> list[list[int]]:
        inputs = tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        made = model.generate(**inputs, max_new_tokens=6)
        return made[:, inputs["input_ids"].shape[1] :].tolist()

    texts = ["two dogs ran to the red house", "a"]
    together = continued(texts)
    for text, tokens in zip(texts, together, strict=True):
        alone = continued([text])[0]
        assert tokens[: len(alone)] == alone


def test_an_end_of_several_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "published", "llama")
    (tmp_path / "published" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [1, 5]})
    )
    import_model(str(tmp_path / "published"), tmp_path / "run")
    said = capsys.readouterr().err
    assert "of the ends [1, 5], only <|endoftext|> ends a text here" in said
