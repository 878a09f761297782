"""From pre-training to fine-tuning at another resolution, with pictures split:
positions, plans, training, answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import picture
from safetensors.torch import load_file
from worlds import make_world, pretrain

from mm1.data.document import Document, Text
from mm1.infer.predictor import Predictor
from mm1.nn.position import interpolate
from mm1.runs.weights import load_model

pytestmark = pytest.mark.slow

FROM_PRETRAINED = ("encoder", "connector", "decoder")


def fit(config: Any, folder: Path) -> Path:
    config.build(folder=folder).fit()
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pretrained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(
        pretrain(world, steps=1), tmp_path_factory.mktemp("runs") / "pretrained"
    )


@pytest.mark.parametrize(
    ("split", "grid"), [("square", (2, 2)), ("dynamic", (2, 3))]
)
def test_a_pretrained_model_is_tuned_at_another_resolution(
    world: Path,
    pretrained: Path,
    tmp_path: Path,
    split: str,
    grid: tuple[int, int],
) -> None:
    config: Any = pretrain(
        world,
        steps=2,
        init=dict.fromkeys(FROM_PRETRAINED, str(pretrained)),
        frozen=("encoder",),
    )
    config.model.encoder.image_size = 16
    config.model.encoder.resize = "pad"
    config.loader.split = split
    config.loader.min_tiles = 4
    config.loader.max_tiles = 6
    config.loader.max_images = 16
    folder = fit(config, tmp_path / "tuned")

    old, new = (
        load_file(run / "model.safetensors")["encoder.position"]
        for run in (pretrained, folder)
    )
    assert torch.equal(
        new, interpolate(old, (4, 4))
    )  # the encoder was frozen: what it has is what it was given
    assert old.shape == (2, 2, 16)
    lines = [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    views = grid[0] * grid[1] + 1
    images = sum(line.get("images", 0) for line in lines)
    assert images > 0
    assert (
        images % views == 0
    )  # pages and captions have one picture each, all of one shape: 12 x 9

    model, renderer, _ = load_model(folder, torch.device("cpu"))
    prompt = Document((picture(12, 9), Text("picture number")))
    sequence = renderer(prompt, end=False)
    assert sequence.grids == (grid,)
    assert (sequence.tokens == renderer.tokenizer.image).sum() == 4 * views
    answers = Predictor(model, renderer, torch.device("cpu")).generate(
        [prompt], max_tokens=3
    )
    assert len(answers) == 1
