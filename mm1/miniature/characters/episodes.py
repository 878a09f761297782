"""Episodes that only their shots decide, and the pages that may teach to read them.

binding     <i> zub <i> mok <i> mok ... <i> -> ?   two characters, two names that are
                                                   theirs in this episode alone
induction   <ij> mok <kl> pex ... <mn> -> ?        two characters side by side; the rule
                                                   of the episode is to name the left
                                                   one, or the right one

The characters of binding are of alphabets never seen. Those of induction have been
seen, with fixed names, but not these drawings: to name one is not the question, which
one is. Names trade places in an episode if its rule, or its binding, is the other one.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image as Pillow

from mm1.miniature.characters.omniglot import SIDE, Characters

InContextTask = Literal["binding", "induction"]
TASKS: tuple[InContextTask, ...] = ("binding", "induction")
NAMES = tuple(
    f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in "bkn"
)
"""210 names, a token each; characters have fixed ones in captions."""
HELD_OUT = 4
"""Drawings of each training character that only the test shows."""
MAX_SHOTS = 16


@dataclass(frozen=True, slots=True)
class Item:
    """A picture with its name in an episode."""

    png: bytes
    name: str
    choices: tuple[str, ...]
    """The names that it could have: the episode's two, or those of its two
    characters."""
    width: int = SIDE
    height: int = SIDE


@dataclass(frozen=True, slots=True)
class Episode:
    items: tuple[Item, ...]
    """Shots, then the question."""
    id: str = "0"


def fixed_names(characters: Characters) -> dict[str, str]:
    """Character -> the name that captions and fixed pages call it."""
    return dict(zip(characters, NAMES, strict=False))


def binding_episode(
    characters: Characters,
    rng: np.random.Generator,
    num: int,
    *,
    paired: bool = False,
) -> Episode:
    """`num` drawings of two characters under two names, in any order. If `paired`,
    every two shots show both: pages are not, or every second name would need no
    picture."""
    keys = list(characters)
    pair = [keys[i] for i in rng.permutation(len(keys))[:2]]
    one, two = rng.permutation(len(NAMES))[:2]
    order = rng.integers(2, size=num)
    if paired:
        pairs = [rng.permutation(2) for _ in range(num // 2)]
        order[: 2 * len(pairs)] = np.concatenate(pairs)
    return _episode(characters, pair, (NAMES[one], NAMES[two]), order, rng)


def fixed_episode(
    characters: Characters, rng: np.random.Generator, num: int
) -> Episode:
    """The same with the characters' fixed names: nothing to learn from the page."""
    keys = list(characters)
    pair = [keys[i] for i in rng.permutation(len(keys))[:2]]
    called = fixed_names(characters)
    names = (called[pair[0]], called[pair[1]])
    return _episode(characters, pair, names, rng.integers(2, size=num), rng)


def rule_episode(
    characters: Characters,
    rng: np.random.Generator,
    num: int,
    *,
    rule: int | None = None,
) -> Episode:
    """`num` pairs of characters, of which one side is named: 0 is left, 1 is right,
    None is drawn."""
    keys = list(characters)
    called = fixed_names(characters)
    side = int(rng.integers(2)) if rule is None else rule
    items = []
    for _ in range(num):
        pair = [keys[i] for i in rng.permutation(len(keys))[:2]]
        both = (called[pair[0]], called[pair[1]])
        drawings = [_any(characters[key], rng) for key in pair]
        items.append(Item(side_by_side(drawings), both[side], both, 2 * SIDE))
    return Episode(tuple(items))


def side_by_side(drawings: Sequence[bytes]) -> bytes:
    """One picture of two, left and right; the encoder sees it squashed."""
    canvas = Pillow.new("1", (SIDE * len(drawings), SIDE), 1)
    for i, png in enumerate(drawings):
        canvas.paste(Pillow.open(io.BytesIO(png)), (i * SIDE, 0))
    file = io.BytesIO()
    canvas.save(file, "PNG", compress_level=1)
    return file.getvalue()


def split_drawings(characters: Characters) -> tuple[Characters, Characters]:
    """The characters with the drawings of training, and with those held out."""
    return (
        {name: each[:-HELD_OUT] for name, each in characters.items()},
        {name: each[-HELD_OUT:] for name, each in characters.items()},
    )


def _episode(
    characters: Characters,
    pair: Sequence[str],
    names: tuple[str, str],
    order: np.ndarray,
    rng: np.random.Generator,
) -> Episode:
    """No drawing occurs twice, as long as there are enough."""
    queues = [list(rng.permutation(len(characters[key]))) for key in pair]
    items = []
    for which in map(int, order):
        queue = queues[which]
        drawing = queue.pop() if queue else 0
        png = characters[pair[which]][drawing]
        items.append(Item(png, names[which], names))
    return Episode(tuple(items))


def _any(drawings: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return drawings[int(rng.integers(len(drawings)))]
