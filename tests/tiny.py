"""A model, a renderer and pictures small enough for a test; weights from a seed,
fp32."""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.infer.predictor import Predictor
from mm1.loader.packed import PackedLoader
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.nn.model import Model
from mm1.nn.vit import ViT
from mm1.runs.description import write_config, write_summary
from mm1.runs.weights_writer import write_weights
from mm1.train.trainer import Trainer

WORDS = "red green blue cat dog sun two three question answer"


def tokenizer(folder: Path, kind: str = "bpe") -> Tokenizer:
    words = [f" {word}" for word in WORDS.split()] + [WORDS]
    size = {"bpe": 280, "word": 40}[kind]
    return train_tokenizer(
        words, folder / "tokenizer.json", vocab_size=size, kind=kind
    )  # type: ignore[arg-type]


def config(experts: MoE.Config | None = None) -> MM1.Config:
    return MM1.Config(
        encoder=ViT.Config(
            image_size=8, patch_size=4, depth=1, dim=16, num_heads=2
        ),
        connector=AveragePool.Config(num_tokens=4),
        decoder=Decoder.Config(
            depth=2,
            dim=32,
            num_heads=4,
            num_kv_heads=2,
            hidden_dim=48,
            tied=False,
            experts=experts,
        ),
    )


def mm1(
    vocab_size: int, *, seed: int = 0, experts: MoE.Config | None = None
) -> MM1:
    torch.manual_seed(seed)
    model = config(experts).build(vocab_size=vocab_size)
    # at initialisation all logits are nearly alike, and every prompt has the same
    # answer
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


def predictor(
    folder: Path,
    *,
    kind: str = "bpe",
    seed: int = 0,
    tokens_per_batch: int = 16_384,
    experts: MoE.Config | None = None,
) -> Predictor:
    made = tokenizer(folder, kind)
    model = mm1(made.vocab_size, seed=seed, experts=experts)
    renderer = Renderer(made, ImageProcessor((8, 8)), tokens_per_image=4)
    return Predictor(
        model, renderer, torch.device("cpu"), tokens_per_batch=tokens_per_batch
    )


def write_run(
    folder: Path,
    *,
    source: str = "instructions",
    model: Model.Config | None = None,
    **fields: Any,
) -> Path:
    """A finished run of this model, or of another one, that says it was trained on one
    `source`; `fields` are of its config."""
    folder.mkdir(parents=True)
    made = predictor(folder)
    built = made.model
    if model is not None:
        built = model.build(vocab_size=built.decoder.vocab_size)
    run = Trainer.Config(
        model=model or config(),
        loader=PackedLoader.Config(
            sources={source: "data"}, weights={source: 1.0}, sequence_length=512
        ),
        precision="fp32",
        steps=1,
        **fields,
    )
    write_config(folder, run)
    write_weights(folder, built.state_dict())
    write_summary(
        folder, run, params={}, data={}, device=made.device, finished=True
    )
    return folder


def picture(number: int, side: int = 8) -> Image:
    pixels = torch.randint(
        0,
        256,
        (side, side, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(number),
    )
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.numpy()).save(buffer, "PNG")
    return Image(buffer.getvalue(), side, side)


def prompts(count: int) -> list[Document]:
    """Of different lengths: text alone, one picture, several."""
    words = WORDS.split()
    made = []
    for i in range(count):
        parts: list[Text | Image] = [
            Text(" ".join(words[: i % 7 + 1]), loss=False)
        ]
        for j in range(i % 3):
            parts += [
                picture(10 * i + j),
                Text(f" {words[(i + j) % 10]}", loss=j % 2 == 0),
            ]
        made.append(Document(tuple(parts)))
    return made
