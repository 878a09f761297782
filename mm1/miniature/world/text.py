"""What is written about the miniature world without a picture: facts, and lists in
which words get new meanings."""

import numpy as np

from mm1.miniature.world.examples import generator
from mm1.miniature.world.scenes import COLOURS, NUMBERS, RELATIONS, SHAPES, WORDS

MIXTURES = {
    ("red", "white"): "pink",
    ("blue", "yellow"): "green",
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("black", "white"): "grey",
}
"""What two paints give."""
LABELS = (*COLOURS, *SHAPES, *NUMBERS, *WORDS, *RELATIONS)
"""What text-only lists give new meanings to."""


def text(seed: int, n: int) -> str:
    """Facts about the world, or a list in which words get new meanings: `cat red dog
    two cat red ...`."""
    rng = generator("text", seed, n)
    if rng.random() < 0.4:
        return " ".join(" ".join(fact(rng)) for _ in range(rng.integers(1, 5)))
    return " ".join(
        relabelling(
            rng, num_pairs=int(rng.integers(2, 5)), length=int(rng.integers(8, 21))
        )
    )


def relabelling(rng: np.random.Generator, num_pairs: int, length: int) -> list[str]:
    words = rng.permutation(len(LABELS))[: 2 * num_pairs]
    in_turn = rng.random() < 0.5
    items = [
        i % num_pairs if in_turn else int(rng.integers(num_pairs))
        for i in range(length)
    ]
    return [LABELS[words[2 * item + side]] for item in items for side in (0, 1)]


def fact(rng: np.random.Generator) -> tuple[str, str]:
    """All but the last word, and the last word, which follows from the others."""
    match rng.integers(4):
        case 0:
            a, b = rng.integers(0, 5, size=2)
            return f"{NUMBERS[a]} plus {NUMBERS[b]} is", NUMBERS[a + b]
        case 1:
            a = int(rng.integers(0, 10))
            b = int(rng.integers(0, a + 1))
            return f"{NUMBERS[a]} minus {NUMBERS[b]} is", NUMBERS[a - b]
        case 2:
            colours = list(MIXTURES)[int(rng.integers(len(MIXTURES)))]
            a, b = colours if rng.random() < 0.5 else colours[::-1]
            return f"{a} and {b} makes", MIXTURES[colours]
        case _:
            a, b = rng.permutation(10)[:2]
            which, number = (
                ("larger", max(a, b)) if rng.random() < 0.5 else ("smaller", min(a, b))
            )
            return f"{NUMBERS[a]} or {NUMBERS[b]} the {which} is", NUMBERS[number]
