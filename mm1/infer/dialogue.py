"""Messages of a conversation, or shots and a question, as a document.

    chat     <image>what colour?\\n red<end> <image>how many?\\n
    plain    <image>what colour? red\\n <image>how many?

`chat` is how instructions are laid out for fine-tuning (`mm1.prepare.conversation`),
`plain` how benchmarks lay out demonstrations for a pre-trained model
(`mm1.eval.benchmarks`): the words are those of the caller, with nothing around them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.prepare.conversation import question_parts

PromptLayout = Literal["chat", "plain"]
Speaker = Literal["system", "user", "assistant"]

PLAIN_ANSWER = " {}\n"
"""An answer in the plain layout; the line break is a stop string."""
STOP: dict[PromptLayout, tuple[str, ...]] = {"chat": (), "plain": ("\n",)}
"""What ends an answer in each layout, besides the end token."""


@dataclass(frozen=True, slots=True)
class Message:
    speaker: Speaker
    parts: tuple[str | Image, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))


def lay_out(messages: Sequence[Message], layout: PromptLayout) -> Document:
    """The messages in order. Only a last one of the assistant carries loss: its
    likelihood can be asked for.

    Raises:
        ConfigError: an assistant's message has images.
    """
    parts: list[Text | Image] = []
    for number, message in enumerate(messages, 1):
        if message.speaker == "assistant":
            parts.append(_answer(message, layout, number == len(messages)))
        elif layout == "chat":
            parts += question_parts(message.parts, "")
        else:
            parts += _as_written(message.parts)
    return Document(tuple(parts))


def _answer(message: Message, layout: PromptLayout, last: bool) -> Text:
    if any(isinstance(part, Image) for part in message.parts):
        raise ConfigError("an assistant's message can only be text")
    text = message.text.strip()
    if layout == "chat":
        return Text(text, loss=last, end=True)
    return Text(PLAIN_ANSWER.format(text), loss=last)


def _as_written(parts: Sequence[str | Image]) -> Iterator[Text | Image]:
    for part in parts:
        if isinstance(part, Image):
            yield part
        elif part:
            yield Text(part, loss=False)
