"""Probes: what they can read from features, the choice of the penalty, and
reproducibility."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image as Pillow
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.eval.classes.folders import Folders
from mm1.eval.evaluate import evaluate
from mm1.eval.probe import (
    Classifier,
    Probe,
    fit_classifier,
    fit_with_best_penalty,
)
from mm1.infer.trained_model import TrainedModel
from mm1.nn.aim import AIM
from mm1.nn.vit import ViT

COLOURS = {"dark": 40, "light": 200}


def marked(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise of 9 patches and 6 channels; in one patch, marked by channel 4, the sign of
    channel 5 is the class."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(num, 9, 6, generator=draw)
    labels = torch.arange(num) % 2
    place = torch.randint(9, (num,), generator=draw)
    features[torch.arange(num), place, 4] = 6.0
    features[torch.arange(num), place, 5] = 2.0 - 4.0 * labels
    return features, labels


def accuracy(num_queries: int, penalty: float = 1e-3) -> float:
    features, labels = marked(150, 0)
    probe = fit_classifier(
        Classifier(features, 2, num_queries, seed=0), features, labels, penalty
    )
    asked, truth = marked(300, 1)
    return (probe(asked).argmax(-1) == truth).float().mean().item()


def test_a_linear_probe_reads_the_mean() -> None:
    """Measured: 0.75; the signal is 2/9, the noise 1/3 of a channel's unit."""
    assert accuracy(0) > 0.65


def test_an_attentive_probe_finds_the_patch() -> None:
    """Measured: 1.00."""
    assert accuracy(4) > 0.95


def test_the_linear_probe_solves_logistic_regression() -> None:
    """At the optimum the gradient vanishes."""
    features, labels = marked(200, 2)
    probe = fit_classifier(
        Classifier(features, 2, 0, seed=0), features, labels, 1e-2
    )
    loss = (
        torch.nn.functional.cross_entropy(probe(features), labels)
        + 1e-2 * probe.weight.square().sum()
    )
    for gradient in torch.autograd.grad(loss, [probe.weight, probe.bias]):
        assert gradient.abs().max() < 1e-4


def test_the_penalty_is_chosen_on_held_out_images() -> None:
    """With 40 channels of noise and 60 images, a tiny penalty overfits."""
    draw = torch.Generator().manual_seed(3)
    features = torch.randn(60, 1, 40, generator=draw)
    labels = torch.arange(60) % 2
    features[:, 0, 0] += 2.5 * labels
    settings = {"num_classes": 2, "num_queries": 0, "seed": 0}
    chosen = fit_with_best_penalty(
        features, labels, penalties=(1e-7, 1e-1), **settings
    )
    assert torch.equal(
        chosen.weight,
        fit_with_best_penalty(
            features, labels, penalties=(1e-1,), **settings
        ).weight,
    )


def folders(root: Path) -> Folders.Config:
    """Images of noise around two levels of grey, as train and test folders."""
    draw = np.random.default_rng(0)
    for split, num in (("train", 15), ("test", 8)):
        for name, level in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(num):
                noise = draw.integers(level - 30, level + 30, (8, 8, 3)).astype(
                    np.uint8
                )
                Pillow.fromarray(noise).save(root / split / name / f"{i}.png")
    return Folders.Config(test=str(root / "test"), train=str(root / "train"))


def trained(folder: Path) -> TrainedModel:
    torch.manual_seed(0)
    vit = ViT.Config(
        image_size=8,
        patch_size=4,
        depth=1,
        dim=16,
        num_heads=2,
        positions="fixed",
        bias=False,
    )
    model = (
        AIM.Config(encoder=vit, head_depth=1, head_dim=8)
        .build(vocab_size=9)
        .eval()
    )
    return TrainedModel(
        model,
        Renderer(tiny.tokenizer(folder), ImageProcessor((8, 8))),
        torch.device("cpu"),
    )


@pytest.mark.parametrize("kind", ["linear", "attentive"])
def test_classes_in_folders_are_separated_and_results_reproducible(
    kind: str, tmp_path: Path
) -> None:
    data = folders(tmp_path)
    scores = []
    for run in ("one", "two"):
        probe = Probe.Config(data=data, kind=kind, num_questions=12).build()  # type: ignore[arg-type]
        scores.append(
            evaluate(
                trained(tmp_path),
                {"grey": probe},
                (0, 4),
                tmp_path / run,
                version="1",
            )
        )
    assert scores[0] == scores[1]
    (result,) = scores[0]["grey"]["shots"].values()
    assert list(scores[0]["grey"]["shots"]) == ["30"]
    assert scores[0]["grey"]["chance"] == 0.5
    assert result["num_questions"] == 12
    assert result["score"] == 1
    lines = [
        (tmp_path / run / "predictions" / "grey-30shot.jsonl").read_text()
        for run in ("one", "two")
    ]
    assert lines[0] == lines[1]
    assert lines[0].count("\n") == 12


def test_too_few_images_or_no_penalties_are_errors(tmp_path: Path) -> None:
    data = folders(tmp_path)
    for file in list((tmp_path / "train").rglob("*.png"))[9:]:
        file.unlink()
    probe = Probe.Config(data=data).build()
    with pytest.raises(
        ConfigError, match="at least 10 train images, data has 9"
    ):
        probe.evaluate(trained(tmp_path), 9, lambda _: None)
    with pytest.raises(ConfigError, match="penalties is empty"):
        Probe.Config(data=data, penalties=()).build()
