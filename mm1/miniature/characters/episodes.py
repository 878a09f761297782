"""Episodes that only their shots decide, and the pages that may teach to read them.

binding     <i> zub <i> mok <i> mok ... <i> -> ?   two characters, two names that are
                                                   theirs in this episode alone
induction   <i> <j> mok <k> <l> pex ... <m> <n> -> ?   two characters; the rule of the
                                                   episode is to name the first, or the
                                                   second

The characters of binding are of alphabets never seen. Those of induction are a few with
fixed names that pages teach: to name one is not the question, which one is. Names trade
places in an episode if its rule, or its binding, is the other one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mm1.miniature.characters.omniglot import SIDE, Characters

InContextTask = Literal["binding", "induction"]
TASKS: tuple[InContextTask, ...] = ("binding", "induction")
NAMES = tuple(
    f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in "bkn"
)
"""210 names, a token each; the first are those of the characters in captions."""
NUM_PAGE_NAMES = 20
PAGE_NAMES = NAMES[-NUM_PAGE_NAMES:]
"""Those that pages and questions of binding, and lists, give. Few, so that each is
bound often; none is a character's own in captions."""
NUM_RULE_CHARACTERS = 10
"""Of induction. Few, so that their names are soon known: pages of all 156 characters
had not taught all names after 1,900 steps, let alone a rule (LOG.md)."""
HELD_OUT = 4
"""Drawings of each training character that only the test shows."""
MAX_SHOTS = 16


@dataclass(frozen=True, slots=True)
class Item:
    """A picture, or two, with a name in an episode."""

    pngs: tuple[bytes, ...]
    name: str
    choices: tuple[str, ...]
    """The names that it could have: the episode's two, or those of its two
    characters."""
    side: int = SIDE


@dataclass(frozen=True, slots=True)
class Episode:
    items: tuple[Item, ...]
    """Shots, then the question."""
    id: str = "0"


def fixed_names(characters: Characters) -> dict[str, str]:
    """Character -> the name that captions call it.

    Raises:
        ValueError: there are more characters than names.
    """
    names = NAMES[:-NUM_PAGE_NAMES]
    if len(characters) > len(names):
        raise ValueError(
            f"{len(characters)} characters, but {len(names)} names"
        )
    return dict(zip(characters, names, strict=False))


def fixed_page_names(characters: Characters) -> dict[str, str]:
    """Character -> the name that it has on each of the fixed pages; several share
    one."""
    return {
        key: PAGE_NAMES[i % NUM_PAGE_NAMES] for i, key in enumerate(characters)
    }


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
    one, two = rng.permutation(NUM_PAGE_NAMES)[:2]
    order = rng.integers(2, size=num)
    if paired:
        pairs = [rng.permutation(2) for _ in range(num // 2)]
        order[: 2 * len(pairs)] = np.concatenate(pairs)
    names = (PAGE_NAMES[one], PAGE_NAMES[two])
    return _episode(characters, pair, names, order, rng)


def fixed_episode(
    characters: Characters, rng: np.random.Generator, num: int
) -> Episode:
    """The same with names that are fixed for each character: nothing to learn from the
    page."""
    called = fixed_page_names(characters)
    keys = list(characters)
    order = [keys[i] for i in rng.permutation(len(keys))]
    first = order[0]
    second = next(key for key in order if called[key] != called[first])
    pair = (first, second)
    names = (called[first], called[second])
    return _episode(characters, pair, names, rng.integers(2, size=num), rng)


def rule_episode(
    characters: Characters,
    rng: np.random.Generator,
    num: int,
    rules: Sequence[int] = (0, 1),
) -> Episode:
    """`num` pairs of the characters of induction. The rule, one of `rules`, is the same
    for all: 0, the first is named, or 1, the second."""
    keys = rule_characters(characters)
    called = fixed_names(characters)
    named = rules[int(rng.integers(len(rules)))]
    items = []
    for _ in range(num):
        pair = [keys[i] for i in rng.permutation(len(keys))[:2]]
        both = (called[pair[0]], called[pair[1]])
        pngs = tuple(_any(characters[key], rng) for key in pair)
        items.append(Item(pngs, both[named], both))
    return Episode(tuple(items))


def rule_characters(characters: Characters) -> list[str]:
    """Those of induction, of many alphabets."""
    keys = list(characters)
    step = max(len(keys) // NUM_RULE_CHARACTERS, 1)
    return keys[::step][:NUM_RULE_CHARACTERS]


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
        items.append(Item((png,), names[which], names))
    return Episode(tuple(items))


def _any(drawings: Sequence[bytes], rng: np.random.Generator) -> bytes:
    return drawings[int(rng.integers(len(drawings)))]
