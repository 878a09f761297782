"""Texts and pictures -> what MM1 reads, token for token and pixel for pixel as in its
training.

`<image>` in a text is the place of a picture, and `<end>` the end of an answer. In chat
messages pictures are parts of their own, so there every text is taken for text,
whatever it spells.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from mm1.data.image_processing import ImageProcessor, decode_image, pil_to_tensor

GUARD = "\ue000"
BOUNDARY = "\ue001"
"""Private characters: one inside what only looks like a control token, one between
texts that are tokenised apart."""


class MM1Processor(ProcessorMixin):
    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | None = None,
        image_options: Any = None,
        tokens_per_image: int = 144,
        image_mean: Sequence[float] = (0.0, 0.0, 0.0),
        image_std: Sequence[float] = (1.0, 1.0, 1.0),
        image_token: str = "<image>",
    ) -> None:
        """`image_options` are `ImageProcessor`'s; mean and std are those of red, green
        and blue in 0..1."""
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_options = image_options
        self.tokens_per_image = tokens_per_image
        self.image_token = image_token
        self.image_mean = image_mean
        self.image_std = image_std

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | Sequence[str] = "",
        *,
        add_special_tokens: bool = True,
        padding: bool | str = True,
        padding_side: str | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """A batch of prompts: `input_ids`, `attention_mask`, and `pixel_values` [N, 3,
        height, width] of all sub-images.

        A picture is a PIL image, the bytes of a file, its path, a URL, a data URL, or
        an array [height, width, 3]. They come in the order of their marks in the texts;
        lists of pictures for each text may be nested.

        Raises:
            ValueError: there are more or fewer pictures than marks, or one cannot be
                read.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pictures = [_pixels(picture) for picture in _flat(images)]
        marks = [each.count(self.image_token) for each in texts]
        if sum(marks) != len(pictures):
            raise ValueError(
                f"{sum(marks)} of {self.image_token} in the text, but {len(pictures)}"
                " pictures"
            )
        waiting = iter(pictures)
        rows = []
        sub_images: list[Tensor] = []
        for each, count in zip(texts, marks, strict=True):
            tokens, own = self._document(
                each, [next(waiting) for _ in range(count)], begin=add_special_tokens
            )
            rows.append(tokens)
            sub_images += own
        found = self.tokenizer.pad(
            {"input_ids": rows}, padding=padding, padding_side=padding_side
        )
        data = dict(found) | (
            {"pixel_values": self._normalised(torch.cat(sub_images))}
            if sub_images
            else {}
        )
        return BatchFeature(data, tensor_type=return_tensors)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """One conversation or several as text or, with `tokenize`, as the batch that
        `__call__` gives."""
        template = chat_template or self.chat_template
        if not tokenize:
            return self.tokenizer.apply_chat_template(
                conversation, chat_template=template, tokenize=False, **kwargs
            )
        conversations = (
            [conversation] if isinstance(conversation[0], dict) else conversation
        )
        guarded = [
            [self._guarded(message) for message in each] for each in conversations
        ]
        options = {
            "chat_template": template,
            "tokenize": False,
            "boundary": BOUNDARY,
        } | kwargs
        texts = self.tokenizer.apply_chat_template(guarded, **options)
        pictures = [
            picture
            for each in conversations
            for message in each
            for picture in _pictures(message)
        ]
        found = self(
            pictures, texts, return_tensors=return_tensors, **(processor_kwargs or {})
        )
        return found if return_dict else found["input_ids"]

    def _document(
        self, text: str, pictures: list[Tensor], *, begin: bool
    ) -> tuple[list[int], list[Tensor]]:
        """Tokens and sub-images of one prompt."""
        options: Any = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in self.image_options.items()
        }
        image_processor = ImageProcessor(**options)
        num = len(pictures)
        grids = [
            image_processor.choose_grid(pixels.shape[2], pixels.shape[1], num, i)
            for i, pixels in enumerate(pictures, 1)
        ]
        waiting = iter(enumerate(grids, 1))
        known = self._control_tokens()
        tokens: list[int] = []
        for piece in re.split(
            f"({'|'.join(map(re.escape, [*known, BOUNDARY]))})", text
        ):
            if piece == self.image_token:
                tokens += self._image_tokens(image_processor, *next(waiting))
            else:
                tokens += [known[piece]] if piece in known else self._plain(piece)
        first = self.tokenizer.bos_token_id
        if begin and first is not None and tokens[:1] != [first]:
            tokens = [first, *tokens]
        return tokens, [
            image_processor(pixels, grid)
            for pixels, grid in zip(pictures, grids, strict=True)
        ]

    def _image_tokens(
        self, image_processor: ImageProcessor, number: int, grid: tuple[int, int]
    ) -> list[int]:
        """The tokens of a prompt's picture `number`, counted from 1."""
        sub_image = [
            self.tokenizer.convert_tokens_to_ids(self.image_token)
        ] * self.tokens_per_image
        index = [
            self._plain(image_processor.index_text(number, position))
            if image_processor.index_tokens
            else []
            for position in image_processor.positions(grid)
        ]
        return [token for before in index for token in (*before, *sub_image)]

    def _plain(self, text: str) -> list[int]:
        """The tokens of a text that holds no control tokens, even where it spells
        one."""
        text = text.replace(GUARD, "").replace(BOUNDARY, "")
        return (
            self.tokenizer.encode(
                text, add_special_tokens=False, split_special_tokens=True
            )
            if text
            else []
        )

    def _control_tokens(self) -> dict[str, int]:
        t = self.tokenizer
        names = (self.image_token, t.eos_token, t.pad_token, t.bos_token)
        return {
            name: t.convert_tokens_to_ids(name) for name in names if name is not None
        }

    def _guarded(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with control tokens broken up where they are spelled in its
        texts."""
        names = re.compile("|".join(map(re.escape, self._control_tokens())))

        def guard(text: str) -> str:
            return names.sub(lambda found: found[0][0] + GUARD + found[0][1:], text)

        content = message["content"]
        if isinstance(content, str):
            return message | {"content": guard(content)}
        return message | {
            "content": [
                p | {"text": guard(p["text"])} if p["type"] == "text" else p
                for p in content
            ]
        }

    def _normalised(self, sub_images: Tensor) -> Tensor:
        mean = torch.tensor(self.image_mean)
        std = torch.tensor(self.image_std)
        return torch.addcmul(
            (-mean / std)[:, None, None],
            sub_images.float(),
            (1 / (255 * std))[:, None, None],
        )


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flat(image)
    elif images is not None:
        yield images


def _pictures(message: dict[str, Any]) -> Iterator[Any]:
    """Of the parts {"type": "image", "image" | "url" | "path" | "base64": ...}, or
    OpenAI's "image_url"."""
    for part in message["content"] if isinstance(message["content"], list) else ():
        found = next(
            (part[key] for key in ("image", "url", "path", "image_url") if key in part),
            None,
        )
        if part["type"] != "text" and "base64" in part:
            yield base64.b64decode(part["base64"])
        elif part["type"] != "text" and found is not None:
            yield found["url"] if isinstance(found, dict) else found


def _pixels(picture: Any) -> Tensor:
    if isinstance(picture, Image.Image):
        return pil_to_tensor(picture)
    if isinstance(picture, np.ndarray):
        return pil_to_tensor(Image.fromarray(picture))
    return decode_image(picture if isinstance(picture, bytes) else _read(str(picture)))


def _read(name: str) -> bytes:
    if name.startswith(("http://", "https://")):
        with urlopen(
            Request(name, headers={"User-Agent": "transformers"}), timeout=30
        ) as answer:
            return answer.read()
    if name.startswith("data:"):
        return base64.b64decode(name.partition(",")[2])
    return Path(name).read_bytes()
