"""What the page shows beside the conversation: the sequence that the model reads, where
it looked, and demonstrations of benchmarks."""

import base64
import io
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Pillow
from torch import Tensor

from mm1.chat.protocol import ApiError
from mm1.config import UserError
from mm1.data.document import Document, Image, Text
from mm1.data.render import RenderedDocument, Renderer
from mm1.eval.benchmarks import Benchmark
from mm1.infer.image_attention import image_attention
from mm1.loaded_run import LoadedRun

log = logging.getLogger("mm1.chat")

MAX_ATTENDED = 2_048
"""Tokens of a sequence whose attention is shown: it grows with their square."""


def describe_run(name: str, run: LoadedRun) -> dict[str, Any]:
    """What the page needs to know of a run."""
    renderer = run.trained.renderer
    benchmarks = [
        key
        for key, config in run.config.benchmarks.items()
        if issubclass(config.owner, Benchmark)
    ]
    return {
        "name": name,
        "layout": run.layout,
        "images": renderer.image_processor is not None,
        "trained_length": renderer.trained_length,
        "benchmarks": benchmarks,
    }


def describe_sequence(run: LoadedRun, document: Document) -> dict[str, Any]:
    """The rendered document piece by piece: texts as tokens, images as the sub-images
    that the encoder gets.

    Raises:
        ImageError: an image cannot be decoded.
    """
    renderer = run.trained.renderer
    sequence = renderer(document, end=False)
    return {
        "num_tokens": len(sequence.tokens),
        "trained_length": renderer.trained_length,
        "pieces": list(_pieces(renderer, sequence)),
    }


def _pieces(
    renderer: Renderer, sequence: RenderedDocument
) -> Iterator[dict[str, Any]]:
    begin = 0
    images = sequence.images_between(0, len(sequence.tokens))
    for (first, last), (number, image, grid) in zip(
        sequence.image_spans, images, strict=True
    ):
        yield from _text_piece(renderer, sequence.tokens[begin:first])
        assert renderer.image_processor is not None
        pixels = renderer.sub_images(image, grid)
        yield {
            "image": number,
            "num_tokens": last - first,
            "size": [image.width, image.height],
            "views": [
                {
                    "url": _data_url(_png(each)),
                    "position": position,
                    "num_tokens": renderer.tokens_per_image,
                }
                for each, position in zip(
                    pixels,
                    renderer.image_processor.positions(grid),
                    strict=True,
                )
            ],
        }
        begin = last
    yield from _text_piece(renderer, sequence.tokens[begin:])


def _text_piece(
    renderer: Renderer, tokens: np.ndarray
) -> Iterator[dict[str, Any]]:
    if not len(tokens):
        return
    control = renderer.tokenizer.control_ids
    yield {
        "tokens": [
            {
                "text": renderer.tokenizer.name(token),
                "id": token,
                "control": token in control,
            }
            for token in tokens.tolist()
        ]
    }


def describe_attention(
    run: LoadedRun, document: Document, said: Sequence[int]
) -> list[dict[str, Any]]:
    """For each token of an answer: the share of attention to each image, and to each of
    its tokens.

    Raises:
        ApiError: the sequence is too long, or a token is unknown.
    """
    renderer = run.trained.renderer
    sequence = renderer(document, end=False)
    if len(sequence.tokens) + len(said) > MAX_ATTENDED:
        raise ApiError(
            f"attention is shown for up to {MAX_ATTENDED} tokens; these are"
            f" {len(sequence.tokens) + len(said)}"
        )
    if not said or not all(
        0 <= token < renderer.tokenizer.vocab_size for token in said
    ):
        raise ApiError("said must be the ids of an answer's tokens")
    is_image = sequence.tokens == renderer.tokenizer.image
    counts = [
        int(is_image[first:last].sum()) for first, last in sequence.image_spans
    ]
    rows = image_attention(run.predictor, document, said)
    return [
        {
            "id": token,
            "token": renderer.tokenizer.name(token),
            "images": [part.tolist() for part in row.split(counts)],
        }
        for token, row in zip(said, rows, strict=True)
    ]


def describe_shots(
    run: LoadedRun, name: str, number: int, question: int
) -> dict[str, Any]:
    """Demonstrations of one of the run's benchmarks, and a question with its answers.

    Raises:
        ApiError: there is no such benchmark, or its files are missing or damaged.
    """
    try:
        benchmark = _benchmark(run, name)
        place = benchmark.chosen[question % len(benchmark.chosen)]
        asked = benchmark.question(benchmark.test[place])
        shots = benchmark.shots(asked, place, number)
    except ApiError:
        raise
    except (OSError, UserError) as error:
        log.warning("benchmark %s: %s", name, error)
        raise ApiError(
            f"{name}: its files are missing or damaged; the server's log says which"
        ) from error
    return {
        "shots": [
            {
                "parts": _parts(shot.parts[:-1]),
                "answer": shot.parts[-1].content.strip(),  # type: ignore[union-attr]
            }
            for shot in shots
        ],
        "question": _parts(asked.prompt.parts),
        "answers": list(dict.fromkeys(asked.answers)),
        "layout": "chat" if benchmark.config.chat else "plain",
        "max_tokens": benchmark.config.max_tokens,
    }


@lru_cache(maxsize=8)
def _benchmark(run: LoadedRun, name: str) -> Benchmark:
    """One of the run's benchmarks, whose files are read once."""
    config = run.config.benchmarks.get(name)
    if config is None or not issubclass(config.owner, Benchmark):
        raise ApiError(f"the run has no benchmark {name!r} with questions")
    return config.build()


def _parts(parts: Sequence[Text | Image]) -> list[dict[str, Any]]:
    """As a chat's message has them."""
    return [
        {"type": "text", "text": part.content}
        if isinstance(part, Text)
        else {"type": "image_url", "image_url": {"url": _data_url(part.data)}}
        for part in parts
    ]


def _png(pixels: UInt8[Tensor, "3 H W"]) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _data_url(data: bytes) -> str:
    """Browsers find out the format by themselves."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
