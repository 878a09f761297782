"""Encoded pictures of noise for the tests of data."""

import io

import numpy as np
from PIL import Image as Pillow

from mm1.data.document import Image


def picture(width: int = 8, height: int = 8, *, kind: str = "PNG", mode: str = "RGB", **options: object) -> Image:
    rng = np.random.default_rng(width * 1000 + height)
    shape = {"L": (height, width), "RGBA": (height, width, 4)}.get(mode, (height, width, 3))
    made = Pillow.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode if mode in ("L", "RGBA") else None)
    buffer = io.BytesIO()
    made.convert(mode).save(buffer, kind, **options)
    return Image(buffer.getvalue(), width, height)
