"""Our views against the Pillow-backed image processors of transformers, before
normalisation.

Both resize in two passes and round to whole grey levels after each, torch with weights
of fewer bits: a pass may differ by one level, both together by two. Measured worst
case: 1 over the sizes below but for one of 2, and 2 over 600 random resizings.

Torch always begins with the rows, Pillow 13 with the cheaper pass. That shows where
values leave 0..255 between the passes and are cut off (by 12 levels on noise over the
full range), so the test pictures stay within 64..191.
"""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mm1.data.image_processing import ImageProcessor, pil_to_tensor

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # importing it takes seconds

TOLERANCE = 2
SIZES = [
    (64, 48),
    (48, 64),
    (97, 61),
    (33, 150),
    (20, 20),
    (24, 31),
    (300, 201),
]
"""Widths and heights: larger and smaller than the targets, odd margins among them."""


def noise(width: int, height: int) -> Pillow.Image:
    """Worse than any photograph for an interpolation."""
    return Pillow.fromarray(
        np.random.default_rng(width).integers(
            64, 192, (height, width, 3), dtype=np.uint8
        )
    )


def processed(processor: Any, image: Pillow.Image) -> torch.Tensor:
    made = processor(
        image, do_rescale=False, do_normalize=False, return_tensors="pt"
    )["pixel_values"]
    return made.reshape(-1, *made.shape[-3:]).int()


def worst(views: torch.Tensor, theirs: torch.Tensor) -> int:
    assert views.shape == theirs.shape
    return int((views.int() - theirs).abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("interpolation", "resample"), [("bicubic", 3), ("bilinear", 2)]
)
def test_crop_is_clips(
    size: tuple[int, int], interpolation: Any, resample: int
) -> None:
    from transformers.models.clip.image_processing_pil_clip import (
        CLIPImageProcessorPil,
    )

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        resample=resample,
    )
    views = ImageProcessor((24, 24), resize="crop", interpolation=interpolation)
    assert (
        worst(
            views(pil_to_tensor(noise(*size))),
            processed(processor, noise(*size)),
        )
        <= TOLERANCE
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("interpolation", "resample"), [("bicubic", 3), ("bilinear", 2)]
)
def test_squash_is_siglips(
    size: tuple[int, int], interpolation: Any, resample: int
) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import (
        SiglipImageProcessorPil,
    )

    processor = SiglipImageProcessorPil(
        size={"height": 24, "width": 36}, resample=resample
    )
    views = ImageProcessor((24, 36), interpolation=interpolation)
    assert (
        worst(
            views(pil_to_tensor(noise(*size))),
            processed(processor, noise(*size)),
        )
        <= TOLERANCE
    )


@pytest.mark.parametrize("size", SIZES)
def test_padded_tiles_are_those_of_llava_next(size: tuple[int, int]) -> None:
    """Its overview is squashed, so the tiles alone are compared; its margin is
    black."""
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    rows = 2
    columns = 3
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=[[rows * 24, columns * 24]],
        resample=3,
    )
    views = ImageProcessor(
        (24, 24), resize="pad", split="dynamic", min_tiles=6, max_tiles=6
    )
    tiles = views(pil_to_tensor(noise(*size)), (rows, columns))[
        : rows * columns
    ]
    assert worst(tiles, processed(processor, noise(*size))[1:]) <= TOLERANCE


def test_colours_are_read_alike() -> None:
    """Nothing is resized here: palettes, grey and plain pictures are equal to the last
    bit."""
    from transformers.models.siglip.image_processing_pil_siglip import (
        SiglipImageProcessorPil,
    )

    processor = SiglipImageProcessorPil(
        size={"height": 20, "width": 20}, do_convert_rgb=True
    )
    for mode in ("RGB", "L", "P"):
        image = noise(20, 20).convert(mode)
        assert (
            worst(pil_to_tensor(image)[None], processed(processor, image)) == 0
        )
