"""Texts and images -> the model's inputs, with the same tokens and pixels as in
training.

`<image>` in a text is the place of an image, and `<end>` the end of an answer. In chat
messages images are parts of their own, so there text is always plain text, even if it
spells such a token. Images are data: no file is read and no address opened, whoever
names it.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from mm1.data.image_processing import (
    ImageProcessor,
    decode_image,
    pil_to_tensor,
)

GUARD = "\ue000"
BOUNDARY = "\ue001"
"""Private-use characters: one breaks up what only looks like a control token, one
separates texts that are tokenised separately."""


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
        control_tokens: Mapping[str, int] | None = None,
    ) -> None:
        """`image_options` are `ImageProcessor`'s; mean and std are those of red, green
        and blue in 0..1; `control_tokens` are the ids that no text may contain."""
        super().__init__(tokenizer, chat_template=chat_template)
        self.image_options = image_options
        self.tokens_per_image = tokens_per_image
        self.image_token = image_token
        self.control_tokens = dict(control_tokens or {})
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

        An image is a PIL image, the bytes of a file, a data URL, or an array [height,
        width, 3]. Images are in the order of their `<image>` tokens; there may be a
        nested list for each text.

        Raises:
            ValueError: the numbers of images and of `<image>` tokens differ, or an
                image cannot be read, or is a path or another URL.
        """
        texts = [text] if isinstance(text, str) else list(text)
        pixels = [_to_pixels(image) for image in _flatten(images)]
        counts = [each.count(self.image_token) for each in texts]
        if sum(counts) != len(pixels):
            raise ValueError(
                f"the text has {sum(counts)} times {self.image_token}, but there are"
                f" {len(pixels)} images"
            )
        remaining = iter(pixels)
        rows = []
        sub_images: list[Tensor] = []
        for each, count in zip(texts, counts, strict=True):
            own_pixels = [next(remaining) for _ in range(count)]
            tokens, own = self._prompt(
                each, own_pixels, begin=add_special_tokens
            )
            rows.append(tokens)
            sub_images += own
        padded = self.tokenizer.pad(
            {"input_ids": rows}, padding=padding, padding_side=padding_side
        )
        data = dict(padded)
        if sub_images:
            data["pixel_values"] = self._normalise(torch.cat(sub_images))
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
            [conversation]
            if isinstance(conversation[0], dict)
            else conversation
        )
        guarded = [
            [self._guarded(message) for message in each]
            for each in conversations
        ]
        options = {
            "chat_template": template,
            "tokenize": False,
            "boundary": BOUNDARY,
        } | kwargs
        texts = self.tokenizer.apply_chat_template(guarded, **options)
        images = [
            image
            for each in conversations
            for message in each
            for image in _images(message)
        ]
        batch = self(
            images,
            texts,
            return_tensors=return_tensors,
            **(processor_kwargs or {}),
        )
        return batch if return_dict else batch["input_ids"]

    def _prompt(
        self, text: str, images: list[Tensor], *, begin: bool
    ) -> tuple[list[int], list[Tensor]]:
        """Tokens and sub-images of one prompt."""
        options: Any = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in self.image_options.items()
        }
        image_processor = ImageProcessor(**options)
        num = len(images)
        grids = [
            image_processor.choose_grid(
                pixels.shape[2], pixels.shape[1], num, i
            )
            for i, pixels in enumerate(images, 1)
        ]
        remaining = iter(enumerate(grids, 1))
        known = self._prompt_tokens()
        tokens: list[int] = []
        for piece in re.split(
            f"({'|'.join(map(re.escape, [*known, BOUNDARY]))})", text
        ):
            if piece == self.image_token:
                tokens += self._image_tokens(image_processor, *next(remaining))
            else:
                tokens += (
                    [known[piece]] if piece in known else self._plain(piece)
                )
        first = self.tokenizer.bos_token_id
        if begin and first is not None and tokens[:1] != [first]:
            tokens = [first, *tokens]
        return tokens, [
            image_processor(pixels, grid)
            for pixels, grid in zip(images, grids, strict=True)
        ]

    def _image_tokens(
        self,
        image_processor: ImageProcessor,
        number: int,
        grid: tuple[int, int],
    ) -> list[int]:
        """The tokens of a prompt's image `number`, counted from 1."""
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
        """The tokens of a text without control tokens, even if it spells one.

        A vocabulary of words, or a unigram model, may hold a control token as an
        ordinary word: then it is split after its first character.
        """
        text = text.replace(GUARD, "").replace(BOUNDARY, "")
        control = set(self.control_tokens.values())
        ids = self._encode(text)
        if control.isdisjoint(ids):
            return ids
        split_points = "|".join(
            f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})"
            for name in sorted(self.control_tokens, key=len)
            if len(name) > 1
        )
        return [
            i
            for piece in re.split(split_points, text)
            for i in self._encode(piece)
            if i not in control
        ]

    def _encode(self, text: str) -> list[int]:
        if not text:
            return []
        return self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )

    def _prompt_tokens(self) -> dict[str, int]:
        """Those that a prompt may spell: the place of an image, an end, a beginning."""
        t = self.tokenizer
        names = (self.image_token, t.eos_token, t.bos_token)
        return {
            name: t.convert_tokens_to_ids(name)
            for name in names
            if name is not None
        }

    def _guarded(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message with control tokens broken up that its texts spell, neighbouring
        ones together, since the template puts them together."""
        names = re.compile("|".join(map(re.escape, self._prompt_tokens())))

        def guard(text: str) -> str:
            return names.sub(
                lambda match: match[0][0] + GUARD + match[0][1:], text
            )

        content = message["content"]
        if isinstance(content, str):
            return message | {"content": guard(content)}
        parts: list[dict[str, Any]] = []
        for is_text, group in groupby(content, lambda p: p["type"] == "text"):
            if is_text:
                text = "".join(part["text"] for part in group)
                parts.append({"type": "text", "text": guard(text)})
            else:
                parts += group
        return message | {"content": parts}

    def _normalise(self, sub_images: Tensor) -> Tensor:
        mean = torch.tensor(self.image_mean)
        std = torch.tensor(self.image_std)
        return torch.addcmul(
            (-mean / std)[:, None, None],
            sub_images.float(),
            (1 / (255 * std))[:, None, None],
        )


def _flatten(images: Any) -> Iterator[Any]:
    if isinstance(images, (list, tuple)):
        for image in images:
            yield from _flatten(image)
    elif images is not None:
        yield images


def _images(message: dict[str, Any]) -> Iterator[Any]:
    """Those of the parts {"type": "image", "image" | "url" | "base64": ...}, or of
    OpenAI's "image_url"."""
    for part in (
        message["content"] if isinstance(message["content"], list) else ()
    ):
        image = next(
            (
                part[key]
                for key in ("image", "url", "path", "image_url")
                if key in part
            ),
            None,
        )
        if part["type"] != "text" and "base64" in part:
            yield base64.b64decode(part["base64"])
        elif part["type"] != "text" and image is not None:
            yield image["url"] if isinstance(image, dict) else image


def _to_pixels(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        return pil_to_tensor(image)
    if isinstance(image, np.ndarray):
        return pil_to_tensor(Image.fromarray(image))
    if not isinstance(image, bytes):
        image = _from_data_url(image)
    return decode_image(image)


def _from_data_url(image: Any) -> bytes:
    """Raises ValueError for whatever names an image in place of giving it."""
    kind, comma, data = str(image).partition(",")
    if not (comma and kind.startswith("data:") and kind.endswith(";base64")):
        raise ValueError(
            f"{kind[:80]!r} is no image: give a PIL image, an array, the bytes of a"
            " file or a data URL; no file is read here and no address opened"
        )
    return base64.b64decode(data)
