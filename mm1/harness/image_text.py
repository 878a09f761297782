"""A run behind lmms-eval's interface: questions about images, laid out as in
fine-tuning. Does not import that package.

With several ranks each one asks its own questions, and all must call together.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from mm1.config import ConfigError
from mm1.data.document import Document, Image
from mm1.harness.limits import Limits, answer_within_limits, sequence_length
from mm1.infer.predictor import Predictor
from mm1.prepare.conversation import parse_conversation
from mm1.prepare.placeholders import IMAGE_PLACEHOLDER
from mm1.prepare.turns import ConversationSource
from mm1.runs.weights import load_model


def user_prompt(text: str, images: Sequence[Image]) -> Document:
    """A user's turn as laid out by `mm1 prepare instructions`, up to the answer.

    Images go where the text has `<image>`. If their number differs from that of the
    marks, they come first and the marks are removed.
    """
    content = text
    if text.count(IMAGE_PLACEHOLDER) != len(images):
        content = text.replace(IMAGE_PLACEHOLDER, "")
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "here"},
    ]
    conversation = parse_conversation(
        {"messages": turns},
        list(images),
        ConversationSource.Config(placeholder=IMAGE_PLACEHOLDER),
    )
    return Document(conversation.parts[:-1])


def lossless_image(image: Any) -> Image:
    """A PIL image as a PNG.

    Raises:
        ConfigError: it is not an image, but the path of a video or of audio.
    """
    if not isinstance(image, PIL.Image.Image):
        raise ConfigError(
            f"mm1 takes images only, this task has {type(image).__name__}:"
            f" {str(image)[:80]}"
        )
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)
    return Image(buffer.getvalue(), *image.size)


class ImageTextModel:
    """Questions are pairs of a text and its PIL images."""

    def __init__(self, predictor: Predictor, max_length: int) -> None:
        """`max_length` bounds the tokens of an answer whatever the task asks for."""
        self.predictor = predictor
        self.max_length = max_length

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str | None = None,
        tokens_per_batch: int | None = None,
    ) -> "ImageTextModel":
        """A finished run, on the CPU with `device="cpu"`, else on this rank's GPU if
        there is one.

        Answers are no longer than the sequences the run was trained with (MathVista's
        tasks allow 16,384 tokens).

        Raises:
            ConfigError, FileNotFoundError: it is not the run of a language model.
        """
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        use_gpu = torch.cuda.is_available() and device != "cpu"
        place = own if use_gpu else torch.device("cpu")
        model, renderer, config = load_model(Path(run), place)
        max_length = sequence_length(run, config)
        return cls(
            Predictor(
                model, renderer, place, tokens_per_batch=tokens_per_batch
            ),
            max_length,
        )

    def generate(
        self,
        questions: Sequence[tuple[str, Sequence[Any]]],
        limits: Sequence[Limits],
    ) -> list[str]:
        """The greedy answer to each question."""
        documents = [
            user_prompt(text, [lossless_image(image) for image in images])
            for text, images in questions
        ]
        return answer_within_limits(documents, limits, self._answer)

    def _answer(
        self, documents: Sequence[Document], limits: Limits
    ) -> list[str]:
        max_tokens, stop = limits
        return self.predictor.generate(
            documents, max_tokens=min(max_tokens, self.max_length), stop=stop
        )
