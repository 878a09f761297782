"""Encoded pictures -> uint8 views of an encoder's size. This file travels with exported
models.

An export carries it along as it is, and its image processor runs it where there is no
mm1: so it imports nothing but torch, numpy, Pillow and the standard library. (The line
that imports jaxtyping is left out there, and annotations are not evaluated.)

Fitting: a whole picture becomes a target of another shape in one of three ways, those
    of the encoder's own training.

    squash    both sides become the target's                                     DFN's CLIP, SigLIP
    crop      the target is covered and the middle cut out; the long side is     OpenAI's CLIP, DINOv2
              rounded down, an odd margin is smaller at the top and left
    pad       the picture is put whole into the middle of the target, on         LLaVA
              `fill`; the short side is rounded up, an odd margin is smaller at the top
              and left

Splitting: a large picture is also seen in tiles, cut from the picture fitted into a
    canvas of rows x columns views.

    square    an overview, then n x n tiles row by row (MM1, arXiv:2403.09611, section 5.1); nothing between them
    dynamic   the tiles of the grid that suits the picture's shape, row by row, then an overview (MM1.5,
              arXiv:2409.20566); of a document with `MANY` or more pictures to split
              none is

Resizing is torch's, antialiased, on uint8: it is within two grey levels of Pillow's and
several times faster.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded. Pillow knows more, some of which start other programs; bytes from
strangers do not reach those."""

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decoded (decompression bombs)."""

ELONGATED = 16
"""Of a picture that is more than so many times as long as wide, "crop" sees no more
than the middle of this shape."""

MANY = 3
"""So many pictures to split in a document, and "dynamic" splits none of them
(MM1.5)."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""


class Unreadable(ValueError):
    """Bytes that are no usable picture."""


def probe(data: bytes) -> tuple[int, int]:
    """(width, height) as a person sees it (EXIF rotation applied), from the header
    alone.

    Raises:
        Unreadable: the bytes are no picture, or an absurdly large one.
    """
    image = _open(data)
    turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else (image.width, image.height)


def decode(data: bytes) -> UInt8[Tensor, "3 height width"]:
    """The pixels of encoded bytes, as `pixels_of` gives them.

    It never lets the JPEG decoder give a smaller picture, which would be faster: pixels
    must not depend on whether a picture comes as bytes or decoded, and differed by up
    to 69 grey levels.

    Raises:
        Unreadable: the bytes are no picture, or a damaged one.
    """
    image = _open(data)
    try:
        return pixels_of(image)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        MemoryError,
    ) as error:
        raise Unreadable(f"damaged picture: {error}") from error


def pixels_of(image: Pillow.Image) -> UInt8[Tensor, "3 height width"]:
    """RGB, upright, transparency on white, the first frame of an animation, 16 bits
    reduced to 8."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # also of torch, about memory that only we hold and that nobody writes to
        image.load()  # a format may say after its pixels how a camera was held
        if (
            image.getexif().get(ORIENTATION, 1) != 1
        ):  # else a copy would be made for nothing
            image = ImageOps.exif_transpose(image)
        return torch.from_numpy(np.asarray(_rgb(image), dtype=np.uint8)).permute(
            2, 0, 1
        )


def _open(data: bytes) -> Pillow.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's bomb warning comes after our own, stricter check
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise Unreadable("not a picture in a known format") from error
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise Unreadable(f"unreadable picture: {error}") from error
    width, height = image.size
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise Unreadable(
            f"picture of {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all"
        )
    return image


def _rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        values /= 256 if values.max() > 255 else 1
        return Pillow.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        return Pillow.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(
    pixels: UInt8[Tensor, "3 height width"],
    size: tuple[int, int],
    interpolation: str = "bicubic",
) -> UInt8[Tensor, "3 H W"]:
    """Both sides become `size` (height, width); interpolation is "bicubic" or
    "bilinear"."""
    if tuple(pixels.shape[1:]) == size:
        return pixels.contiguous()
    one = pixels.permute(1, 2, 0)[None].permute(
        0, 3, 1, 2
    )  # strides by which torch sees colours side by side
    return F.interpolate(one, size=size, mode=interpolation, antialias=True)[0]


@dataclass(frozen=True, slots=True)
class Views:
    """How pictures become views of `size` (height, width).

    A picture is first given its grid, the (rows, columns) of its tiles, from its width
    and height alone; then its pixels are cut along it. A grid of 1 x 1 is one view of
    the whole picture, and every other has an overview.
    """

    size: tuple[int, int]
    resize: Literal["squash", "crop", "pad"] = "squash"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: tuple[int, int, int] = (0, 0, 0)
    """The colour around padded pictures: red, green, blue of 0..255."""
    split: Literal["square", "dynamic"] = "square"
    min_tiles: int = 1
    max_tiles: int = 1
    """1: pictures are not split."""
    split_last: int | None = None
    """Of a document's pictures only the last so many are split, as MM1 spares its
    shots; None: all may be."""
    index_tokens: bool = False
    """Does a text precede each view that says where it lies (see `index`)?"""

    def grid(
        self, width: int, height: int, num_pictures: int = 1, number: int = 1
    ) -> tuple[int, int]:
        """(rows, columns) of a picture of this size, `number` of a document of so many
        pictures, counted from 1."""
        if self.max_tiles == 1:
            return 1, 1
        rows, columns = self.grids(
            *(np.array([fact]) for fact in (width, height, num_pictures, number))
        )
        return int(rows[0]), int(columns[0])

    def grids(
        self,
        width: Int[np.ndarray, " images"],
        height: Int[np.ndarray, " images"],
        num_pictures: Int[np.ndarray, " images"],
        number: Int[np.ndarray, " images"],
    ) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"]]:
        """The rows and the columns of many pictures at once; each with the number of
        pictures in its document, and its place among them."""
        width = width.astype(np.int64)
        height = height.astype(np.int64)
        num_split = (
            num_pictures
            if self.split_last is None
            else np.minimum(num_pictures, self.split_last)
        )
        whole = number <= num_pictures - num_split
        if self.split == "square":
            rows = columns = self._side(width, height)
        else:
            rows, columns = self._suited(width, height)
            whole |= num_split >= MANY
        return np.where(whole, 1, rows), np.where(whole, 1, columns)

    def _side(
        self, width: Int[np.ndarray, " images"], height: Int[np.ndarray, " images"]
    ) -> Int[np.ndarray, " images"]:
        """The largest n of n x n tiles for which no picture is enlarged, within the
        limits."""
        down = height // self.size[0]
        across = width // self.size[1]
        fitting = (
            np.maximum(down, across)
            if self.resize == "pad"
            else np.minimum(down, across)
        )
        return np.clip(fitting, self.allowed()[0][0], self.allowed()[-1][0])

    def allowed(self) -> list[tuple[int, int]]:
        """The grids of `min_tiles` to `max_tiles` tiles; that of fewest tiles first, of
        equals that of fewest rows."""
        counts = range(self.min_tiles, self.max_tiles + 1)
        grids = [
            (rows, num // rows)
            for num in counts
            for rows in range(1, num + 1)
            if num % rows == 0
        ]
        return (
            grids
            if self.split == "dynamic"
            else [(rows, columns) for rows, columns in grids if rows == columns]
        )

    def _suited(
        self, width: Int[np.ndarray, " images"], height: Int[np.ndarray, " images"]
    ) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"]]:
        """MM1.5's rule, in whole numbers, so that it is the same everywhere.

        Each picture is thought as large as a grid's canvas can hold it. Of the grids
        that need not shrink it, the one with the least canvas left over; if all must,
        the one that shrinks it least. Of equals the first `allowed`.
        """
        h, w = self.size
        area = width * height
        least = np.full(area.shape, np.iinfo(np.int64).max)
        rows = np.ones_like(area)
        columns = np.ones_like(area)
        for down, across in self.allowed():
            scale = np.minimum(
                down * h * width, across * w * height
            )  # times `area`, as all that follows
            left_over = down * across * h * w * area - scale**2
            cost = np.where(
                scale >= area, left_over, np.iinfo(np.int64).max - 1 - scale
            )
            better = cost < least
            least = np.where(better, cost, least)
            rows = np.where(better, down, rows)
            columns = np.where(better, across, columns)
        return rows, columns

    def counts(
        self, rows: Int[np.ndarray, " images"], columns: Int[np.ndarray, " images"]
    ) -> Int[np.ndarray, " images"]:
        """How many views pictures with these grids give; see `cells`."""
        return np.where(rows * columns == 1, 1, rows * columns + 1)

    def cells(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Where in the picture its views lie, in their order: (row, column) of a tile
        from 1, (0, 0) the whole."""
        if grid == (1, 1):
            return [(0, 0)]
        tiles = [
            (row, column)
            for row in range(1, grid[0] + 1)
            for column in range(1, grid[1] + 1)
        ]
        return [(0, 0), *tiles] if self.split == "square" else [*tiles, (0, 0)]

    def index(self, number: int, cell: tuple[int, int]) -> str:
        """The text before a view of the document's picture `number`, counted from 1."""
        return f"({number},{cell[0]},{cell[1]})"

    def __call__(
        self, pixels: UInt8[Tensor, "3 height width"], grid: tuple[int, int] = (1, 1)
    ) -> UInt8[Tensor, "views 3 H W"]:
        """The views in the order of `cells`."""
        overview = self.fit(pixels, self.size)[None]
        if grid == (1, 1):
            return overview
        rows, columns = grid
        h, w = self.size
        canvas = self.fit(pixels, (rows * h, columns * w)).reshape(
            3, rows, h, columns, w
        )
        tiles = canvas.permute(1, 3, 0, 2, 4).reshape(rows * columns, 3, h, w)
        return torch.cat(
            [overview, tiles] if self.split == "square" else [tiles, overview]
        )

    def fit(
        self, pixels: UInt8[Tensor, "3 height width"], target: tuple[int, int]
    ) -> UInt8[Tensor, "3 H W"]:
        """The whole picture as a target (height, width): squashed, cropped or
        padded."""
        if self.resize == "squash":
            return resize(pixels, target, self.interpolation)
        height, width = pixels.shape[1:]
        h, w = target
        if self.resize == "crop":
            if max(height, width) > ELONGATED * min(
                height, width
            ):  # the part outside would be enlarged for nothing
                pixels = _middle(
                    pixels,
                    (min(height, ELONGATED * width), min(width, ELONGATED * height)),
                )
                height, width = pixels.shape[1:]
            covering = (
                (h, h * width // height)
                if h * width >= w * height
                else (w * height // width, w)
            )
            return _middle(resize(pixels, covering, self.interpolation), target)
        inside = (
            (h, -(-h * width // height))
            if h * width <= w * height
            else (-(-w * height // width), w)
        )
        canvas = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None].repeat(
            1, h, w
        )
        _middle(canvas, inside).copy_(resize(pixels, inside, self.interpolation))
        return canvas


def _middle(
    pixels: UInt8[Tensor, "3 height width"], size: tuple[int, int]
) -> UInt8[Tensor, "3 h w"]:
    """A window into the middle; an odd margin is smaller at the top and left."""
    top = (pixels.shape[1] - size[0]) // 2
    left = (pixels.shape[2] - size[1]) // 2
    return pixels[:, top : top + size[0], left : left + size[1]]
