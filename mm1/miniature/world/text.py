"""Texts of the miniature world without an image: facts, and lists that give words new
meanings."""

import numpy as np

from mm1.miniature.world.examples import generator
from mm1.miniature.world.scenes import (
    COLOURS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    WORDS,
)

MIXED_COLOURS = {
    ("red", "white"): "pink",
    ("blue", "yellow"): "green",
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("black", "white"): "grey",
}
"""The colours that two paints give."""
LABELS = (*COLOURS, *SHAPES, *NUMBERS, *WORDS, *RELATIONS)
"""The words that lists give new meanings to, and their new meanings."""


def nth_text(seed: int, n: int) -> str:
    """Facts, or a list that gives words new meanings: `cat red dog two cat red ...`."""
    rng = generator("text", seed, n)
    if rng.random() < 0.4:
        return " ".join(" ".join(fact(rng)) for _ in range(rng.integers(1, 5)))
    return " ".join(
        relabelling(
            rng,
            num_pairs=int(rng.integers(2, 5)),
            length=int(rng.integers(8, 21)),
        )
    )


def relabelling(
    rng: np.random.Generator, num_pairs: int, length: int
) -> list[str]:
    """A list of `length` words, each followed by its new meaning, from `num_pairs`."""
    words = rng.permutation(len(LABELS))[: 2 * num_pairs]
    in_turn = rng.random() < 0.5
    items = [
        i % num_pairs if in_turn else int(rng.integers(num_pairs))
        for i in range(length)
    ]
    return [LABELS[words[2 * item + side]] for item in items for side in (0, 1)]


def fact(rng: np.random.Generator) -> tuple[str, str]:
    """A fact without its last word, and that word, which follows from the rest."""
    match rng.integers(4):
        case 0:
            a, b = rng.integers(0, 5, size=2)
            return f"{NUMBERS[a]} plus {NUMBERS[b]} is", NUMBERS[a + b]
        case 1:
            a = int(rng.integers(0, 10))
            b = int(rng.integers(0, a + 1))
            return f"{NUMBERS[a]} minus {NUMBERS[b]} is", NUMBERS[a - b]
        case 2:
            colours = list(MIXED_COLOURS)[int(rng.integers(len(MIXED_COLOURS)))]
            a, b = colours if rng.random() < 0.5 else colours[::-1]
            return f"{a} and {b} makes", MIXED_COLOURS[colours]
        case _:
            a, b = rng.permutation(10)[:2]
            which, number = (
                ("larger", max(a, b))
                if rng.random() < 0.5
                else ("smaller", min(a, b))
            )
            return f"{NUMBERS[a]} or {NUMBERS[b]} the {which} is", NUMBERS[
                number
            ]
