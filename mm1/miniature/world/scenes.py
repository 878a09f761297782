"""What there is to see in the miniature world, and how it is drawn.

A picture shows one kind of thing, on a dark square of cells (`Four`: one thing in each
cell of a near picture):

    Objects   1 to 4 alike:          Pair   two, one beside       Word   printed       Digit   handwritten
              "two large red ring"          or above the other    in capitals          (scikit-learn's scans)
    +----+----+                      +----+----+                  +---------+          +----+----+
    | O  |    |                      | O  | #  |                  |  C A T  |          |    |  7 |
    +----+----+                      +----+----+                  +---------+          +----+----+
    |    |  O |                      |    |    |                  |         |          |    |    |
    +----+----+                      +----+----+                  +---------+          +----+----+

A cell is the room that one thing takes up, and the more cells a picture has, the
smaller is what it shows:

    near   2 x 2    48 px    what pre-training looks at
    wide   3 x 3    72 px    legible at a finer resolution than pre-training's
    far    6 x 6   144 px    legible only if its quarters are looked at one by one: each holds 3 x 3 cells

Test scenes never occur in training: their combinations of attributes are kept apart
(`held_out`), and so are the scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

Split: TypeAlias = Literal["train", "test"]
Rgb: TypeAlias = tuple[int, int, int]
Place: TypeAlias = tuple[int | float, int | float]
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
"""Cells a side of what is looked at by itself in a far picture. Nothing stands across
its border."""
WIDTHS = {"small": (9, 11), "large": (18, 20)}
PAIR_WIDTHS = (17, 19)
DIGIT_WIDTHS = (20, 22)
LETTER_PIXEL = 4
NUM_TRAIN_SCANS = 1297
"""scikit-learn's 1,797 scans of digits name no writers. The last 500 are for tests:
digits never seen in training."""

FONT = {
    "a": "010101111101101", "b": "110101110101110", "c": "011100100100011", "d": "110101101101110",
    "e": "111100110100111", "f": "111100110100100", "g": "011100101101011", "k": "101101110101101",
    "m": "101111111101101", "n": "110101101101101", "o": "010101101101010", "p": "110101110100100",
    "s": "011100010001110", "t": "111010010010010", "u": "101101101101111", "x": "101101010101101",
    "y": "101101010010010",
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
    """The first object stands `relation` of the second."""

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
    """Which of scikit-learn's scans."""


@dataclass(frozen=True, slots=True)
class Four:
    """One thing in each cell of a near picture, in reading order."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]


Scene: TypeAlias = Objects | Pair | Word | Digit | Four


def held_out(scene: Scene) -> bool:
    """Is this combination kept for tests? About a fifth is, such that every attribute's
    values occur on both sides."""
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
            shapes = SHAPES.index(scene.shape) + 2 * SHAPES.index(scene.other_shape)
            return (shapes + colour + RELATIONS.index(scene.relation)) % 5 == 0
        case Word():
            return (WORDS.index(scene.word) + colour) % 6 == 0
        case Digit():
            return scene.scan >= NUM_TRAIN_SCANS


def draw(scene: Scene, grid: int, rng: np.random.Generator) -> Pillow.Image:
    """The scene on `grid` x `grid` cells; places, shades and angles are `rng`'s."""
    shade = int(rng.integers(12, 44))
    picture = Pillow.new("RGB", (grid * CELL, grid * CELL), (shade, shade, shade + 6))
    if isinstance(scene, Four):
        for cell, (colour, shape) in enumerate(
            zip(scene.colours, scene.shapes, strict=True)
        ):
            stencil = _stencil(shape, int(rng.integers(*PAIR_WIDTHS, endpoint=True)))
            _paste(
                picture, stencil, _ink(colour, rng), divmod(cell, GRIDS["near"]), rng
            )
        return picture
    ink = _ink(scene.colour, rng)
    match scene:
        case Objects():
            width = int(rng.integers(*WIDTHS[scene.size], endpoint=True))
            for cell in rng.permutation(grid * grid)[: COUNTS.index(scene.count) + 1]:
                _paste(
                    picture,
                    _stencil(scene.shape, width),
                    ink,
                    divmod(int(cell), grid),
                    rng,
                )
        case Pair():
            first, second = _pair_cells(scene.relation, grid, rng)
            width = int(rng.integers(*PAIR_WIDTHS, endpoint=True))
            _paste(picture, _stencil(scene.shape, width), ink, first, rng)
            _paste(
                picture,
                _stencil(scene.other_shape, width),
                _ink(scene.other_colour, rng),
                second,
                rng,
            )
        case Word():
            place = int(rng.integers(grid)), int(rng.integers(grid - 1))
            _paste(picture, _printed(scene.word), ink, place, rng)
        case Digit():
            _paste(
                picture, _written(scene.scan, rng), ink, _digit_place(grid, rng), rng
            )
    return picture


def _ink(colour: str, rng: np.random.Generator) -> Rgb:
    red, green, blue = (
        min(255, max(0, level + int(rng.integers(-14, 15))))
        for level in COLOURS[colour]
    )
    return red, green, blue


def _paste(
    picture: Pillow.Image,
    stencil: Pillow.Image,
    ink: Rgb,
    place: Place,
    rng: np.random.Generator,
) -> None:
    """Where there is room around the stencil, it lies anywhere in the middle of it."""
    width, height = (-(-side // CELL) * CELL for side in stencil.size)
    across, down = rng.uniform(0.2, 0.8, size=2) * (
        width - stencil.width,
        height - stencil.height,
    )
    row, column = place
    picture.paste(
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


def _digit_place(grid: int, rng: np.random.Generator) -> Place:
    """Any cell, or half-way between cells, but not across the border of a tile."""
    tile = min(grid, TILE)
    row, column = (
        tile * int(rng.integers(grid // tile)) + int(rng.integers(2 * tile - 1)) / 2
        for _ in ("row", "column")
    )
    return row, column


@cache
def _stencil(shape: str, width: int) -> Pillow.Image:
    """A shape, white on black, with smooth edges."""
    side = 4 * width  # drawn large, then reduced
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
                (side // 16, side // 16, end - side // 16, end - side // 16), fill=255
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
    turned = Pillow.fromarray(_scans()[0][scan]).rotate(
        rng.uniform(-8, 8), Pillow.Resampling.BICUBIC
    )
    return turned.resize((width, width), Pillow.Resampling.BICUBIC)


@cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits as 8 x 8 grey levels, with their values."""
    from sklearn.datasets import (
        load_digits,
    )  # an optional dependency, and slow to import

    pixels, values = load_digits(return_X_y=True)
    return (np.asarray(pixels).reshape(-1, 8, 8) * 255 / 16).astype(
        np.uint8
    ), np.asarray(values)


def random_scene(kind: str, rng: np.random.Generator, split: Split) -> Scene:
    """A scene of that kind ("objects", "pair", "word", "digit" or "four") that belongs
    to that split."""
    while True:
        scene = _any_scene(kind, rng, split)
        if held_out(scene) == (split == "test"):
            return scene


def one_of(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _any_scene(kind: str, rng: np.random.Generator, split: Split) -> Scene:
    colour = one_of(tuple(COLOURS), rng)
    shape = one_of(SHAPES, rng)
    match kind:
        case "objects":
            return Objects(one_of(COUNTS, rng), one_of(SIZES, rng), colour, shape)
        case "pair":
            other_colour = one_of([other for other in COLOURS if other != colour], rng)
            other_shape = one_of([other for other in SHAPES if other != shape], rng)
            return Pair(
                colour, shape, one_of(RELATIONS, rng), other_colour, other_shape
            )
        case "word":
            return Word(one_of(WORDS, rng), colour)
        case "digit":
            value = int(
                rng.integers(10)
            )  # the scan second, so that all ten are alike often
            scans = _scans_of(value, split)
            return Digit(NUMBERS[value], colour, int(scans[rng.integers(len(scans))]))
        case "four":
            things = [
                (one_of(tuple(COLOURS), rng), one_of(SHAPES, rng)) for _ in range(4)
            ]
            return Four(*zip(*things, strict=True))
    raise ValueError(f"no kind of scene is called {kind!r}")


@cache
def _scans_of(value: int, split: Split) -> np.ndarray:
    scans = np.flatnonzero(_scans()[1] == value)
    return scans[(scans >= NUM_TRAIN_SCANS) == (split == "test")]
