"""The n-th picture, caption, page and conversation of the miniature world.

Each is a function of the seed and n alone. There is one row of pictures; captions and
pages are about them, as several pages of the web show one picture:

    picture      0  1  2  3  ...           the kinds of scenes follow one another in a fixed `CYCLE`
    caption      0  1  2  3  ...           the n-th is about the n-th picture
    page         0: pictures 7, 31, 2      any of the first `num_pictures`, of a kind that suits it
    conversation 0: a picture of its own, wide or far

What a page may be:

    list        <image> red <image> blue <image> green           one attribute; only the pictures before say which one
    questions   <image> what colour ? red <image> how many ? two
    in order    <image> <image> first seven second two            the text refers to the pictures before it
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
    *(
        "digit",
        "objects",
        "digit",
        "word",
        "digit",
        "objects",
        "digit",
        "pair",
        "digit",
        "far digit",
    ),
    *(
        "digit",
        "objects",
        "digit",
        "word",
        "digit",
        "objects",
        "digit",
        "pair",
        "objects",
        "word",
    ),
)
"""The kinds of 20 pictures in a row."""

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

ORDINALS = ("first", "second", "third")


@dataclass(frozen=True, slots=True)
class Task:
    """Something that can be asked about a picture."""

    question: str
    answers: tuple[str, ...]
    kinds: tuple[str, ...]
    """The scenes it can be asked about, by weight."""
    share: float
    """How often pages and conversations ask it."""


TASKS = {
    "colour": Task(
        "what colour ?", tuple(COLOURS), ("objects", "objects", "digit", "word"), 0.14
    ),
    "shape": Task("what shape ?", SHAPES, ("objects",), 0.17),
    "count": Task("how many ?", COUNTS, ("objects",), 0.13),
    "size": Task("what size ?", SIZES, ("objects",), 0.08),
    "digit": Task("which digit ?", NUMBERS, ("digit",), 0.28),
    "word": Task("which word ?", WORDS, ("word",), 0.14),
    "relation": Task("where is the {shape} ?", RELATIONS, ("pair",), 0.06),
    "small digit": Task("which digit ?", NUMBERS, ("far digit",), 0.0),
}
"""`relation` is never in lists: left of one thing is right of another."""


@dataclass(frozen=True, slots=True)
class Picture:
    scene: Scene
    grid: str
    """One of `GRIDS`."""
    png: bytes

    @property
    def width(self) -> int:
        return GRIDS[self.grid] * CELL


@dataclass(frozen=True, slots=True)
class Caption:
    picture: Picture
    text: str
    short: str
    """Some of the words alone."""


@dataclass(frozen=True, slots=True)
class Conversation:
    picture: Picture
    turns: tuple[tuple[str, str], ...]
    """(question, answer)."""


def generator(stream: str, seed: int, *numbers: int) -> np.random.Generator:
    return np.random.default_rng((seed, STREAMS.index(stream), *numbers))


@lru_cache(maxsize=20_000)
def picture(seed: int, n: int) -> Picture:
    """The n-th training picture."""
    return make_picture(
        CYCLE[n % len(CYCLE)], "near", "train", generator("picture", seed, n)
    )


def make_picture(
    kind: str, grid: str, split: Split, rng: np.random.Generator
) -> Picture:
    """A picture of that kind of scene on that grid; a "far digit" is always far."""
    kind, grid = ("digit", "far") if kind == "far digit" else (kind, grid)
    scene = random_scene(kind, rng, split)
    file = io.BytesIO()
    draw(scene, GRIDS[grid], rng).save(file, "PNG", compress_level=1)
    return Picture(scene, grid, file.getvalue())


def caption(seed: int, n: int) -> Caption:
    """The words come in any order: so nothing but the pictures before it tells which
    attribute a list is about."""
    shown = picture(seed, n)
    rng = generator("caption", seed, n)
    if isinstance(scene := shown.scene, Pair):
        first = f"{scene.colour} {scene.shape}"
        second = f"{scene.other_colour} {scene.other_shape}"
        return Caption(
            shown, f"{first} {scene.relation} {second}", one_of((first, second), rng)
        )
    assert not isinstance(scene, Four)
    words = words_of(scene)
    some = [
        words[i] for i in rng.permutation(len(words))[: rng.integers(1, len(words))]
    ]
    return Caption(
        shown, " ".join(words[i] for i in rng.permutation(len(words))), " ".join(some)
    )


def four(seed: int, n: int, split: Split = "train") -> Caption:
    """Four things, each in its cell; the words are in reading order."""
    shown = make_picture(
        "four",
        "near",
        split,
        generator("four", seed, ("train", "test").index(split), n),
    )
    assert isinstance(shown.scene, Four)
    things = [
        f"{colour} {shape}"
        for colour, shape in zip(shown.scene.colours, shown.scene.shapes, strict=True)
    ]
    return Caption(shown, " ".join(things), things[0])


def words_of(scene: Objects | Word | Digit) -> tuple[str, ...]:
    """What a caption says of it, in some order."""
    match scene:
        case Objects():
            return scene.count, scene.size, scene.colour, scene.shape
        case Word():
            return f"word {scene.word}", scene.colour
        case Digit():
            return f"digit {scene.digit}", scene.colour


def page(seed: int, n: int, num_pictures: int) -> tuple[Picture | str, ...]:
    """Pictures and texts in reading order."""
    rng = generator("page", seed, n)
    layout = rng.random()
    if layout < 0.55:
        task = _any_task(rng, lists=True)
        kind = one_of(TASKS[task].kinds, rng)
        shown = [
            _any_picture(seed, kind, num_pictures, rng)
            for _ in range(rng.integers(3, 9))
        ]
        return tuple(
            part for each in shown for part in (each, answer(task, each.scene))
        )
    if layout < 0.9:
        parts: list[Picture | str] = []
        for _ in range(rng.integers(1, 5)):
            task = _any_task(rng)
            each = _any_picture(seed, one_of(TASKS[task].kinds, rng), num_pictures, rng)
            parts += [each, f"{ask(task, each.scene)} {answer(task, each.scene)}"]
        return tuple(parts)
    task = one_of(("colour", "digit"), rng)
    shown = [
        _any_picture(seed, one_of(TASKS[task].kinds, rng), num_pictures, rng)
        for _ in range(rng.integers(2, 4))
    ]
    said = (
        f"{ordinal} {answer(task, each.scene)}"
        for ordinal, each in zip(ORDINALS, shown, strict=False)
    )
    return (*shown, " ".join(said))


def _any_task(rng: np.random.Generator, *, lists: bool = False) -> str:
    tasks = [name for name in TASKS if not (lists and name == "relation")]
    shares = np.array([TASKS[name].share for name in tasks])
    return tasks[
        int(np.searchsorted(shares.cumsum() / shares.sum(), rng.random(), side="right"))
    ]


def _any_picture(
    seed: int, kind: str, num_pictures: int, rng: np.random.Generator
) -> Picture:
    places = [place for place, each in enumerate(CYCLE) if each == kind]
    cycle = int(rng.integers(num_pictures // len(CYCLE)))
    return picture(seed, cycle * len(CYCLE) + places[int(rng.integers(len(places)))])


def ask(task: str, scene: Scene) -> str:
    return TASKS[task].question.format(shape=getattr(scene, "shape", ""))


def answer(task: str, scene: Scene) -> str:
    return getattr(scene, task.removeprefix("small "))


def conversation(seed: int, n: int, small_share: float = 0.4) -> Conversation:
    """One or two questions about a wide picture, or one about a small digit in a far
    picture."""
    rng = generator("conversation", seed, n)
    first = "small digit" if rng.random() < small_share else _any_task(rng)
    shown = make_picture(one_of(TASKS[first].kinds, rng), "wide", "train", rng)
    others = [task for task in TASKS if task != first and _suits(task, shown.scene)]
    tasks = (
        [first]
        if first == "small digit" or not others
        else [first, one_of(others, rng)]
    )
    return Conversation(
        shown,
        tuple((ask(task, shown.scene), answer(task, shown.scene)) for task in tasks),
    )


def _suits(task: str, scene: Scene) -> bool:
    return type(scene).__name__.lower() in TASKS[task].kinds
