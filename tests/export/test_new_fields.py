"""An option or tensor that is added to a model is refused by every export until it is
placed, whatever its value."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import write_run
from torch import nn

from mm1 import config as configs
from mm1.config import ConfigError, Configurable
from mm1.export.encoders.write import encoder_format, to_published_clip
from mm1.export.export_run import export_run
from mm1.export.fields import Fields
from mm1.nn.aim import AIM
from mm1.nn.block import Block
from mm1.nn.clip import CLIP, Projection
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.nn.features import Features
from mm1.nn.mm1 import MM1
from mm1.nn.pooling import AttentionPoolingHead
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs may name the classes of this file."""
    monkeypatch.setattr(configs, "TRUSTED", ["mm1", __name__])


CLIP_FILE = "mm1/export/encoders/clip.py"
DECODERS_FILE = "mm1/export/decoders/config.py"


def vit(**options: Any) -> ViT.Config:
    return ViT.Config(
        image_size=8, patch_size=4, depth=2, dim=16, num_heads=2, **options
    )


def clip_vit() -> ViT.Config:
    return vit(class_token=True, pre_norm=True, patch_bias=False)


def aimv2_vit() -> ViT.Config:
    return vit(norm="rms", bias=False, patch_norm=True, feed_forward="swiglu")


def decoder(**options: Any) -> Decoder.Config:
    return Decoder.Config(
        depth=2, dim=16, num_heads=2, hidden_dim=24, **options
    )


def clip() -> CLIP.Config:
    text = TextTower.Config(max_length=8, depth=1, dim=16, num_heads=2)
    return CLIP.Config(encoder=clip_vit(), text=text)


def siglip() -> CLIP.Config:
    text = TextTower.Config(
        max_length=8,
        depth=1,
        dim=16,
        num_heads=2,
        causal=False,
        read="last",
        output_bias=True,
    )
    return CLIP.Config(
        encoder=vit(), text=text, dim=None, pooling="attention", loss="sigmoid"
    )


def mm1(**options: Any) -> MM1.Config:
    return MM1.Config(
        encoder=vit(),
        connector=AveragePool.Config(num_tokens=4),
        decoder=decoder(**options),
    )


def aim() -> AIM.Config:
    return AIM.Config(encoder=vit(), head_depth=1, head_dim=16)


def features(encoder: Callable[[], ViT.Config]) -> Features.Config:
    return Features.Config(encoder=encoder())


def language_model(**options: Any) -> LanguageModel.Config:
    return LanguageModel.Config(decoder=decoder(**options))


def sparse(every: int) -> MoE.Config:
    return MoE.Config(num_experts=2, top_k=1, every=every)


Case = tuple[type[Configurable], Callable[[], Any], str]

FIELDS: dict[str, Case] = {
    "SiglipVisionModel": (
        ViT,
        lambda: features(vit),
        f"encoder.made_up, which to_siglip_vision in {CLIP_FILE}",
    ),
    "CLIPVisionModel": (
        ViT,
        lambda: features(clip_vit),
        f"encoder.made_up, which to_clip_vision in {CLIP_FILE}",
    ),
    "Dinov2Model": (
        ViT,
        lambda: features(lambda: vit(class_token=True, layer_scale=0.1)),
        "encoder.made_up, which to_dinov2 in mm1/export/encoders/dinov2.py",
    ),
    "Dinov2WithRegistersModel": (
        ViT,
        lambda: features(lambda: vit(class_token=True, num_registers=2)),
        "encoder.made_up, which to_dinov2 in mm1/export/encoders/dinov2.py",
    ),
    "Aimv2VisionModel": (
        ViT,
        lambda: features(aimv2_vit),
        "encoder.made_up, which to_aimv2 in mm1/export/encoders/aim.py",
    ),
    "encoder of an AIM": (ViT, aim, "encoder.made_up, which to_siglip_vision"),
    "encoder of a CLIPModel": (ViT, clip, "encoder.made_up, which to_clip in"),
    "encoder of a SiglipModel": (
        ViT,
        siglip,
        "encoder.made_up, which to_siglip in",
    ),
    "encoder of an MM1": (ViT, mm1, "encoder.made_up, which to_siglip_vision"),
    "text tower of a CLIPModel": (
        TextTower,
        clip,
        f"text.made_up, which to_clip in {CLIP_FILE}",
    ),
    "text tower of a SiglipModel": (
        TextTower,
        siglip,
        f"text.made_up, which to_siglip in {CLIP_FILE}",
    ),
    "CLIPModel": (CLIP, clip, f"for made_up, which to_clip in {CLIP_FILE}"),
    "SiglipModel": (
        CLIP,
        siglip,
        f"for made_up, which to_siglip in {CLIP_FILE}",
    ),
    "AIM": (AIM, aim, "for made_up, which .* in mm1/export/image_encoders.py"),
    "Features": (
        Features,
        lambda: features(vit),
        "for made_up, which .* in mm1/export/image_encoders.py",
    ),
    "language model": (
        LanguageModel,
        language_model,
        "for made_up, which run_decoder in mm1/export/language_models.py",
    ),
    "MM1": (
        MM1,
        mm1,
        "for made_up, which to_mm1_config in mm1/export/multimodal.py",
    ),
    "decoder of an MM1": (
        Decoder,
        mm1,
        f"decoder.made_up, which to_decoder_config in {DECODERS_FILE}",
    ),
    "experts of an MM1": (
        MoE,
        lambda: mm1(experts=sparse(every=1)),
        f"decoder.experts.made_up, which to_decoder_config in {DECODERS_FILE}",
    ),
    "experts of a Mixtral": (
        MoE,
        lambda: language_model(experts=sparse(every=1)),
        "MixtralForCausalLM has no room for decoder.experts.made_up",
    ),
    "experts of a Qwen3Moe": (
        MoE,
        lambda: language_model(experts=sparse(every=2), qk_norm="head"),
        "Qwen3MoeForCausalLM has no room for decoder.experts.made_up",
    ),
}

DECODERS: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"num_heads": 3, "head_dim": 8},
    "Qwen2": {"qkv_bias": True},
    "Qwen3": {"qk_norm": "head"},
    "Olmo2": {"qk_norm": "full", "norm_placement": "post"},
    "Mixtral": {"experts": MoE.Config(num_experts=2, top_k=1, every=1)},
    "Qwen3Moe": {
        "experts": MoE.Config(num_experts=2, top_k=1),
        "qk_norm": "head",
    },
}


def add_field(
    owner: type[Configurable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gives `owner.Config` a new option that is off."""
    body = {
        "__module__": owner.__module__,
        "__qualname__": f"{owner.__qualname__}.Config",
        "__annotations__": {"made_up": bool},
        "made_up": False,
    }
    grown = dataclass(kw_only=True, slots=True)(
        type("Config", (owner.Config,), body)
    )
    monkeypatch.setattr(owner, "Config", grown)


def add_tensor(owner: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives every `owner` a new parameter."""
    build: Any = owner.__init__

    def build_with_tensor(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.made_up = nn.Parameter(torch.ones(2))

    monkeypatch.setattr(owner, "__init__", build_with_tensor)


def assert_refused(
    config: Any,
    folder: Path,
    error: type[Exception],
    named: str,
    **options: Any,
) -> None:
    write_run(config, folder / "run", kind="bpe")
    with pytest.raises(error, match=named):
        export_run(folder / "run", folder / "out", **options)
    assert [path.name for path in folder.iterdir()] == ["run"]


@pytest.mark.parametrize("name", FIELDS)
def test_a_new_field_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, config, named = FIELDS[name]
    add_field(owner, monkeypatch)
    assert_refused(
        config(), tmp_path, ConfigError, f"{named}.* neither places nor"
    )


@pytest.mark.parametrize("name", DECODERS)
def test_a_new_field_of_a_decoder_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_field(Decoder, monkeypatch)
    config = LanguageModel.Config(decoder=replace(decoder(), **DECODERS[name]))
    named = f"{name}ForCausalLM has no room for decoder.made_up, which"
    assert_refused(config, tmp_path, ConfigError, named)


def test_a_new_field_of_an_encoder_is_refused_in_any_model_it_is_taken_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_field(ViT, monkeypatch)
    for config in (mm1, clip, siglip):
        folder = tmp_path / config.__name__
        folder.mkdir()
        named = r"encoder\.made_up, which"
        assert_refused(config(), folder, ConfigError, named, part="encoder")


TENSORS: dict[str, tuple[type[nn.Module], Callable[[], Any], str]] = {
    "ViT": (ViT, lambda: features(vit), r"encoder\.made_up"),
    "block": (
        Block,
        lambda: features(clip_vit),
        r"encoder\.blocks\.0\.made_up",
    ),
    "AIM's encoder": (ViT, aim, r"encoder\.made_up"),
    "text tower": (TextTower, clip, r"text\.made_up"),
    "projection": (Projection, clip, r"projection\.made_up"),
    "attention head": (AttentionPoolingHead, siglip, r"pooling\.made_up"),
    "decoder": (Decoder, language_model, r"decoder\.made_up"),
    "language model": (LanguageModel, language_model, "made_up"),
    "experts": (
        MoE,
        lambda: language_model(experts=sparse(every=1)),
        r"decoder\.blocks\.0\.feed_forward\.made_up",
    ),
    "MM1's encoder": (ViT, mm1, r"encoder\.made_up"),
    "MM1's decoder": (Decoder, mm1, r"decoder\.made_up"),
    "MM1": (MM1, mm1, "made_up"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_new_tensor_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, config, named = TENSORS[name]
    add_tensor(owner, monkeypatch)
    differ = rf"the links of this format and \w+ differ in {named}"
    assert_refused(config(), tmp_path, RuntimeError, differ)


def test_a_field_that_is_placed_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    add_field(TextTower, monkeypatch)
    fields = Fields(clip(), CLIP, "", add_field)
    fields.leave("encoder", "dim", "pooling", "loss")
    text = fields.within("text", TextTower)
    text.leave(
        "vocab_size", "max_length", "depth", "dim", "num_heads", "mlp_ratio"
    )
    text.leave("activation", "norm_eps", "causal", "output_bias")
    assert text.only("read", "last") == "end"
    misfits = [
        "text.read='end', which must be 'last'",
        f"text.made_up, which add_field in {__name__}.py neither places nor refuses",
    ]
    assert fields.misfits() == misfits
    assert text.take("made_up") is False
    assert fields.misfits() == misfits[:1]


def test_a_new_value_of_an_option_is_refused() -> None:
    for name in ("activation", "positions", "norm", "feed_forward"):
        config = vit()
        setattr(config, name, "made_up")
        with pytest.raises(
            ConfigError, match=f"encoder.{name}='made_up', which must"
        ):
            encoder_format(config)


class OtherViT(ViT):
    """Has ViT's options and may compute anything."""


class OtherCLIP(CLIP):
    """Has CLIP's options and may compute anything."""


def test_a_subclass_is_refused() -> None:
    sizes: dict[str, Any] = {
        "image_size": 8,
        "patch_size": 4,
        "dim": 16,
        "num_heads": 2,
    }
    with pytest.raises(
        ConfigError, match=r"encoder=.*:OtherViT, which must be ViT"
    ):
        encoder_format(OtherViT.Config(**sizes))
    config = OtherCLIP.Config(encoder=clip_vit(), text=clip().text)
    with pytest.raises(
        ConfigError, match=r"the model=.*:OtherCLIP, which must be CLIP"
    ):
        to_published_clip(config)


class Nested(AveragePool):
    """A connector with a config inside its own."""

    @dataclass(kw_only=True, slots=True)
    class Config(AveragePool.Config):
        inner: AveragePool.Config


def test_a_connector_s_fields_travel_but_for_configs_inside(
    tmp_path: Path,
) -> None:
    connector = Nested.Config(num_tokens=4, inner=AveragePool.Config())
    config = replace(mm1(), connector=connector)
    named = (
        r"connector\.inner=.*, a config, which the export would read as a dict"
    )
    assert_refused(config, tmp_path, ConfigError, named)
