"""Shots retrieved by image similarity: which ones, through the command line too, and
what is refused."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Pillow

from mm1 import cli
from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.eval.benchmarks import Benchmark, Question, Split
from mm1.eval.benchmarks.coco import Coco
from mm1.eval.rices import Rices
from mm1.files import write_json
from mm1.infer.encoder import Encoder
from mm1.miniature.benchmarks import Miniature
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.features import Features
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT
from mm1.runs.weights import load_model
from mm1.runs.weights_writer import write_weights
from mm1.train.trainer import Trainer


def plain(*colour: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


TRAIN = [
    ("red", plain(250, 40, 40)),
    ("green", plain(0, 250, 0)),
    ("the very question", plain(200, 40, 40)),
    ("dark red", plain(120, 0, 0)),
    ("orange", plain(250, 120, 0)),
    (
        "orange too",
        plain(250, 120, 0),
    ),  # the same image, so the earlier record wins
    ("blue", plain(0, 0, 250)),
]
TEST = [("reddish", plain(200, 40, 40)), ("greenish", plain(30, 200, 0))]


class Colours(Benchmark):
    """Records are a name, which is the answer, and an image."""

    metric = "exact match"

    def records(self, split: Split) -> list[tuple[str, bytes]]:
        return TRAIN if split == "train" else TEST

    def question(self, record: tuple[str, bytes]) -> Question:
        return Question(
            Document((Image(record[1], 8, 8), Text(" colour:"))),
            (record[0],),
            record[0],
        )

    def image_key(self, record: tuple[str, bytes]) -> bytes:
        return record[1]


class MeanColour(Encoder):
    """The feature of an image is its mean colour."""

    seen = 0

    def __init__(self) -> None:
        pass

    def pooled(self, images: Any) -> torch.Tensor:
        self.seen += len(images)
        pixels = [
            np.asarray(Pillow.open(io.BytesIO(image.data)), dtype=np.float32)
            for image in images
        ]
        return torch.nn.functional.normalize(
            torch.tensor(np.stack([each.mean((0, 1)) for each in pixels])),
            dim=-1,
        )


def names(benchmark: Benchmark, number: int, num_shots: int) -> list[str]:
    shots = benchmark.shots(
        benchmark.question(benchmark.test[number]), number, num_shots
    )
    return [
        shot.text.removeprefix("<image> colour: ").strip() for shot in shots
    ]


def test_the_nearest_images_are_shown_the_nearest_last() -> None:
    benchmark = Colours.Config(retrieval="runs/clip").build()
    encoder = MeanColour()
    calls = []
    benchmark.rices = Rices(lambda: encoder, "v1")
    benchmark.prepare(2, lambda seen, total: calls.append((seen, total)))
    assert names(benchmark, 0, 4) == [
        "orange too",
        "orange",
        "dark red",
        "red",
    ]  # without the question's own image
    assert names(benchmark, 0, 2) == ["dark red", "red"]
    assert names(benchmark, 1, 1) == ["green"]
    assert set(names(benchmark, 0, 6)[:2]) == {"blue", "green"}
    with pytest.raises(
        ConfigError,
        match="7 shots were asked for, but only 6 train records can demonstr",
    ):
        names(benchmark, 0, 7)
    benchmark.prepare(4, lambda seen, total: calls.append((seen, total)))
    assert (encoder.seen, calls[-1]) == (
        8,
        (8, 8),
    )  # each image once; two train records share one


def run_folder(folder: Path, model: Any) -> Path:
    folder.mkdir()
    made = tiny.tokenizer(folder)
    config = Trainer.Config(model=model, precision="fp32")
    torch.manual_seed(0)
    write_weights(
        folder, config.model.build(vocab_size=made.vocab_size).state_dict()
    )
    write_json(folder / "config.json", configs.to_json(config))
    return folder


VIT = ViT.Config(image_size=8, patch_size=4, depth=1, dim=16, num_heads=2)
WRITER = LanguageModel.Config(
    decoder=Decoder.Config(depth=1, dim=16, num_heads=2, hidden_dim=16)
)


def write_captions(folder: Path) -> None:
    """Six train images, and as test images numbers 3 and 5 with a little noise."""
    rng = np.random.default_rng(0)
    pixels = {
        f"train{i}.png": rng.integers(20, 230, (8, 8, 3)) for i in range(6)
    }
    pixels |= {
        f"test{i}.png": pixels[f"train{i}.png"] + rng.integers(-3, 4, (8, 8, 3))
        for i in (3, 5)
    }
    (folder / "pictures").mkdir()
    for name, made in pixels.items():
        Pillow.fromarray(made.astype(np.uint8)).save(folder / "pictures" / name)
    for split, numbers in (("train", range(6)), ("test", (3, 5))):
        images = [{"id": i, "file_name": f"{split}{i}.png"} for i in numbers]
        captions = [
            {"image_id": i, "id": i, "caption": f"number {i}"} for i in numbers
        ]
        (folder / f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": captions})
        )


def test_shots_are_retrieved_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_captions(tmp_path)
    decoder = Decoder.Config(depth=1, dim=32, num_heads=2, hidden_dim=48)
    model = MM1.Config(
        encoder=VIT, connector=AveragePool.Config(num_tokens=4), decoder=decoder
    )
    run = run_folder(tmp_path / "run", model)
    vit = run_folder(tmp_path / "vit", Features.Config(encoder=VIT))
    options = {
        "annotations": tmp_path / "test.json",
        "images": tmp_path / "pictures",
        "train_annotations": tmp_path / "train.json",
        "retrieval": vit,
        "shots": "[2]",
        "max_tokens": 2,
    }
    overrides = [
        f"benchmarks.captions.{name}={value}" for name, value in options.items()
    ]
    command = [
        "mm1",
        "eval",
        str(run),
        "benchmarks.captions=mm1.eval.benchmarks.coco:Coco",
        *overrides,
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    lines = [
        json.loads(line)
        for line in (
            (run / "predictions" / "captions-2shot.jsonl")
            .read_text()
            .splitlines()
        )
    ]

    loaded, renderer, _ = load_model(vit, torch.device("cpu"))
    encoder = Encoder(loaded, renderer, torch.device("cpu"))

    def feature(name: str) -> torch.Tensor:
        return encoder.pooled(
            [Image((tmp_path / "pictures" / name).read_bytes(), 8, 8)]
        )[0]

    train = torch.stack([feature(f"train{i}.png") for i in range(6)])
    for i, line in zip((3, 5), lines, strict=True):
        near, second = (
            (train @ feature(f"test{i}.png"))
            .argsort(descending=True)[:2]
            .tolist()
        )
        assert near == i
        assert (
            line["prompt"]
            == f"<image>A photo of number {second}\n<image>A photo of number"
            f" {i}\n<image>A photo of"
        )


def test_unsuitable_retrieval_is_refused(tmp_path: Path) -> None:
    text = run_folder(tmp_path / "text", WRITER)
    with pytest.raises(
        ConfigError,
        match=r"retrieval=.*text is a run of LanguageModel, which has no image feat",
    ):
        Coco.Config(retrieval=str(text)).build().check(
            WRITER.build(vocab_size=40)
        )
    with pytest.raises(
        ConfigError,
        match="draws=2 with retrieval=runs/clip: retrieved shots are not random",
    ):
        Colours.Config(retrieval="runs/clip", draws=2).build()
    with pytest.raises(
        ConfigError, match="draws, retrieval, same_shots and chat do not go"
    ):
        Miniature.Config(task="new labels", retrieval="runs/clip").build()
    fact = Miniature.Config(task="fact", retrieval="runs/clip").build()
    fact.rices = Rices(MeanColour, "v1")  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match="retrieval=runs/clip: 0 has no image to compare"
    ):
        fact.prepare(1, lambda seen, total: None)  # type: ignore[attr-defined]
