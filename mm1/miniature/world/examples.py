"""The n-th image, caption, page and conversation of the miniature world.

Each is a function of the seed and n alone. Captions and pages share one sequence of
images, as several pages of the web show the same one:

    image         0  1  2  3  ...       the kinds of scenes repeat in a fixed `CYCLE`
    caption       0  1  2  3  ...       the n-th is about the n-th image
    page          0: images 7, 31, 2    any of the first `num_images` of a suitable kind
    conversation  0: its own image, wide or far

A page is one of

    list          <image> red <image> blue <image> green
                  one attribute, which only the images before tell
    questions     <image> what colour ? red <image> how many ? two
    in order      <image> <image> first seven second two
                  the text refers to the images before it
"""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mm1.miniature.world.scenes import (
    CELL,
    COLOURS,
    COUNTS,
    GRIDS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    WORDS,
    Digit,
    Four,
    Objects,
    Pair,
    Scene,
    Split,
    Word,
    draw,
    one_of,
    random_scene,
)

CYCLE = (
    "digit", "objects", "digit", "word", "digit",
    "objects", "digit", "pair", "digit", "far digit",
    "digit", "objects", "digit", "word", "digit",
    "objects", "digit", "pair", "objects", "word",
)  # fmt: skip
"""The kinds of 20 images in a row."""

STREAMS = (
    "picture",
    "caption",
    "page",
    "text",
    "conversation",
    "question",
    "fact",
    "copy",
    "new labels",
    "described",
    "four",
)
"""Streams of random numbers: the index of each is part of its seed."""

ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class Task:
    """A question that can be asked about an image."""

    question: str
    answers: tuple[str, ...]
    kinds: tuple[str, ...]
    """The kinds of scenes it can be asked about, repeated by weight."""
    share: float
    """How often pages and conversations ask it, relative to other tasks."""


TASKS = {
    "colour": Task(
        "what colour ?",
        tuple(COLOURS),
        ("objects", "objects", "digit", "word"),
        0.14,
    ),
    "shape": Task("what shape ?", SHAPES, ("objects",), 0.17),
    "count": Task("how many ?", COUNTS, ("objects",), 0.13),
    "size": Task("what size ?", SIZES, ("objects",), 0.08),
    "digit": Task("which digit ?", NUMBERS, ("digit",), 0.28),
    "word": Task("which word ?", WORDS, ("word",), 0.14),
    "relation": Task("where is the {shape} ?", RELATIONS, ("pair",), 0.06),
    "small digit": Task("which digit ?", NUMBERS, ("far digit",), 0.0),
}
"""`relation` is never in lists: left of one object is right of the other."""


@dataclass(frozen=True, slots=True)
class WorldImage:
    scene: Scene
    grid: str
    """One of `GRIDS`."""
    png: bytes

    @property
    def width(self) -> int:
        return GRIDS[self.grid] * CELL


@dataclass(frozen=True, slots=True)
class Caption:
    image: WorldImage
    text: str
    short: str
    """Some of its words."""


@dataclass(frozen=True, slots=True)
class Conversation:
    image: WorldImage
    turns: tuple[tuple[str, str], ...]
    """(question, answer)."""


def generator(stream: str, seed: int, *numbers: int) -> np.random.Generator:
    """The random numbers of one record of a stream."""
    return np.random.default_rng((seed, STREAMS.index(stream), *numbers))


@lru_cache(maxsize=20_000)
def nth_image(seed: int, n: int) -> WorldImage:
    """The n-th training image."""
    return make_image(
        CYCLE[n % len(CYCLE)], "near", "train", generator("picture", seed, n)
    )


def make_image(
    kind: str, grid: str, split: Split, rng: np.random.Generator
) -> WorldImage:
    """An image of a kind of scene on a grid; a "far digit" is always far."""
    kind, grid = ("digit", "far") if kind == "far digit" else (kind, grid)
    scene = random_scene(kind, rng, split)
    file = io.BytesIO()
    draw(scene, GRIDS[grid], rng).save(file, "PNG", compress_level=1)
    return WorldImage(scene, grid, file.getvalue())


def nth_caption(seed: int, n: int) -> Caption:
    """The n-th caption, with its words in random order.

    If they had an order, the place of a word in a list would tell its attribute, which
    only the images before should.
    """
    shown = nth_image(seed, n)
    rng = generator("caption", seed, n)
    if isinstance(scene := shown.scene, Pair):
        first = f"{scene.colour} {scene.shape}"
        second = f"{scene.other_colour} {scene.other_shape}"
        return Caption(
            shown,
            f"{first} {scene.relation} {second}",
            one_of((first, second), rng),
        )
    assert not isinstance(scene, Four)
    words = words_of(scene)
    some = [
        words[i]
        for i in rng.permutation(len(words))[: rng.integers(1, len(words))]
    ]
    return Caption(
        shown,
        " ".join(words[i] for i in rng.permutation(len(words))),
        " ".join(some),
    )


def nth_four_objects(seed: int, n: int, split: Split = "train") -> Caption:
    """The n-th image of four objects, captioned in reading order."""
    shown = make_image(
        "four",
        "near",
        split,
        generator("four", seed, ("train", "test").index(split), n),
    )
    assert isinstance(shown.scene, Four)
    objects = [
        f"{colour} {shape}"
        for colour, shape in zip(
            shown.scene.colours, shown.scene.shapes, strict=True
        )
    ]
    return Caption(shown, " ".join(objects), objects[0])


def words_of(scene: Objects | Word | Digit) -> tuple[str, ...]:
    """The words of its caption."""
    match scene:
        case Objects():
            return scene.count, scene.size, scene.colour, scene.shape
        case Word():
            return f"word {scene.word}", scene.colour
        case Digit():
            return f"digit {scene.digit}", scene.colour


def nth_page(
    seed: int, n: int, num_images: int
) -> tuple[WorldImage | str, ...]:
    """Images and texts of the n-th page, in reading order."""
    rng = generator("page", seed, n)
    layout = rng.random()
    if layout < 0.55:
        task = _any_task(rng, lists=True)
        kind = one_of(TASKS[task].kinds, rng)
        shown = [
            _any_image(seed, kind, num_images, rng)
            for _ in range(rng.integers(3, 9))
        ]
        return tuple(
            part
            for each in shown
            for part in (each, task_answer(task, each.scene))
        )
    if layout < 0.9:
        parts: list[WorldImage | str] = []
        for _ in range(rng.integers(1, 5)):
            task = _any_task(rng)
            each = _any_image(
                seed, one_of(TASKS[task].kinds, rng), num_images, rng
            )
            parts += [
                each,
                f"{task_question(task, each.scene)} {task_answer(task, each.scene)}",
            ]
        return tuple(parts)
    task = one_of(("colour", "digit"), rng)
    shown = [
        _any_image(seed, one_of(TASKS[task].kinds, rng), num_images, rng)
        for _ in range(rng.integers(2, 4))
    ]
    said = (
        f"{ordinal} {task_answer(task, each.scene)}"
        for ordinal, each in zip(ORDINALS, shown, strict=False)
    )
    return (*shown, " ".join(said))


def _any_task(rng: np.random.Generator, *, lists: bool = False) -> str:
    tasks = [name for name in TASKS if not (lists and name == "relation")]
    shares = np.array([TASKS[name].share for name in tasks])
    return tasks[
        int(
            np.searchsorted(
                shares.cumsum() / shares.sum(), rng.random(), side="right"
            )
        )
    ]


def _any_image(
    seed: int, kind: str, num_images: int, rng: np.random.Generator
) -> WorldImage:
    positions = [i for i, each in enumerate(CYCLE) if each == kind]
    cycle = int(rng.integers(num_images // len(CYCLE)))
    return nth_image(
        seed, cycle * len(CYCLE) + positions[int(rng.integers(len(positions)))]
    )


def task_question(task: str, scene: Scene) -> str:
    return TASKS[task].question.format(shape=getattr(scene, "shape", ""))


def task_answer(task: str, scene: Scene) -> str:
    return getattr(scene, task.removeprefix("small "))


def nth_conversation(
    seed: int, n: int, small_share: float = 0.4
) -> Conversation:
    """One or two questions about a wide image, or one about a small digit in a far
    image."""
    rng = generator("conversation", seed, n)
    first = "small digit" if rng.random() < small_share else _any_task(rng)
    shown = make_image(one_of(TASKS[first].kinds, rng), "wide", "train", rng)
    others = [
        task for task in TASKS if task != first and _suits(task, shown.scene)
    ]
    tasks = (
        [first]
        if first == "small digit" or not others
        else [first, one_of(others, rng)]
    )
    return Conversation(
        shown,
        tuple(
            (task_question(task, shown.scene), task_answer(task, shown.scene))
            for task in tasks
        ),
    )


def _suits(task: str, scene: Scene) -> bool:
    return type(scene).__name__.lower() in TASKS[task].kinds
