"""Tiny published image encoders with random weights, as folders that `mm1 import`
reads."""

import json
from pathlib import Path
from typing import Any

import torch
from published import write_tokenizer
from torch import Tensor, nn
from transformers import (
    Aimv2VisionConfig,
    Aimv2VisionModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 12,
    "patch_size": 4,
}
DINO = {
    name: value for name, value in VISION.items() if name != "intermediate_size"
}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
}

CROP = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 12},
    "crop_size": {"height": 12, "width": 12},
    "resample": 3,
    "image_mean": [0.1, 0.4, 0.6],
    "image_std": [0.2, 0.3, 0.25],
}
SQUASH = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 12, "width": 12},
    "resample": 2,
    "image_mean": [0.5, 0.4, 0.6],
    "image_std": [0.2, 0.3, 0.25],
}

ALONE = {
    "CLIPVisionModel": lambda: (
        CLIPVisionModel(CLIPVisionConfig(**VISION)),
        CROP,
    ),
    "SiglipVisionModel": lambda: (
        SiglipVisionModel(SiglipVisionConfig(**VISION)),
        SQUASH,
    ),
    "Dinov2Model": lambda: (Dinov2Model(Dinov2Config(**DINO)), CROP),
    "Dinov2Model, SwiGLU": lambda: (
        Dinov2Model(Dinov2Config(**DINO, use_swiglu_ffn=True)),
        CROP,
    ),
    "Dinov2WithRegistersModel": lambda: (
        Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**DINO, num_register_tokens=3)
        ),
        CROP,
    ),
    "Aimv2VisionModel": lambda: (
        Aimv2VisionModel(Aimv2VisionConfig(**VISION)),
        CROP,
    ),
    "Aimv2VisionModel, native": lambda: (
        Aimv2VisionModel(Aimv2VisionConfig(**VISION, is_native=True)),
        CROP,
    ),
}


def randomised(model: nn.Module) -> Any:
    """Moves every weight away from its initial value, so that a missing bias or swapped
    tensors show."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(
                torch.randn_like(parameter) * 0.3
                + float("norm" in name and name.endswith("weight"))
            )
    return model.eval()


def write_alone(folder: Path, name: str) -> Any:
    """An encoder by itself; returns the model of transformers."""
    model, pictures = ALONE[name]()
    randomised(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return model


def write_two_towers(folder: Path, family: str, **text: Any) -> Any:
    """A CLIP or a SigLIP with a tokenizer; returns the model of transformers."""
    siglip = family == "siglip"
    num_tokens = write_tokenizer(folder, begin=not siglip)
    words = (
        TEXT
        | {
            "vocab_size": num_tokens,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        | text
    )
    if siglip:
        config = SiglipConfig(
            vision_config=VISION,
            text_config=words | {"projection_size": VISION["hidden_size"]},
        )
        model = SiglipModel(config)
    else:
        model = CLIPModel(
            CLIPConfig(
                vision_config=VISION, text_config=words, projection_dim=20
            )
        )
    randomised(model).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(SQUASH if siglip else CROP)
    )
    return model


def pictures(height: int = 12, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(
        256, (2, 3, height, width), dtype=torch.uint8, generator=generator
    )


def normed(images: Tensor, encoder: Any) -> Tensor:
    """Input for transformers: normalised pixels in 0..1."""
    mean, std = (
        torch.tensor(x)[:, None, None]
        for x in (encoder.config.mean, encoder.config.std)
    )
    return (images / 255 - mean) / std


def captions(end: int) -> tuple[Tensor, Tensor]:
    """Captions of 8, 4 and 2 tokens that end in the end token, which is also the
    padding."""
    tokens = torch.full((3, 8), end)
    lengths = torch.tensor([8, 4, 2])
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.arange(int(length) - 1) * 5 + 3
    return tokens, lengths
