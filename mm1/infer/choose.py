"""The likeliest of a closed set of answers, in place of free text."""

from collections.abc import Sequence
from dataclasses import replace

from mm1 import dist
from mm1.data.document import Document, Text
from mm1.infer.predictor import Predictor


def choose(
    predictor: Predictor,
    prompts: Sequence[Document],
    choices: Sequence[Sequence[Text]],
) -> list[int]:
    """Which of its choices continues each prompt with the highest likelihood, the first
    of equals.

    A choice counts with all its tokens, an end mark included, so choices of different
    lengths compete as whole answers. Where each is one token, a prompt is read only
    once. All ranks call together.

    Raises:
        ImageError: an image cannot be decoded.
    """
    tokens = [
        [predictor.renderer.text_tokens(choice) for choice in own]
        for own in choices
    ]
    if dist.all_true(all(len(each) == 1 for own in tokens for each in own)):
        single = [[each[0] for each in own] for own in tokens]
        scores = predictor.next_token_logits(prompts, single)
    else:
        documents = [
            _without_loss(prompt) + Document((choice,))
            for prompt, own in zip(prompts, choices, strict=True)
            for choice in own
        ]
        nats = iter(predictor.log_likelihood(documents))
        scores = [[next(nats) for _ in own] for own in choices]
    return [own.index(max(own)) for own in scores]


def _without_loss(prompt: Document) -> Document:
    return Document(
        tuple(
            replace(part, loss=False) if isinstance(part, Text) else part
            for part in prompt.parts
        )
    )
