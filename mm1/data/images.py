"""Encoded pictures -> uint8 views of the model's size: decode, resize, cut into sub-images.

A picture becomes one view, or, where it is large enough and the recipe allows it, an overview and n x n tiles (MM1,
section 5.1: a 1344 x 1344 image is seen as five images of 672 x 672):

    +---------+          overview     tiles, row by row
    |    |    |          +----+       +----+ +----+
    |----+----|    ->    |    |       | 1  | | 2  |  ...
    |    |    |          +----+       +----+ +----+
    +---------+

Pictures are resized to the target without regard to their aspect ratio ("squash", as DFN's ViT-H/14-378 was trained).
Resizing is torch's antialiased bicubic on uint8, which equals Pillow's to one grey level and is several times faster.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor

from mm1.config import UserError
from mm1.data.document import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded. Pillow knows more, some of which start other programs; bytes from strangers do not reach those."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded (decompression bombs)."""

Numbers = int | np.integer | np.ndarray
"""One number, or many at once."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""


class ImageError(UserError, ValueError):
    """Bytes that are no usable picture."""


def _open(data: bytes) -> Pillow.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning comes after our own, stricter check
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a known format") from error
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise ImageError(f"unreadable picture: {error}") from error
    width, height = image.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ImageError(f"picture of {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all")
    return image


def probe(data: bytes) -> tuple[int, int]:
    """(width, height) as a person sees it (EXIF rotation applied), from the header alone.

    Raises:
        ImageError: the bytes are no picture, or an absurdly large one.
    """
    image = _open(data)
    turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else (image.width, image.height)


def decode(data: bytes, *, at_least: tuple[int, int] | None = None) -> UInt8[Tensor, "3 height width"]:
    """The pixels: RGB, upright, transparency on white, the first frame of an animation, 16 bits reduced to 8.

    `at_least` (height, width) allows the JPEG decoder to give a smaller picture that still covers it.

    Raises:
        ImageError: the bytes are damaged.
    """
    image = _open(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if at_least and image.format == "JPEG":
                image.draft("RGB", (max(at_least), max(at_least)))
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.asarray(_rgb(image), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        raise ImageError(f"damaged picture: {error}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        values /= 256 if values.max() > 255 else 1
        return Pillow.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        return Pillow.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def resize(pixels: UInt8[Tensor, "3 height width"], size: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    if tuple(pixels.shape[1:]) == size:
        return pixels.contiguous()
    return F.interpolate(pixels[None], size=size, mode="bicubic", antialias=True)[0]


@dataclass(frozen=True, slots=True)
class Views:
    """How pictures become views of `size` (height, width).

    With `max_tiles` of n * n or more, a picture whose sides are both at least n times the size gives 1 + n * n views:
    the overview first, then the tiles row by row, nothing between them. Otherwise it gives the overview alone.
    """

    size: tuple[int, int]
    max_tiles: int = 1
    resize: Literal["squash", "crop", "pad"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def tiles_per_side(self, width: Numbers, height: Numbers) -> Numbers:
        """n of n x n tiles for pictures of these sizes; elementwise over arrays."""
        fitting = np.minimum(np.asarray(height) // self.size[0], np.asarray(width) // self.size[1])
        return np.clip(fitting, 1, int(self.max_tiles**0.5))

    def count(self, width: Numbers, height: Numbers) -> Numbers:
        """Views that pictures of these sizes give; elementwise over arrays."""
        n = self.tiles_per_side(width, height)
        return np.where(n == 1, 1, 1 + n * n)

    def __call__(self, image: Image) -> UInt8[Tensor, "views 3 H W"]:
        n, (rows, columns) = int(self.tiles_per_side(image.width, image.height)), self.size
        pixels = decode(image.data, at_least=(n * rows, n * columns))
        overview = resize(pixels, self.size)[None]
        if n == 1:
            return overview
        whole = resize(pixels, (n * rows, n * columns))
        tiles = whole.view(3, n, rows, n, columns).permute(1, 3, 0, 2, 4).reshape(n * n, 3, rows, columns)
        return torch.cat([overview, tiles])
