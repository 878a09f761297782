"""Does AIM learn useful features? Probes on its miniature, on the same encoder
untrained, and on pixels.

    python benchmarks/aim.py --out runs/aim --seeds 0 1 2 [--threads 1] [a.b=value ...]

Each seed trains `miniature_aim` and, for comparison, the same recipe with
UNTRAINED. The probes are those of the recipe: classes of the miniature world. Runs that
are finished in the folder are not trained again. Prints a table of means over seeds
with their standard error; for pixels the standard error is over test images.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.eval.evaluate import evaluate
from mm1.infer.trained_model import TrainedModel
from mm1.miniature.aim import miniature_aim
from mm1.miniature.world.prepared import prepare_world
from mm1.overrides import override

UNTRAINED = ["steps=1", "optimizer.peak_lr=1e-12"]
"""The weights of the start, but for one step too small to matter."""


class Pixels(nn.Module):
    """An encoder that returns all pixels as one patch."""

    def encode_patches(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, None] / 255


def probe_scores(folder: Path) -> dict[str, tuple[float, float]]:
    """Probe -> accuracy and its standard error over test images."""
    scores = json.loads((folder / "scores.json").read_text())
    results = {
        name: next(iter(result["shots"].values()))
        for name, result in scores.items()
    }
    return {
        name: (result["score"], result["stderr"])
        for name, result in results.items()
    }


def run(
    out: Path, world: str, seed: int, overrides: list[str]
) -> dict[str, tuple[float, float]]:
    if not (out / "scores.json").exists():
        config = miniature_aim(world)
        config.seed = seed
        for each in overrides:
            override(config, each)
        config.build(folder=out, resume=(out / "config.json").exists()).fit()
    return probe_scores(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/aim"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("overrides", nargs="*", metavar="a.b=value")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prepare_world(arguments.out / "world")

    columns: dict[str, list[dict[str, tuple[float, float]]]] = {
        "AIM": [],
        "untrained": [],
    }
    for seed in arguments.seeds:
        for name, more in (("AIM", []), ("untrained", UNTRAINED)):
            folder = arguments.out / f"{name.lower()}-{seed}"
            columns[name].append(
                run(
                    folder,
                    str(arguments.out),
                    seed,
                    [*arguments.overrides, *more],
                )
            )
    recipe = miniature_aim()
    probes = {
        name: config.build()
        for name, config in recipe.benchmarks.items()
        if "attentive" not in name
    }
    size = (recipe.model.encoder.image_size,) * 2
    words = Tokenizer.Config(
        path=str(arguments.out / "world" / "tokenizer.json")
    ).build()
    pixels = TrainedModel(
        Pixels(), Renderer(words, ImageProcessor(size)), torch.device("cpu")
    )  # type: ignore[arg-type]
    evaluate(pixels, probes, (), arguments.out / "pixels", version="pixels")
    of_pixels = probe_scores(arguments.out / "pixels")

    print("| probe | AIM | untrained | pixels |\n|---|---|---|---|")
    for probe in columns["AIM"][0]:
        cells = []
        for seeds in columns.values():
            values = np.array([results[probe][0] for results in seeds])
            error = (
                f" +- {values.std(ddof=1) / len(values) ** 0.5:.3f}"
                if len(values) > 1
                else ""
            )
            cells.append(f"{values.mean():.3f}{error}")
        cells.append(
            "{:.3f} +- {:.3f}".format(*of_pixels[probe])
            if probe in of_pixels
            else ""
        )
        print(f"| {probe} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
