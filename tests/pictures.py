"""Encoded pictures of noise for the tests of data."""

import io
import random

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from mm1.data.document import Image


def picture(
    width: int = 8,
    height: int = 8,
    *,
    kind: str = "PNG",
    mode: str = "RGB",
    **options: object,
) -> Image:
    rng = np.random.default_rng(width * 1000 + height)
    shape = {"L": (height, width), "RGBA": (height, width, 4)}.get(
        mode, (height, width, 3)
    )
    made = Pillow.fromarray(
        rng.integers(0, 256, shape, dtype=np.uint8),
        mode if mode in ("L", "RGBA") else None,
    )
    buffer = io.BytesIO()
    made.convert(mode).save(buffer, kind, **options)
    return Image(buffer.getvalue(), width, height)


def png(colour: str, rng: random.Random, size: int = 64) -> bytes:
    """A small scene: one shape of the colour on grey."""
    image = Pillow.new("RGB", (size, size), (40, 42, 48))
    x, y, r = (
        round(rng.uniform(low, high) * size)
        for low, high in ((0.25, 0.75), (0.25, 0.75), (0.1, 0.24))
    )
    draw = ImageDraw.Draw(image)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(
        (x - r, y - r, x + r, y + r), fill=colour
    )
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
