"""The n-th question of a test, with the answer that is right; shots are questions of
the split "train".

named        <image> what colour ? -> red             the question says what is asked
unnamed      <image> -> red                           only the shots say it: without any there is no telling
new labels   <image> -> cat                           only the shots say which colour is called "cat"
description  <image> -> two large red ring            as captions have it, the words in any order
four         <image> -> red ring blue cross ...       what is in each cell, in reading order
fact         three plus four is -> seven              no picture
copy         cat red dog two ... cat -> red           no picture
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mm1.miniature.world.examples import (
    TASKS,
    Picture,
    answer,
    ask,
    generator,
    make_picture,
    words_of,
)
from mm1.miniature.world.examples import four as caption_of_four
from mm1.miniature.world.scenes import (
    COLOURS,
    WORDS,
    Four,
    Objects,
    Pair,
    Split,
    one_of,
)
from mm1.miniature.world.text import fact, relabelling

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True, slots=True)
class Question:
    picture: Picture | None
    prompt: str
    answer: str


def question(
    seed: int,
    task: str,
    n: int,
    split: Split,
    *,
    named: bool = True,
    grid: Literal["near", "wide"] = "near",
) -> Question:
    """The n-th question of one of `TASKS`. The task "small digit" shows far pictures
    whatever the grid."""
    rng = generator("question", seed, list(TASKS).index(task), SPLITS.index(split), n)
    shown = make_picture(one_of(TASKS[task].kinds, rng), grid, split, rng)
    return Question(
        shown, ask(task, shown.scene) if named else "", answer(task, shown.scene)
    )


def description(seed: int, n: int, split: Split) -> Question:
    """The n-th picture to be described in a caption's words: one thing or several
    alike, a word or a digit."""
    rng = generator("described", seed, SPLITS.index(split), n)
    shown = make_picture(
        one_of(("objects", "objects", "digit", "word"), rng), "near", split, rng
    )
    assert not isinstance(shown.scene, Pair | Four)
    return Question(shown, "", " ".join(words_of(shown.scene)))


def four(seed: int, n: int, split: Split) -> Question:
    """The n-th picture of four things, to be described in reading order."""
    shown = caption_of_four(seed, n, split)
    return Question(shown.picture, "", shown.text)


def new_labels(seed: int, n: int, num_shots: int) -> list[Question]:
    """The n-th episode: shots, then the question. Two colours are called by two words,
    at random in each episode."""
    rng = generator("new labels", seed, n)
    names = [WORDS[i] for i in rng.permutation(len(WORDS))[:2]]
    called = dict(
        zip(
            (list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:2]),
            names,
            strict=True,
        )
    )
    asked = _called(called, "test", rng)
    return [*(_called(called, "train", rng) for _ in range(num_shots)), asked]


def _called(called: dict[str, str], split: Split, rng: np.random.Generator) -> Question:
    while True:
        shown = make_picture("objects", "near", split, rng)
        assert isinstance(shown.scene, Objects)
        if name := called.get(shown.scene.colour):
            return Question(shown, "", name)


def text_fact(seed: int, n: int) -> Question:
    """A fact whose last word is left out."""
    return Question(None, *fact(generator("fact", seed, n)))


def text_copy(seed: int, n: int) -> Question:
    """A list of four relabelled words that has shown each of them before, cut before
    the last label."""
    rng = generator("copy", seed, n)
    while True:
        words = relabelling(rng, num_pairs=4, length=13)
        if words[-2] in words[:-2:2]:
            return Question(None, " ".join(words[:-1]), words[-1])
