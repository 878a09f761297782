"""An exported MM1 run, opened by transformers, gives the run's tokens, pixels, logits
and answers."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import ask, compare, export, loader, model, modules, request
from open_export import open_and_ask
from safetensors.torch import load_file

from mm1.config import ConfigError
from mm1.export.decoders.config import family_of
from mm1.export.import_model import import_model
from mm1.export.mapping import theirs_of
from mm1.export.multimodal import IMAGE_OPTIONS, mm1_links, to_mm1_config
from mm1.export.remote_code import remote_code
from mm1.files import write_json
from mm1.nn.connectors.attention_pool import AttentionPool
from mm1.nn.connectors.mlp import MLPConnector
from mm1.nn.connectors.pixel_shuffle import PixelShuffle
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.recipes.pretrain import (
    pretrain_3b,
    pretrain_7b,
    pretrain_30b,
    pretrain_ablation_base,
)
from mm1.runs.description import read_config
from mm1.train.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("modules")]
__all__ = ["modules"]  # a fixture


def siglip(c: MM1.Config) -> None:
    c.encoder.patch_bias = False
    c.encoder.bias = False
    c.decoder.qk_norm = None


def clip(c: MM1.Config) -> None:
    c.encoder.class_token = True
    c.encoder.pre_norm = True
    c.encoder.patch_bias = False
    c.encoder.activation = "quick_gelu"
    c.decoder.qk_norm = None
    c.decoder.tied = False
    c.connector = AttentionPool.Config(num_tokens=4, dim=16, num_heads=2)


def dinov2(c: MM1.Config) -> None:
    c.encoder.class_token = True
    c.encoder.num_registers = 2
    c.encoder.layer_scale = 0.1
    c.decoder.qk_norm = None
    c.decoder.qkv_bias = True
    c.connector = MLPConnector.Config(num_tokens=16)


def aimv2(c: MM1.Config) -> None:
    c.encoder.norm = "rms"
    c.encoder.feed_forward = "swiglu"
    c.encoder.bias = False
    c.encoder.patch_norm = True
    c.decoder.norm_placement = "post"
    c.decoder.qk_norm = "full"
    c.connector = PixelShuffle.Config()


def qwen3_moe(c: MM1.Config) -> None:
    c.decoder.experts = MoE.Config(
        num_experts=4, top_k=2, every=2, hidden_dim=40
    )


def mixtral(c: MM1.Config) -> None:
    c.decoder.experts = MoE.Config(num_experts=4, top_k=2, every=1)
    c.decoder.qk_norm = None


KINDS: dict[str, Callable[[MM1.Config], None]] = {
    "qwen3 behind siglip_vision_model": lambda _: None,
    "llama behind siglip_vision_model": siglip,
    "llama behind clip_vision_model": clip,
    "qwen2 behind dinov2_with_registers": dinov2,
    "olmo2 behind aimv2_vision_model": aimv2,
    "qwen3_moe behind siglip_vision_model": qwen3_moe,
    "mixtral behind siglip_vision_model": mixtral,
}


@pytest.mark.parametrize("kind", KINDS)
def test_export_is_the_run(kind: str, tmp_path: Path) -> None:
    config: Any = model()
    KINDS[kind](config)
    export(tmp_path, config, loader(max_tiles=4))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (
        kind == f"{config['text_config']['model_type']} behind"
        f" {config['vision_config']['model_type']}"
    )
    (tmp_path / "out").mkdir()
    open_and_ask(
        str(tmp_path / "hf"), str(request(tmp_path)), str(tmp_path / "out")
    )
    compare(tmp_path)


def test_it_opens_where_there_is_no_mm1(tmp_path: Path) -> None:
    """In a process that cannot import mm1 or jaxtyping; a dynamic grid with index
    tokens, a foreign tokenizer."""
    export(
        tmp_path,
        model(),
        loader(split="dynamic", max_tiles=6, index_tokens=True),
        kind="foreign",
    )
    said = ask(tmp_path, Path(sys.executable))
    assert said["loaded"] == []
    compare(tmp_path)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    for kind, change in KINDS.items():
        config = model()
        folder = tmp_path / kind
        change(config)
        export(
            folder,
            config,
            loader(max_tiles=9, min_tiles=4),
            kind="foreign" if kind.startswith("llama") else "bpe",
        )
        import_model(str(folder / "hf"), folder / "back")
        before = load_file(folder / "run" / "model.safetensors")
        after = load_file(folder / "back" / "model.safetensors")
        assert before.keys() == after.keys()
        assert all(
            torch.equal(after[name], tensor) for name, tensor in before.items()
        )
        was = read_config(folder / "run")
        now = read_config(folder / "back")
        assert now.model == was.model
        assert [getattr(now.loader, name) for name in IMAGE_OPTIONS] == [
            getattr(was.loader, name) for name in IMAGE_OPTIONS
        ]
        assert (now.loader.sequence_length, now.precision) == (
            was.loader.sequence_length,
            was.precision,
        )
        for name in ("tokenizer.json", "special_tokens.json"):
            there = (folder / "run" / name).is_file()
            assert (folder / "back" / name).is_file() == there
            assert (
                not there
                or (folder / "back" / name).read_bytes()
                == (folder / "run" / name).read_bytes()
            )


@pytest.mark.parametrize(
    "recipe", [pretrain_3b, pretrain_7b, pretrain_30b, pretrain_ablation_base]
)
def test_recipes_of_the_paper_have_valid_configs(
    recipe: Callable[[], Trainer.Config], tmp_path: Path
) -> None:
    """Two blocks of each, at full width, on the meta device: every tensor of theirs has
    a name and shape of ours."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = recipe().model
    assert isinstance(config, MM1.Config)
    config.encoder.depth = config.decoder.depth = config.connector.depth = 2  # type: ignore[attr-defined]
    with torch.device("meta"):
        ours = config.build(vocab_size=32_000)
    family = family_of(config.decoder)
    values = to_mm1_config(ours, config, family, max_length=4096)
    write_json(
        tmp_path / "config.json",
        values | {"image_token_index": 2, "eos_token_id": 1, "pad_token_id": 0},
    )
    for name, text in remote_code(config.connector).items():
        (tmp_path / name).write_text(text)
    opened = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    with torch.device("meta"):
        theirs = AutoModelForImageTextToText.from_config(
            opened, trust_remote_code=True
        )
    expected = theirs_of(mm1_links(ours, config, family), ours.state_dict())
    found = {
        name: tuple(parameter.shape)
        for name, parameter in theirs.named_parameters()
    }
    assert found == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    config = model()
    config.encoder.image_size = (32, 64)
    with pytest.raises(ConfigError, match="must be square"):
        export(tmp_path / "a", config, loader())
    config = model()
    config.decoder.norm_placement = "post"
    with pytest.raises(
        ConfigError,
        match=r"no published family has norm_placement = post, qk_norm = head",
    ):
        export(tmp_path / "b", config, loader())
    assert not (tmp_path / "b" / "hf").exists()


def test_an_export_that_was_changed_is_refused(tmp_path: Path) -> None:
    export(tmp_path, model(), loader())
    path = tmp_path / "hf" / "config.json"
    values = json.loads(path.read_text())
    path.write_text(
        json.dumps(values | {"connector": values["connector"] | {"depth": 2}})
    )
    with pytest.raises(ConfigError, match="differ in connector"):
        import_model(str(tmp_path / "hf"), tmp_path / "back")
    (tmp_path / "hf" / "mm1.json").unlink()
    with pytest.raises(
        ConfigError, match=r"an export of mm1 without its mm1\.json"
    ):
        import_model(str(tmp_path / "hf"), tmp_path / "back")
    assert not (tmp_path / "back").exists()
