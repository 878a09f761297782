"""Sentences and pages about photographs of which only the label is known.

    caption       a small photo of a cat
    pages         <image> cat <image> dog <image> cat
                  <image> this is a cat <image> this is a dog
                  three photos of dogs <image> <image> <image>
                  first a cat <image> then a dog <image> last a ship <image>
    text          a ship floats on water        horse a deer b deer b horse a

Words are separated by spaces and there is no punctuation, so that a tokenizer with a
token for each word reads them, as well as that of any language model.
"""

from collections.abc import Sequence

import numpy as np

from mm1.miniature.cifar.cifar10 import LABELS, Photograph

SENTENCES = (
    "a photo of {}",
    "a picture of {}",
    "a small photo of {}",
    "a blurry picture of {}",
    "this is {}",
    "here is {}",
    "here we see {}",
    "the photo shows {}",
    "what you see is {}",
    "we are looking at {}",
    "{} in a photo",
    "{} is in the picture",
    "{}",
)
"""{} is a label with its article."""
PLURALS = {label: label if label == "deer" else f"{label}s" for label in LABELS}
NUMBERS = {2: "two", 3: "three", 4: "four"}
PHOTOS = (2, 9)
"""Photographs of a page: from, to below."""
FACTS = {
    "airplane": ("flies with wings of metal", "is a machine", "carries people"),
    "automobile": (
        "drives on a road with wheels",
        "is a machine",
        "carries people",
    ),
    "bird": ("flies with wings of feathers", "is an animal", "sits on a tree"),
    "cat": ("hunts mice at night", "is an animal", "lives in a house"),
    "deer": ("eats grass in the woods", "is an animal", "carries antlers"),
    "dog": ("barks at people", "is an animal", "lives in a house"),
    "frog": ("jumps into a pond", "is an animal", "eats flies"),
    "horse": ("eats grass in a field", "is an animal", "carries people"),
    "ship": ("floats on water", "is a machine", "carries people"),
    "truck": (
        "drives on a road with wheels",
        "is a machine",
        "carries heavy loads",
    ),
}
LETTERS = tuple("abcdefgh")

Page = Sequence[Photograph | str]
"""Photographs and texts in reading order; no two texts follow one another."""


def with_article(label: str) -> str:
    """`a cat`, `an airplane`."""
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


def caption(label: str, rng: np.random.Generator) -> str:
    """A sentence with the label."""
    return _pick(SENTENCES, rng).format(with_article(label))


def page(photographs: Sequence[Photograph], rng: np.random.Generator) -> Page:
    """A page of 2 to 8 photographs: each with its label, each in the same sentence,
    several of one kind, or a story."""
    kind = rng.choice(4, p=(0.4, 0.2, 0.2, 0.2))
    if kind == 2:
        return _of_one_kind(photographs, rng)
    shown = _draw(photographs, int(rng.integers(*PHOTOS)), rng)
    if kind == 3:
        return _story(shown)
    sentence = "{}" if kind == 0 else _pick(SENTENCES, rng)
    texts = [
        each.label if kind == 0 else sentence.format(with_article(each.label))
        for each in shown
    ]
    return [
        part
        for each, text in zip(shown, texts, strict=True)
        for part in (each, text)
    ]


def facts_or_list(rng: np.random.Generator) -> str:
    """Two to four facts, or a list that gives labels letters of its own."""
    if rng.integers(2):
        some = [LABELS[i] for i in rng.permutation(len(LABELS))[:4]]
        num = int(rng.integers(2, 5))
        return " ".join(
            f"{with_article(label)} {_pick(FACTS[label], rng)}"
            for label in some[:num]
        )
    num = int(rng.integers(2, 4))
    labels = [LABELS[i] for i in rng.permutation(len(LABELS))[:num]]
    letters = [LETTERS[i] for i in rng.permutation(len(LETTERS))[:num]]
    order = rng.integers(num, size=int(rng.integers(4, 12)))
    return " ".join(f"{labels[i]} {letters[i]}" for i in order)


def _of_one_kind(
    photographs: Sequence[Photograph], rng: np.random.Generator
) -> Page:
    """The number and the plural before the photographs, or after."""
    label = _pick(LABELS, rng)
    num = int(rng.integers(min(NUMBERS), max(NUMBERS) + 1))
    own = [each for each in photographs if each.label == label]
    shown = _draw(own, num, rng)
    words = f"{NUMBERS[num]} photos of {PLURALS[label]}"
    return [*shown, words] if rng.integers(2) else [words, *shown]


def _story(shown: Sequence[Photograph]) -> Page:
    parts: list[Photograph | str] = []
    for number, each in enumerate(shown):
        last = number == len(shown) - 1
        when = "first" if number == 0 else "last" if last else "then"
        parts += [f"{when} {with_article(each.label)}", each]
    return parts


def _draw(
    photographs: Sequence[Photograph], num: int, rng: np.random.Generator
) -> list[Photograph]:
    return [photographs[i] for i in rng.integers(len(photographs), size=num)]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
