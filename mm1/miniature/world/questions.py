"""The n-th question of a test, with its answer; shots come from the split "train".

named        <image> what colour ? -> red          the question tells the task
unnamed      <image> -> red                        only the shots tell the task
new labels   <image> -> cat                        only shots tell which colour is "cat"
description  <image> -> two large red ring         the words of a caption, in any order
four         <image> -> red ring blue cross ...    each cell's object, in reading order
fact         three plus four is -> seven           without an image
copy         cat red dog two ... cat -> red        without an image
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mm1.miniature.world.examples import (
    TASKS,
    WorldImage,
    generator,
    make_image,
    nth_four_objects,
    task_answer,
    task_question,
    words_of,
)
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
class WorldQuestion:
    image: WorldImage | None
    prompt: str
    answer: str


def nth_question(
    seed: int,
    task: str,
    n: int,
    split: Split,
    *,
    named: bool = True,
    grid: Literal["near", "wide"] = "near",
) -> WorldQuestion:
    """The n-th question of one of `TASKS`; "small digit" shows far images on any
    grid."""
    rng = generator(
        "question", seed, list(TASKS).index(task), SPLITS.index(split), n
    )
    shown = make_image(one_of(TASKS[task].kinds, rng), grid, split, rng)
    return WorldQuestion(
        shown,
        task_question(task, shown.scene) if named else "",
        task_answer(task, shown.scene),
    )


def nth_description(seed: int, n: int, split: Split) -> WorldQuestion:
    """The n-th image to describe in the words of a caption: objects, a word or a
    digit."""
    rng = generator("described", seed, SPLITS.index(split), n)
    shown = make_image(
        one_of(("objects", "objects", "digit", "word"), rng), "near", split, rng
    )
    assert not isinstance(shown.scene, Pair | Four)
    return WorldQuestion(shown, "", " ".join(words_of(shown.scene)))


def nth_four_description(seed: int, n: int, split: Split) -> WorldQuestion:
    """The n-th image of four objects, to describe in reading order."""
    caption = nth_four_objects(seed, n, split)
    return WorldQuestion(caption.image, "", caption.text)


def nth_new_labels(seed: int, n: int, num_shots: int) -> list[WorldQuestion]:
    """The n-th episode: shots, then the question.

    Each episode calls two random colours by two random words.
    """
    rng = generator("new labels", seed, n)
    names = _two_words(rng)
    called = dict(
        zip(
            (list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:2]),
            names,
            strict=True,
        )
    )
    question = _called(called, "test", rng)
    return [
        *(_called(called, "train", rng) for _ in range(num_shots)),
        question,
    ]


def nth_new_names(seed: int, n: int) -> tuple[str, ...]:
    """The two words of the n-th episode."""
    return _two_words(generator("new labels", seed, n))


def _two_words(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(WORDS[i] for i in rng.permutation(len(WORDS))[:2])


def _called(
    called: dict[str, str], split: Split, rng: np.random.Generator
) -> WorldQuestion:
    while True:
        shown = make_image("objects", "near", split, rng)
        assert isinstance(shown.scene, Objects)
        if name := called.get(shown.scene.colour):
            return WorldQuestion(shown, "", name)


def nth_fact(seed: int, n: int) -> WorldQuestion:
    """The n-th fact without its last word."""
    return WorldQuestion(None, *fact(generator("fact", seed, n)))


def nth_copy(seed: int, n: int) -> WorldQuestion:
    """The n-th list of four words with new meanings, cut before the last meaning, which
    it has given before."""
    rng = generator("copy", seed, n)
    while True:
        words = relabelling(rng, num_pairs=4, length=13)
        if words[-2] in words[:-2:2]:
            return WorldQuestion(None, " ".join(words[:-1]), words[-1])
