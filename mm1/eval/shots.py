"""Which train records demonstrate a question, and what their demonstrations look
like."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from mm1.config import ConfigError
from mm1.data.document import Document, Text


def random_candidates(num_train: int, seed: tuple[int, ...]) -> Iterator[int]:
    """All train records in a random order that belongs to the seed."""
    rng = np.random.default_rng(seed)
    seen: set[int] = set()
    while len(seen) < num_train:
        drawn = int(rng.integers(num_train))
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def select_shots(
    candidates: Iterator[int],
    demonstration: Callable[[int], Document],
    prompt: Document,
    num_shots: int,
    question_id: str,
) -> list[Document]:
    """The first candidates' demonstrations that do not give the question's answer away.

    Raises:
        ConfigError: there are too few.
    """
    shots: list[Document] = []
    while len(shots) < num_shots:
        if (candidate := next(candidates, None)) is None:
            raise ConfigError(
                f"{num_shots} shots were asked for, but only {len(shots)} train records"
                f" can demonstrate {question_id}"
            )
        shot = demonstration(candidate)
        if not _gives_away(shot, prompt):
            shots.append(shot)
    return shots


def _gives_away(shot: Document, prompt: Document) -> bool:
    """Does it show an image of the question, or ask the same question?"""
    seen = {image.data for image in prompt.images}
    same_question = shot.parts[: len(prompt.parts)] == prompt.parts
    return same_question or any(image.data in seen for image in shot.images)


def without_images(shot: Document) -> Document:
    return Document(
        tuple(part for part in shot.parts if isinstance(part, Text))
    )


def user_turn(prompt: Document) -> Document:
    """The prompt as a user's turn of a conversation: ended by a line break, and without
    loss."""
    *parts, last = (
        replace(part, loss=False) if isinstance(part, Text) else part
        for part in prompt.parts
    )
    if isinstance(last, Text):
        last = replace(last, content=last.content.rstrip("\n") + "\n")
    return Document((*parts, last))


def generate_after_shots(
    generate: Callable[..., list[str]],
    prompts: Sequence[Document],
    own: Sequence[int],
) -> list[str]:
    """The answers; prompts that begin with the most common shots share them.

    Args:
        generate: `Predictor.generate` with its options.
        prompts: shots and question.
        own: how many of each prompt's last parts are its question.
    """
    shots = [
        prompt.parts[:-num] for prompt, num in zip(prompts, own, strict=True)
    ]
    usual = Counter(shots).most_common(1)[0][0] if shots else ()
    answers = [""] * len(prompts)
    # all ranks make both calls, even with nothing to ask
    for shared in (True, False):
        members = [
            i for i, each in enumerate(shots) if (each == usual) == shared
        ]
        texts = generate([prompts[i] for i in members], share_prefix=shared)
        for i, text in zip(members, texts, strict=True):
            answers[i] = text
    return answers
