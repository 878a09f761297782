"""Image options that contradict one another are refused before anything is read, with
the option and the remedy named."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor
from mm1.infer.trained_model import make_renderer
from mm1.loader.packed import PackedLoader
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT


def refused(
    folder: Path,
    *,
    loader: dict[str, Any],
    encoder: dict[str, Any] | None = None,
) -> str:
    tokenizer = tiny.tokenizer(folder)
    with torch.device("meta"):
        config = MM1.Config(
            encoder=ViT.Config(
                image_size=28, depth=1, dim=16, num_heads=2, **(encoder or {})
            )
        )
        model = config.build(vocab_size=tokenizer.vocab_size)
    with pytest.raises(ConfigError) as error:
        PackedLoader.Config(**loader).build(
            renderer=make_renderer(
                model, tokenizer, PackedLoader.Config(**loader)
            ),
            seed=0,
        )
    return str(error.value)


def test_a_dynamic_grid_of_cropped_pictures(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        loader={"split": "dynamic", "max_tiles": 4},
        encoder={"resize": "crop"},
    )
    assert "loader.split=dynamic" in said
    assert "set loader.resize=pad (or squash), or loader.split=square" in said
    mended = PackedLoader.Config(split="dynamic", max_tiles=4, resize="pad")
    assert (
        mended.image_processor(ImageProcessor((28, 28), resize="crop")).resize
        == "pad"
    )


def test_no_last_picture(tmp_path: Path) -> None:
    assert "loader.split_last=0" in refused(
        tmp_path, loader={"max_tiles": 4, "split_last": 0}
    )


def test_squares_that_no_number_of_tiles_allows(tmp_path: Path) -> None:
    said = refused(tmp_path, loader={"min_tiles": 5, "max_tiles": 8})
    assert (
        "none of them within loader.min_tiles=5 and loader.max_tiles=8" in said
    )
    assert "loader.split=dynamic" in said


@pytest.mark.parametrize(("low", "high"), [(0, 4), (5, 4), (1, 0)])
def test_limits_that_leave_nothing(tmp_path: Path, low: int, high: int) -> None:
    said = refused(
        tmp_path,
        loader={"split": "dynamic", "min_tiles": low, "max_tiles": high},
    )
    assert f"loader.min_tiles={low} and loader.max_tiles={high}" in said


def test_images_of_more_sub_images_than_a_row_holds(tmp_path: Path) -> None:
    """MM1.5's 16 tiles and an overview do not fit MM1's rows of 16 images."""
    said = refused(
        tmp_path, loader={"split": "dynamic", "min_tiles": 4, "max_tiles": 16}
    )
    assert (
        "17 sub-images with 144 tokens each, which do not fit a row of"
        " loader.max_images=16" in said
    )
    said = refused(tmp_path, loader={"max_tiles": 4, "sequence_length": 512})
    assert "5 sub-images with 144 tokens each" in said
    assert "loader.sequence_length=512" in said


def test_an_image_size_that_is_no_multiple_of_the_patch() -> None:
    with pytest.raises(
        ConfigError,
        match=r"encoder\.image_size of 670 x 670.*658 x 658 or 672 x 672",
    ):
        ViT.Config(image_size=670, patch_size=14).build()
