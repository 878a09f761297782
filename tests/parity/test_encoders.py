"""Published image encoders give the same features here as in transformers: tiny ones with random weights, fp32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from parity.recorded import Recorded, recorded
from safetensors.torch import save_file
from torch import Tensor, nn

from mm1.export.encoders import Published, published
from mm1.export.mapping import check, joined
from mm1.export.weights import Weights
from mm1.nn.model import Model

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 48,
    "eos_token_id": 49,
}
DINO = {name: value for name, value in VISION.items() if name != "intermediate_size"}

CLOSE = {"atol": 2e-5, "rtol": 0.0}
"""Sums of at most 64 products, in another order in each block, and features of unit size; measured at most 3e-6."""


def randomised(model: nn.Module) -> Any:
    """Every weight away from where it starts: a bias left out, or two tensors swapped, must show."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + float("norm" in name and name.endswith("weight")))
    return model.eval()


def saved(model: Any, folder: Path, **pictures: Any) -> Path:
    model.save_pretrained(folder)
    if pictures:
        (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def load(folder: Path) -> tuple[Any, Published]:
    weights = Weights(folder)
    found = published(folder, weights)
    assert found is not None
    model = found.model.build(vocab_size=0)
    check(found.links, {name: tuple(t.shape) for name, t in model.state_dict().items()}, weights, unused=found.unused)
    model.load_state_dict(dict(joined(found.links, weights)))
    return model.eval(), found


def pictures(model: Model, num: int = 2) -> Tensor:
    assert model.image_size is not None
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (num, 3, *model.image_size), dtype=torch.uint8, generator=generator)


def normed(model: Any, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(x)[:, None, None] for x in (model.encoder.config.mean, model.encoder.config.std))
    return (images / 255 - mean) / std


@torch.no_grad()
def test_clip_vision(tmp_path: Path) -> None:
    theirs = randomised(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)))
    ours, found = load(saved(theirs, tmp_path))
    images = pictures(ours)
    expected = theirs(normed(ours, images))
    tokens = ours.encoder.tokens(images)
    torch.testing.assert_close(tokens[:, 0], expected.pooler_output, **CLOSE)
    torch.testing.assert_close(tokens[:, 1:], theirs.post_layernorm(expected.last_hidden_state)[:, 1:], **CLOSE)


@torch.no_grad()
def test_siglip_vision(tmp_path: Path) -> None:
    theirs = randomised(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION)))
    ours, found = load(saved(theirs, tmp_path))
    images = pictures(ours)
    expected = theirs(normed(ours, images)).last_hidden_state
    torch.testing.assert_close(ours.encoder(images), expected, **CLOSE)
    assert any(note.startswith("left out: head.attention") for note in found.notes)


def dinov2(registers: int, **options: Any) -> Any:
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**DINO, num_register_tokens=registers, **options)
        return randomised(transformers.Dinov2WithRegistersModel(config))
    return randomised(transformers.Dinov2Model(transformers.Dinov2Config(**DINO, **options)))


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("swiglu", [False, True])
@torch.no_grad()
def test_dinov2(tmp_path: Path, registers: int, swiglu: bool) -> None:
    theirs = dinov2(registers, use_swiglu_ffn=swiglu)
    ours, _ = load(saved(theirs, tmp_path))
    images = pictures(ours)
    expected = theirs(normed(ours, images))
    tokens = ours.encoder.tokens(images)
    torch.testing.assert_close(tokens, expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(tokens[:, 0], expected.pooler_output, **CLOSE)


@pytest.mark.parametrize("native", [False, True])
@torch.no_grad()
def test_aimv2(tmp_path: Path, native: bool) -> None:
    theirs = randomised(transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**VISION, is_native=native)))
    ours, _ = load(saved(theirs, tmp_path))
    images = pictures(ours)
    expected = theirs(normed(ours, images)).last_hidden_state
    torch.testing.assert_close(ours.encoder(images), expected, **CLOSE)


def captions() -> tuple[Tensor, Tensor]:
    """Of 8, 4 and 2 tokens, the last of each the end token; behind it padding."""
    tokens, lengths = torch.full((3, 8), 1), torch.tensor([8, 4, 2])
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.arange(int(length) - 1) * 5 + 3
        row[length - 1] = TEXT["eos_token_id"]
    return tokens, lengths


@pytest.mark.parametrize("end", [49, 2])
@torch.no_grad()
def test_clip(tmp_path: Path, end: int) -> None:
    """2 is what old configs call the end token, whatever it is: there its highest number tells."""
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT | {"eos_token_id": end}, projection_dim=20)
    theirs = randomised(transformers.CLIPModel(config))
    ours, _ = load(saved(theirs, tmp_path))
    images, (tokens, lengths) = pictures(ours), captions()
    expected = theirs(input_ids=tokens, pixel_values=normed(ours, images))
    image, text = ours.encode_images(images), ours.encode_texts(tokens, lengths)
    torch.testing.assert_close(image, expected.image_embeds, **CLOSE)
    torch.testing.assert_close(text, expected.text_embeds, **CLOSE)
    torch.testing.assert_close(ours.projection.scale * image @ text.T, expected.logits_per_image, **CLOSE)


@torch.no_grad()
def test_siglip(tmp_path: Path) -> None:
    text = TEXT | {"projection_size": VISION["hidden_size"]}
    theirs = randomised(transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=text)))
    ours, _ = load(saved(theirs, tmp_path))
    images, (tokens, lengths) = pictures(ours), captions()
    expected = theirs(input_ids=tokens, pixel_values=normed(ours, images))
    image, text = ours.encode_images(images), ours.encode_texts(tokens, lengths)
    torch.testing.assert_close(image, expected.image_embeds, **CLOSE)
    torch.testing.assert_close(text, expected.text_embeds, **CLOSE)
    scores = ours.projection.scale * image @ text.T + ours.projection.bias
    torch.testing.assert_close(scores, expected.logits_per_image, **CLOSE)


def unpacked(name: str, folder: Path, config: dict[str, Any], file: str) -> Recorded:
    """A recorded model as the folder that its library would have written."""
    found = recorded(name)
    folder.mkdir(exist_ok=True)
    save_file(found.state, folder / "model.safetensors")
    (folder / file).write_text(json.dumps(config))
    return found


@pytest.mark.parametrize("name", ["open_clip_openai", "open_clip_dfn", "open_clip_gap"])
@torch.no_grad()
def test_open_clip(tmp_path: Path, name: str) -> None:
    facts = recorded(name).facts
    config = {"model_cfg": facts["config"], "preprocess_cfg": {"mean": facts["mean"], "std": facts["std"]}}
    theirs = unpacked(name, tmp_path, config, "open_clip_config.json")
    ours, _ = load(tmp_path)
    images, tokens = theirs.inputs["images"], theirs.inputs["tokens"]
    lengths = tokens.argmax(-1) + 1
    torch.testing.assert_close(ours.encoder(images), theirs.outputs["patch_features"], **CLOSE)
    image, text = ours.encode_images(images), ours.encode_texts(tokens, lengths)
    torch.testing.assert_close(image, F.normalize(theirs.outputs["image_features"], dim=-1), **CLOSE)
    torch.testing.assert_close(text, F.normalize(theirs.outputs["text_features"], dim=-1), **CLOSE)
    torch.testing.assert_close(ours.projection.scale * image @ text.T, theirs.outputs["image_logits"], **CLOSE)


@pytest.mark.parametrize("name", ["aim_v1", "aim_v2", "aim_v2_native"])
@torch.no_grad()
def test_ml_aim(tmp_path: Path, name: str) -> None:
    config = recorded(name).facts["config"]
    if name != "aim_v1":  # as apple's code for transformers calls them
        names = {"img_size": "image_size", "embed_dim": "hidden_size", "mlp_hidden_dim": "intermediate_size"}
        names |= {"num_blocks": "num_hidden_layers", "num_heads": "num_attention_heads"}
        config = {names.get(k, k): v for k, v in config.items() if k != "pos_embed_type"} | {"model_type": "aimv2"}
    theirs = unpacked(name, tmp_path, config, "config.json")
    ours, _ = load(tmp_path)
    features = theirs.outputs["full.normed" if name == "aim_v1" else "patch_features"]
    torch.testing.assert_close(ours.encoder.position, theirs.outputs["position"], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.encoder(theirs.inputs["images"]), features, **CLOSE)
