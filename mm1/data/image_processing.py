"""Encoded images -> uint8 sub-images of the encoder's input size.

An exported model ships a copy of this file (see `mm1.export.remote_code`), so that its
processor computes exactly the pixels of training. It may therefore import nothing but
torch, numpy, Pillow, the standard library and `image_decoding`.

Resizing: how a whole image becomes a target of another aspect ratio.

    squash    resize both sides to the target (DFN's CLIP, SigLIP)
    crop      cover the target and cut out the centre (OpenAI's CLIP, DINOv2); the long
              side is rounded down, an odd margin is smaller at the top and left
    pad       fit the image inside the target, centred on `fill` (LLaVA); the short side
              is rounded up, an odd margin is smaller at the top and left

Splitting: a large image is also encoded in tiles, cut from the image resized to
rows x columns times the encoder's size. Overview and tiles are its sub-images.

    square    an overview, then n x n tiles in row-major order, nothing between them
              (MM1, arXiv:2403.09611, section 5.1)
    dynamic   the tiles of the grid that suits the aspect ratio, in row-major order,
              then an overview (MM1.5, arXiv:2409.20566); no image is split in a
              document that has `DYNAMIC_SPLIT_LIMIT` or more to split

torch resizes uint8 with antialiasing: within two grey levels of Pillow and several
times as fast.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from PIL import Image as Pillow
from PIL import ImageOps
from torch import Tensor

from mm1.data.image_decoding import (
    EXIF_ORIENTATION,
    ImageError,
    open_image,
    rgb_pixels,
    upright,
    upright_size,
)

MAX_CROP_RATIO = 16
"""Of an image with a larger aspect ratio, "crop" keeps no more than the centre of this
ratio."""

DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    MemoryError,
)
"""What decoders raise for damaged images."""

DYNAMIC_SPLIT_LIMIT = 3
"""With this many images to split in a document, "dynamic" splits none (MM1.5)."""


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) after EXIF rotation, read from the header alone but where the
    orientation may follow the pixels.

    Raises:
        ImageError: the bytes are not an image, a damaged one, or it is too large.
    """
    image = open_image(data)
    try:
        return upright_size(image)
    except DAMAGE as error:
        raise ImageError(f"damaged image: {error}") from error


def decode_image(data: bytes) -> UInt8[Tensor, "3 height width"]:
    """The pixels of encoded bytes, as `pil_to_tensor` returns them.

    JPEGs are always decoded at full size. Pillow's draft mode is faster, but its pixels
    differ by up to 69 grey levels, and must not depend on whether an image arrives
    encoded or decoded.

    Raises:
        ImageError: the bytes are not an image, or a damaged one.
    """
    image = open_image(data)
    try:
        return pil_to_tensor(upright(image))
    except DAMAGE as error:
        raise ImageError(f"damaged image: {error}") from error


def pil_to_tensor(image: Pillow.Image) -> UInt8[Tensor, "3 height width"]:
    """RGB, upright, transparency on white, first frame of an animation, more than 8
    bits reduced to 8 (`rgb_pixels`)."""
    with warnings.catch_warnings():
        # torch also warns of read-only memory, which nobody else holds here
        warnings.simplefilter("ignore")
        image.load()  # some formats store the orientation after the pixels
        if image.getexif().get(EXIF_ORIENTATION, 1) != 1:  # avoids a copy
            image = ImageOps.exif_transpose(image)
        return torch.from_numpy(rgb_pixels(image)).permute(2, 0, 1)


def resize(
    pixels: UInt8[Tensor, "3 height width"],
    size: tuple[int, int],
    interpolation: str = "bicubic",
) -> UInt8[Tensor, "3 H W"]:
    """Resizes to `size` (height, width); interpolation is "bicubic" or "bilinear"."""
    if tuple(pixels.shape[1:]) == size:
        return pixels.contiguous()
    # strides that torch recognises as channels-last
    channels_last = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(
        channels_last, size=size, mode=interpolation, antialias=True
    )[0]


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Turns images into sub-images of `size` (height, width).

    An image's grid, the (rows, columns) of its tiles, follows from its width and height
    alone, so that token counts are known without decoding. A 1 x 1 grid is one
    sub-image, the whole image; any other has an overview besides its tiles.
    """

    size: tuple[int, int]
    resize: Literal["squash", "crop", "pad"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: tuple[int, int, int] = (0, 0, 0)
    """Colour around padded images: red, green, blue in 0..255."""
    split: Literal["square", "dynamic"] = "square"
    min_tiles: int = 1
    max_tiles: int = 1
    """1: images are not split."""
    split_last: int | None = None
    """Split only the last so many images of a document, as MM1 does in few-shot
    prompts; None: all may be split."""
    index_tokens: bool = False
    """Put a text before each sub-image that says where it lies (see `index_text`)."""

    def choose_grid(
        self, width: int, height: int, num_images: int = 1, number: int = 1
    ) -> tuple[int, int]:
        """(rows, columns) of one image: `number`, counted from 1, of a document's
        `num_images`."""
        if self.max_tiles == 1:
            return 1, 1
        rows, columns = self.choose_grids(
            *(
                np.array([value])
                for value in (width, height, num_images, number)
            )
        )
        return int(rows[0]), int(columns[0])

    def choose_grids(
        self,
        width: Int[np.ndarray, " images"],
        height: Int[np.ndarray, " images"],
        num_images: Int[np.ndarray, " images"],
        number: Int[np.ndarray, " images"],
    ) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"]]:
        """`choose_grid` for many images at once: their rows and their columns."""
        width = width.astype(np.int64)
        height = height.astype(np.int64)
        num_split = (
            num_images
            if self.split_last is None
            else np.minimum(num_images, self.split_last)
        )
        whole = number <= num_images - num_split
        if self.split == "square":
            rows = columns = self._square_side(width, height)
        else:
            rows, columns = self._best_grids(width, height)
            whole |= num_split >= DYNAMIC_SPLIT_LIMIT
        return np.where(whole, 1, rows), np.where(whole, 1, columns)

    def _square_side(
        self,
        width: Int[np.ndarray, " images"],
        height: Int[np.ndarray, " images"],
    ) -> Int[np.ndarray, " images"]:
        """The largest n of n x n tiles that does not enlarge the image, within the
        limits."""
        rows = height // self.size[0]
        columns = width // self.size[1]
        side = (
            np.maximum(rows, columns)
            if self.resize == "pad"
            else np.minimum(rows, columns)
        )
        grids = self.allowed_grids()
        return np.clip(side, grids[0][0], grids[-1][0])

    def allowed_grids(self) -> list[tuple[int, int]]:
        """Grids of `min_tiles` to `max_tiles` tiles, by number of tiles, then of
        rows."""
        grids = [
            (rows, num_tiles // rows)
            for num_tiles in range(self.min_tiles, self.max_tiles + 1)
            for rows in range(1, num_tiles + 1)
            if num_tiles % rows == 0
        ]
        if self.split == "dynamic":
            return grids
        return [(rows, columns) for rows, columns in grids if rows == columns]

    def _best_grids(
        self,
        width: Int[np.ndarray, " images"],
        height: Int[np.ndarray, " images"],
    ) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"]]:
        """MM1.5's rule in integers, so that it gives the same result on any machine.

        Each image is scaled to fit inside each grid's canvas. Of the grids that do not
        shrink it, take the one that leaves the least canvas empty; if all do, the one
        that shrinks it least. Ties go to the first of `allowed_grids`.
        """
        h, w = self.size
        area = width * height
        lowest = np.full(area.shape, np.iinfo(np.int64).max)
        best_rows = np.ones_like(area)
        best_columns = np.ones_like(area)
        for rows, columns in self.allowed_grids():
            # this and all that follows is scaled by `area`
            scale = np.minimum(rows * h * width, columns * w * height)
            empty = rows * columns * h * w * area - scale**2
            cost = np.where(
                scale >= area, empty, np.iinfo(np.int64).max - 1 - scale
            )
            better = cost < lowest
            lowest = np.where(better, cost, lowest)
            best_rows = np.where(better, rows, best_rows)
            best_columns = np.where(better, columns, best_columns)
        return best_rows, best_columns

    def num_sub_images(
        self,
        rows: Int[np.ndarray, " images"],
        columns: Int[np.ndarray, " images"],
    ) -> Int[np.ndarray, " images"]:
        """Sub-images of images with these grids; the length of `positions`."""
        return np.where(rows * columns == 1, 1, rows * columns + 1)

    def positions(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Where the sub-images lie, in their order: (row, column) of a tile, counted
        from 1; (0, 0) is the whole image."""
        if grid == (1, 1):
            return [(0, 0)]
        tiles = [
            (row, column)
            for row in range(1, grid[0] + 1)
            for column in range(1, grid[1] + 1)
        ]
        return [(0, 0), *tiles] if self.split == "square" else [*tiles, (0, 0)]

    def index_text(self, number: int, position: tuple[int, int]) -> str:
        """The text before a sub-image of the document's image `number`, counted from
        1."""
        return f"({number},{position[0]},{position[1]})"

    def __call__(
        self,
        pixels: UInt8[Tensor, "3 height width"],
        grid: tuple[int, int] = (1, 1),
    ) -> UInt8[Tensor, "sub_images 3 H W"]:
        """The sub-images in the order of `positions`."""
        overview = self.fit(pixels, self.size)[None]
        if grid == (1, 1):
            return overview
        rows, columns = grid
        h, w = self.size
        canvas = self.fit(pixels, (rows * h, columns * w))
        canvas = canvas.reshape(3, rows, h, columns, w)
        tiles = canvas.permute(1, 3, 0, 2, 4).reshape(rows * columns, 3, h, w)
        return torch.cat(
            [overview, tiles] if self.split == "square" else [tiles, overview]
        )

    def fit(
        self, pixels: UInt8[Tensor, "3 height width"], target: tuple[int, int]
    ) -> UInt8[Tensor, "3 H W"]:
        """The image squashed, cropped or padded to a target (height, width)."""
        if self.resize == "squash":
            return resize(pixels, target, self.interpolation)
        return (
            self._crop(pixels, target)
            if self.resize == "crop"
            else self._pad(pixels, target)
        )

    def _crop(
        self, pixels: UInt8[Tensor, "3 height width"], target: tuple[int, int]
    ) -> UInt8[Tensor, "3 H W"]:
        height, width = pixels.shape[1:]
        h, w = target
        if max(height, width) > MAX_CROP_RATIO * min(height, width):
            # the ends would be enlarged only to be cut off
            height = min(height, MAX_CROP_RATIO * width)
            width = min(width, MAX_CROP_RATIO * height)
            pixels = _center(pixels, (height, width))
        size = (
            (h, h * width // height)
            if h * width >= w * height
            else (w * height // width, w)
        )
        return _center(resize(pixels, size, self.interpolation), target)

    def _pad(
        self, pixels: UInt8[Tensor, "3 height width"], target: tuple[int, int]
    ) -> UInt8[Tensor, "3 H W"]:
        height, width = pixels.shape[1:]
        h, w = target
        size = (
            (h, -(-h * width // height))
            if h * width <= w * height
            else (-(-w * height // width), w)
        )
        colour = torch.tensor(self.fill, dtype=torch.uint8)
        canvas = colour[:, None, None].repeat(1, h, w)
        _center(canvas, size).copy_(resize(pixels, size, self.interpolation))
        return canvas


def _center(
    pixels: UInt8[Tensor, "3 height width"], size: tuple[int, int]
) -> UInt8[Tensor, "3 h w"]:
    """A central crop, as a view; an odd margin is smaller at the top and left."""
    top = (pixels.shape[1] - size[0]) // 2
    left = (pixels.shape[2] - size[1]) // 2
    return pixels[:, top : top + size[0], left : left + size[1]]
