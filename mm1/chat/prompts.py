"""The body of a request to a document and how it is continued, within limits."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from mm1.chat.protocol import (
    ApiError,
    ChatMessage,
    CompletionBody,
    GenerationBody,
    ImagePart,
    PromptBody,
    TextPart,
)
from mm1.config import UserError
from mm1.data.document import Document, Image, Text
from mm1.data.image_decoding import ImageError, open_image
from mm1.data.image_processing import image_size
from mm1.infer.dialogue import STOP, Message, PromptLayout, Speaker, lay_out
from mm1.infer.sampling import Sampling
from mm1.loaded_run import LoadedRun

IMAGE_MARK = "<image>"
DEFAULT_ANSWER = 256
"""Tokens of an answer where a request does not say."""
SPEAKERS: dict[str, Speaker] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request may ask for."""

    max_length: int = 8_192
    """Tokens of prompt and answer."""
    max_images: int = 64
    max_pixels: int = 40_000_000
    """Of an image."""
    max_body: int = 64 << 20
    """Bytes."""
    max_in_flight: int = 16
    """Requests that are waiting or being answered."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A document to continue."""

    name: str
    """The run's."""
    run: LoadedRun
    document: Document
    num_tokens: int
    """Of the prompt."""
    max_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling
    num_alternatives: int


def find_run(
    runs: Mapping[str, LoadedRun], name: str | None
) -> tuple[str, LoadedRun]:
    """The run of this name; without a name the first.

    Raises:
        ApiError: there is none.
    """
    found = next(iter(runs)) if name is None else name
    if found not in runs:
        raise ApiError(
            f"no model {name!r}; there is {' and '.join(runs)}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return found, runs[found]


def conversation(
    body: PromptBody, run: LoadedRun, limits: Limits
) -> tuple[Document, PromptLayout]:
    """The messages as a document, and in which layout.

    Raises:
        ApiError: an image is no data URL, there are too many or it is too large, or the
            last message is the assistant's, or the text is too long.
    """
    if body.messages[-1].role == "assistant":
        raise ApiError(
            "the last message is the assistant's: there is nothing to answer",
            param="messages",
        )
    parts = [
        part
        for message in body.messages
        if not isinstance(message.content, str)
        for part in message.content
    ]
    num_images = sum(isinstance(part, ImagePart) for part in parts)
    num_characters = sum(
        len(part.text) for part in parts if isinstance(part, TextPart)
    ) + sum(
        len(message.content)
        for message in body.messages
        if isinstance(message.content, str)
    )
    _check_size(num_images, num_characters, run, limits)
    messages = [_message(message, limits) for message in body.messages]
    layout = body.layout or run.layout
    return lay_out(messages, layout), layout


def marked_prompt(
    body: CompletionBody, run: LoadedRun, limits: Limits
) -> Document:
    """The prompt with images in place of their marks.

    Raises:
        ApiError: not an image for each mark, or as for `conversation`.
    """
    _check_size(len(body.images), len(body.prompt), run, limits)
    pieces = body.prompt.split(IMAGE_MARK)
    if len(pieces) - 1 != len(body.images):
        raise ApiError(
            f"the prompt has {len(pieces) - 1} {IMAGE_MARK} marks, the request"
            f" {len(body.images)} images",
            param="images",
        )
    images = [decode_data_url(url, limits) for url in body.images]
    parts: list[Text | Image] = []
    for number, piece in enumerate(pieces):
        parts += [Text(piece, loss=False)] if piece else []
        parts += images[number : number + 1]
    return Document(tuple(parts))


def generation(
    body: GenerationBody,
    name: str,
    run: LoadedRun,
    document: Document,
    layout: PromptLayout | None,
    limits: Limits,
) -> Generation:
    """How a document is continued; `layout` is None for a prompt that is not a
    conversation.

    Raises:
        ApiError: it is empty, or prompt and answer are too long.
    """
    wanted = body.most_tokens
    number = check_length(run, document, limits, wanted or 1)
    room = limits.max_length - number
    return Generation(
        name,
        run,
        document,
        number,
        wanted or min(room, DEFAULT_ANSWER),
        (*(STOP[layout] if layout else ()), *body.stops),
        Sampling(
            temperature=float(body.temperature),
            top_p=float(body.top_p),
            top_k=body.top_k,
            seed=body.seed,
        ),
        body.num_alternatives,
    )


def check_length(
    run: LoadedRun, document: Document, limits: Limits, wanted: int = 1
) -> int:
    """The number of tokens of a prompt.

    Raises:
        ApiError: it has none, or too many with the `wanted` ones of the answer.
    """
    number = len(run.predictor.renderer(document, end=False).tokens)
    if not number:
        raise ApiError("the prompt is empty")
    if number + wanted > limits.max_length:
        raise ApiError(
            f"the prompt has {number} tokens and the answer may have {wanted}; at most"
            f" {limits.max_length} are allowed together",
            code="context_length_exceeded",
        )
    return number


def decode_data_url(url: str, limits: Limits) -> Image:
    """The image of a `data:` URL. Nothing else is read: no address, no file.

    Raises:
        ApiError: it is another kind of URL, or no image, or too large.
    """
    head, comma, content = url.partition(",")
    if not comma or not head.lower().startswith("data:"):
        raise ApiError(
            f"{url[:40]!r} is no data URL: send the picture itself, as"
            " data:image/png;base64,...",
            param="image_url",
        )
    if not head.lower().endswith(";base64"):
        raise ApiError("a picture's data URL must be base64", param="image_url")
    try:
        data = base64.b64decode(content, validate=True)
    except ValueError as error:  # one that is not ASCII is no `binascii.Error`
        raise ApiError(f"not base64: {error}", param="image_url") from error
    try:
        width, height = open_image(data).size
        # only now: where the orientation follows the pixels, they are decoded
        if width * height <= limits.max_pixels:
            width, height = image_size(data)
    except ImageError as error:
        raise ApiError(str(error), param="image_url") from error
    if width * height > limits.max_pixels:
        raise ApiError(
            f"a picture of {width} x {height} pixels; the limit is"
            f" {limits.max_pixels:,} in all",
            param="image_url",
        )
    return Image(data, width, height)


def _message(message: ChatMessage, limits: Limits) -> Message:
    content = message.content
    parts: list[str | Image] = [content] if isinstance(content, str) else []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, TextPart):
            parts.append(part.text)
        else:
            parts.append(decode_data_url(part.image_url.url, limits))
    return Message(SPEAKERS[message.role], tuple(parts))


def _check_size(
    num_images: int, num_characters: int, run: LoadedRun, limits: Limits
) -> None:
    """Comes before images are decoded and text is tokenised, which take much longer
    than to count them."""
    renderer = run.trained.renderer
    if num_images > limits.max_images:
        raise ApiError(
            f"{num_images} images; at most {limits.max_images} a request"
        )
    if num_images and renderer.image_processor is None:
        raise ApiError("the model reads text only, no images")
    most = limits.max_length * renderer.tokenizer.longest_token
    if num_characters > most:
        raise ApiError(
            f"the prompt has {num_characters} characters; {limits.max_length} tokens,"
            f" the most that are allowed, have at most {most}",
            code="context_length_exceeded",
        )


def as_api_error(error: BaseException) -> ApiError:
    """An error for whoever asked; what is not their mistake stays in the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(str(error))
    return ApiError("internal error; the server's log has it", status=500)
