"""What there is to see in the miniature world, and how it is drawn.

An image shows one scene on a dark square of cells:

    Objects              Pair           Word           Digit
    1 to 4 alike:        two, next to   printed in     handwritten:
    two large red ring   each other     capitals       scikit-learn's scans
    +----+----+          +----+----+    +---------+    +----+----+
    | O  |    |          | O  | #  |    |  C A T  |    |    |  7 |
    +----+----+          +----+----+    +---------+    +----+----+
    |    |  O |          |    |    |    |         |    |    |    |
    +----+----+          +----+----+    +---------+    +----+----+

    Four     one object in each of 2 x 2 cells

The more cells an image has, the smaller is what it shows:

    near   2 x 2    48 px    as in pre-training
    wide   3 x 3    72 px    legible at a higher resolution than pre-training's
    far    6 x 6   144 px    legible only in its quarters, of 3 x 3 cells each

Test scenes never occur in training: their combinations of attributes are reserved for
tests (`is_test_scene`), and so are the scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from mm1.extras import needs_extra

Split: TypeAlias = Literal["train", "test"]
Rgb: TypeAlias = tuple[int, int, int]
Position: TypeAlias = tuple[int | float, int | float]
"""Row and column, in cells."""

COLOURS: dict[str, Rgb] = {
    "red": (232, 52, 46),
    "green": (44, 186, 72),
    "blue": (64, 112, 250),
    "yellow": (250, 212, 40),
    "pink": (250, 120, 196),
    "white": (244, 244, 244),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
)
COUNTS = NUMBERS[1:5]
RELATIONS = ("left", "right", "above", "below")
WORDS = ("cat", "dog", "sun", "cup", "key", "map", "bed", "fox")

GRIDS = {"near": 2, "wide": 3, "far": 6}
"""Cells a side."""
CELL = 24
"""Pixels a side of a cell."""
TILE = 3
"""Cells a side of a tile of a far image; nothing crosses the border of a tile."""
WIDTHS = {"small": (9, 11), "large": (18, 20)}
PAIR_WIDTHS = (17, 19)
DIGIT_WIDTHS = (20, 22)
LETTER_PIXEL = 4
NUM_TRAIN_SCANS = 1297
"""Of scikit-learn's 1,797 scans of digits; the other 500 are for tests. The writers are
not known."""

FONT = {
    "a": "010101111101101", "b": "110101110101110", "c": "011100100100011",
    "d": "110101101101110", "e": "111100110100111", "f": "111100110100100",
    "g": "011100101101011", "k": "101101110101101", "m": "101111111101101",
    "n": "110101101101101", "o": "010101101101010", "p": "110101110100100",
    "s": "011100010001110", "t": "111010010010010", "u": "101101101101111",
    "x": "101101010101101", "y": "101101010010010",
}  # fmt: skip
"""Letters as 5 rows of 3 pixels."""


@dataclass(frozen=True, slots=True)
class Objects:
    count: str
    size: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The first object is `relation` (left, above ...) of the second."""

    colour: str
    shape: str
    relation: str
    other_colour: str
    other_shape: str


@dataclass(frozen=True, slots=True)
class Word:
    word: str
    colour: str


@dataclass(frozen=True, slots=True)
class Digit:
    digit: str
    colour: str
    scan: int
    """Index of the scan in scikit-learn's digits."""


@dataclass(frozen=True, slots=True)
class Four:
    """One object in each cell of a near image, in reading order."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]


Scene: TypeAlias = Objects | Pair | Word | Digit | Four


def is_test_scene(scene: Scene) -> bool:
    """Whether this combination of attributes is reserved for tests.

    About a fifth are, chosen so that every value of an attribute occurs in both splits.
    """
    if isinstance(scene, Four):
        colours = sum(
            (cell + 1) * list(COLOURS).index(colour)
            for cell, colour in enumerate(scene.colours)
        )
        return (colours + sum(map(SHAPES.index, scene.shapes))) % 5 == 0
    colour = list(COLOURS).index(scene.colour)
    match scene:
        case Objects():
            count = COUNTS.index(scene.count)
            size = SIZES.index(scene.size)
            shape = SHAPES.index(scene.shape)
            return (count + 2 * size + colour + shape) % 5 == 0
        case Pair():
            shapes = SHAPES.index(scene.shape) + 2 * SHAPES.index(
                scene.other_shape
            )
            return (shapes + colour + RELATIONS.index(scene.relation)) % 5 == 0
        case Word():
            return (WORDS.index(scene.word) + colour) % 6 == 0
        case Digit():
            return scene.scan >= NUM_TRAIN_SCANS


def draw(scene: Scene, grid: int, rng: np.random.Generator) -> Pillow.Image:
    """Draws the scene on `grid` x `grid` cells, with random positions, shades and
    angles."""
    shade = int(rng.integers(12, 44))
    image = Pillow.new(
        "RGB", (grid * CELL, grid * CELL), (shade, shade, shade + 6)
    )
    if isinstance(scene, Four):
        for cell, (colour, shape) in enumerate(
            zip(scene.colours, scene.shapes, strict=True)
        ):
            stencil = _stencil(
                shape, int(rng.integers(*PAIR_WIDTHS, endpoint=True))
            )
            _paste(
                image,
                stencil,
                _ink(colour, rng),
                divmod(cell, GRIDS["near"]),
                rng,
            )
        return image
    ink = _ink(scene.colour, rng)
    match scene:
        case Objects():
            width = int(rng.integers(*WIDTHS[scene.size], endpoint=True))
            for cell in rng.permutation(grid * grid)[
                : COUNTS.index(scene.count) + 1
            ]:
                _paste(
                    image,
                    _stencil(scene.shape, width),
                    ink,
                    divmod(int(cell), grid),
                    rng,
                )
        case Pair():
            first, second = _pair_cells(scene.relation, grid, rng)
            width = int(rng.integers(*PAIR_WIDTHS, endpoint=True))
            _paste(image, _stencil(scene.shape, width), ink, first, rng)
            _paste(
                image,
                _stencil(scene.other_shape, width),
                _ink(scene.other_colour, rng),
                second,
                rng,
            )
        case Word():
            position = int(rng.integers(grid)), int(rng.integers(grid - 1))
            _paste(image, _printed(scene.word), ink, position, rng)
        case Digit():
            _paste(
                image,
                _written(scene.scan, rng),
                ink,
                _digit_position(grid, rng),
                rng,
            )
    return image


def _ink(colour: str, rng: np.random.Generator) -> Rgb:
    red, green, blue = (
        min(255, max(0, level + int(rng.integers(-14, 15))))
        for level in COLOURS[colour]
    )
    return red, green, blue


def _paste(
    image: Pillow.Image,
    stencil: Pillow.Image,
    ink: Rgb,
    position: Position,
    rng: np.random.Generator,
) -> None:
    """Pastes the stencil at `position`, shifted at random within its cells."""
    width, height = (-(-side // CELL) * CELL for side in stencil.size)
    across, down = rng.uniform(0.2, 0.8, size=2) * (
        width - stencil.width,
        height - stencil.height,
    )
    row, column = position
    image.paste(
        ink, (round(column * CELL + across), round(row * CELL + down)), stencil
    )


def _pair_cells(
    relation: str, grid: int, rng: np.random.Generator
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The cells (row, column) of the first and the second object."""
    along = int(rng.integers(grid - 1))
    line = int(rng.integers(grid))
    one = (along, line)
    other = (along + 1, line)
    if relation in ("left", "right"):
        one = (line, along)
        other = (line, along + 1)
    return (one, other) if relation in ("left", "above") else (other, one)


def _digit_position(grid: int, rng: np.random.Generator) -> Position:
    """Any cell, or halfway between cells, but not across the border of a tile."""
    tile = min(grid, TILE)
    row, column = (
        tile * int(rng.integers(grid // tile))
        + int(rng.integers(2 * tile - 1)) / 2
        for _ in ("row", "column")
    )
    return row, column


@cache
def _stencil(shape: str, width: int) -> Pillow.Image:
    """A shape, white on black, antialiased."""
    side = 4 * width  # drawn large, then downsampled
    stencil = Pillow.new("L", (side, side))
    pen = ImageDraw.Draw(stencil)
    end = side - 1
    match shape:
        case "circle":
            pen.ellipse((0, 0, end, end), fill=255)
        case "ring":
            pen.ellipse((0, 0, end, end), outline=255, width=side // 5)
        case "square":
            pen.rectangle(
                (side // 16, side // 16, end - side // 16, end - side // 16),
                fill=255,
            )
        case "triangle":
            pen.polygon(((end / 2, 0), (end, end), (0, end)), fill=255)
        case "cross":
            pen.rectangle((side // 3, 0, end - side // 3, end), fill=255)
            pen.rectangle((0, side // 3, end, end - side // 3), fill=255)
    return stencil.resize((width, width), Pillow.Resampling.BOX)


@cache
def _printed(word: str) -> Pillow.Image:
    rows = [
        "0".join(FONT[letter][3 * row : 3 * row + 3] for letter in word)
        for row in range(5)
    ]
    pixels = np.array(
        [[255 * int(pixel) for pixel in row] for row in rows], dtype=np.uint8
    )
    return Pillow.fromarray(
        pixels.repeat(LETTER_PIXEL, axis=0).repeat(LETTER_PIXEL, axis=1)
    )


def _written(scan: int, rng: np.random.Generator) -> Pillow.Image:
    width = int(rng.integers(*DIGIT_WIDTHS, endpoint=True))
    turned = Pillow.fromarray(handwritten_digits()[0][scan]).rotate(
        rng.uniform(-8, 8), Pillow.Resampling.BICUBIC
    )
    return turned.resize((width, width), Pillow.Resampling.BICUBIC)


@cache
def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits as 8 x 8 grey levels, with their values.

    Raises:
        ConfigError: scikit-learn, which has them, is not installed.
    """
    # slow to import
    with needs_extra("miniature", "the miniature world (handwritten digits)"):
        from sklearn.datasets import load_digits

    pixels, values = load_digits(return_X_y=True)
    return (np.asarray(pixels).reshape(-1, 8, 8) * 255 / 16).astype(
        np.uint8
    ), np.asarray(values)


def random_scene(kind: str, rng: np.random.Generator, split: Split) -> Scene:
    """A scene of a kind ("objects", "pair", "word", "digit" or "four") from a split."""
    while True:
        scene = _any_scene(kind, rng, split)
        if is_test_scene(scene) == (split == "test"):
            return scene


def one_of(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _any_scene(kind: str, rng: np.random.Generator, split: Split) -> Scene:
    colour = one_of(tuple(COLOURS), rng)
    shape = one_of(SHAPES, rng)
    match kind:
        case "objects":
            return Objects(
                one_of(COUNTS, rng), one_of(SIZES, rng), colour, shape
            )
        case "pair":
            other_colour = one_of(
                [other for other in COLOURS if other != colour], rng
            )
            other_shape = one_of(
                [other for other in SHAPES if other != shape], rng
            )
            return Pair(
                colour, shape, one_of(RELATIONS, rng), other_colour, other_shape
            )
        case "word":
            return Word(one_of(WORDS, rng), colour)
        case "digit":
            # The value first, so that all ten are equally frequent.
            value = int(rng.integers(10))
            scans = _scans_of(value, split)
            return Digit(
                NUMBERS[value], colour, int(scans[rng.integers(len(scans))])
            )
        case "four":
            objects = [
                (one_of(tuple(COLOURS), rng), one_of(SHAPES, rng))
                for _ in range(4)
            ]
            return Four(*zip(*objects, strict=True))
    raise ValueError(f"there is no kind of scene {kind!r}")


@cache
def _scans_of(value: int, split: Split) -> np.ndarray:
    scans = np.flatnonzero(handwritten_digits()[1] == value)
    return scans[(scans >= NUM_TRAIN_SCANS) == (split == "test")]
