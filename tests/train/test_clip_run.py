"""Runs of CLIP: zero-shot classification at their end, and a second run at a higher
resolution."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import contrastive, make_world

from mm1.catalog import recipe
from mm1.config import ConfigError
from mm1.eval.evaluate import evaluate_run
from mm1.eval.zero_shot_classification import ZeroShotClassification
from mm1.miniature.benchmarks import Miniature
from mm1.miniature.classes import MiniatureClasses
from mm1.nn.position import interpolate
from mm1.runs.description import read_config
from mm1.runs.weights import load_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_run_is_measured_and_a_second_one_goes_on_at_another_resolution(
    world: Path, tmp_path: Path, loss: str
) -> None:
    benchmark = ZeroShotClassification.Config(
        data=MiniatureClasses.Config(num_test=6)
    )
    config: Any = contrastive(world, steps=2, benchmarks={"digit": benchmark})
    config.model.loss = loss
    config.build(folder=tmp_path / "first").fit()
    scores = json.loads((tmp_path / "first" / "scores.json").read_text())
    assert scores["digit"]["shots"]["0"]["num_questions"] == 6
    assert (
        evaluate_run(tmp_path / "first", read_config(tmp_path / "first"))
        == scores
    )

    finer = replace(
        config,
        init=dict.fromkeys(
            ("encoder", "text", "projection"), str(tmp_path / "first")
        ),
    )
    finer.model.encoder.image_size = 12
    run = finer.build(folder=tmp_path / "second")
    begun = run.model.state_dict()
    before = load_model(tmp_path / "first", torch.device("cpu"))[0].state_dict()
    assert begun.keys() == before.keys()
    for name, weight in begun.items():
        wanted = (
            interpolate(before[name], (3, 3))
            if name == "encoder.position"
            else before[name]
        )
        assert torch.equal(weight.full_tensor().cpu(), wanted), name
    run.fit()
    assert (tmp_path / "second" / "scores.json").is_file()


def test_questions_to_a_language_model_are_refused_before_training(
    world: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match="Miniature needs a language model; a run of CLIP does not train one",
    ):
        contrastive(world, benchmarks={"digit": Miniature.Config()}).build(
            folder=tmp_path / "run"
        )


@pytest.mark.parametrize(
    ("finer", "coarse", "mm1"),
    [("l14_336", "l14_224", "ablation_base"), ("h14_378", "h14_224", "3b")],
)
def test_resolution_steps_lead_from_one_recipe_to_mm1s_encoder(
    finer: str, coarse: str, mm1: str
) -> None:
    """Same model but for its images; where it ends, a pre-training recipe can begin."""
    step: Any = recipe(f"clip_{finer}")
    assert set(step.init.values()) == {f"runs/clip_{coarse}"}
    pretraining: Any = recipe(f"pretrain_{mm1}")
    assert step.model.encoder == pretraining.model.encoder
    step.model.encoder.image_size = 224
    assert step.model == recipe(f"clip_{coarse}").model
