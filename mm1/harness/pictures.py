"""A run as lmms-eval asks it: questions about pictures, laid out as in fine-tuning;
nothing of that package is needed.

Where there are several ranks, each asks its own questions, and all must call together.
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
from mm1.harness.answers import Limits, answers, sequence_length
from mm1.infer.predictor import Predictor
from mm1.prepare.sources.instructions import MARK, conversation
from mm1.runs.folder import load_model


def question(text: str, pictures: Sequence[Image]) -> Document:
    """A user's turn as `mm1 prepare instructions` lays it out, with the answer to come.

    Pictures stand where the text has `<image>`; where it has another number of marks
    than pictures, or none, they come first and the marks go.
    """
    content = text if text.count(MARK) == len(pictures) else text.replace(MARK, "")
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "here"},
    ]
    return Document(conversation({"messages": turns}, list(pictures)).parts[:-1])


def encoded(picture: Any) -> Image:
    """A picture of PIL, without loss.

    Raises:
        ConfigError: it is something else: a video or a sound, by its path.
    """
    if not isinstance(picture, PIL.Image.Image):
        raise ConfigError(
            f"mm1 looks at pictures alone, this task shows {type(picture).__name__}:"
            f" {str(picture)[:80]}"
        )
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", compress_level=1)
    return Image(buffer.getvalue(), *picture.size)


class PictureModel:
    """Questions are pairs of a text and its pictures, as PIL has them."""

    def __init__(self, predictor: Predictor, max_length: int) -> None:
        """`max_length` bounds the tokens of an answer where a task would have more."""
        self.predictor = predictor
        self.max_length = max_length

    @classmethod
    def load(
        cls,
        run: str | Path,
        *,
        device: str | None = None,
        tokens_per_batch: int | None = None,
    ) -> "PictureModel":
        """A finished run, on the CPU if `device` says so, else on this rank's GPU where
        there is one.

        No answer is longer than the rows that the run was trained with (MathVista's
        tasks allow 16,384 tokens).

        Raises:
            ConfigError, FileNotFoundError: it is no run folder.
        """
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        place = (
            own
            if torch.cuda.is_available() and device != "cpu"
            else torch.device("cpu")
        )
        model, renderer, config = load_model(Path(run), place)
        max_length = sequence_length(run, config)
        return cls(
            Predictor(model, renderer, place, tokens_per_batch=tokens_per_batch),
            max_length,
        )

    def generate(
        self, asked: Sequence[tuple[str, Sequence[Any]]], wanted: Sequence[Limits]
    ) -> list[str]:
        """The greedy answer to each question."""
        documents = [
            question(text, [encoded(each) for each in shown]) for text, shown in asked
        ]
        return answers(documents, wanted, self._answer)

    def _answer(self, documents: Sequence[Document], within: Limits) -> list[str]:
        max_tokens, stop = within
        return self.predictor.generate(
            documents, max_tokens=min(max_tokens, self.max_length), stop=stop
        )
