"""The interface for lmms-eval, without that package: the layout of fine-tuning, images
unchanged, answers of our own predictor."""

import io
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import tiny
import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.document import Image, Text
from mm1.data.image_processing import decode_image
from mm1.harness.image_text import ImageTextModel, lossless_image, user_prompt
from mm1.prepare.conversation import parse_conversation


def shown(number: int, mode: str = "RGB") -> PIL.Image.Image:
    return PIL.Image.open(
        io.BytesIO(tiny.picture(number, side=9).data)
    ).convert(mode)


def pixels(image: Image) -> Tensor:
    return decode_image(image.data)


@pytest.mark.parametrize(
    "text",
    [
        "What is it?",
        "<image>\nWhat is it?",
        "Is <image>\nlike\n<image>?",
        "cat\nA. red",
    ],
)
def test_a_question_is_a_prefix_of_a_training_conversation(
    text: str, tmp_path: Path
) -> None:
    pictures = [tiny.picture(n) for n in range(max(1, text.count("<image>")))]
    turns = [
        {"from": "human", "value": text},
        {"from": "gpt", "value": "A cat."},
    ]
    trained = parse_conversation({"conversations": turns}, pictures)
    asked = user_prompt(text, pictures)
    assert trained.parts == (*asked.parts, Text("A cat.", end=True))
    assert not any(part.loss for part in asked.parts if isinstance(part, Text))
    assert asked.text.endswith("\n")
    renderer = tiny.predictor(tmp_path).renderer
    tokens = renderer(asked, end=False).tokens
    assert tokens.tolist() == renderer(trained).tokens[: len(tokens)].tolist()


def test_marks_are_removed_if_their_number_is_not_that_of_the_images() -> None:
    one = tiny.picture(1)
    two = tiny.picture(2)
    assert user_prompt("see <image> and say", [one, two]).parts == (
        one,
        two,
        Text("see  and say\n", loss=False),
    )
    assert user_prompt("see <image>", []).parts == (Text("see\n", loss=False),)


def test_images_are_passed_without_loss() -> None:
    for mode in ("RGB", "L", "P", "RGBA"):
        picture = shown(3, mode)
        image = lossless_image(picture)
        wanted = torch.frombuffer(
            bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8
        ).view(9, 9, 3)
        assert torch.equal(pixels(image).permute(1, 2, 0), wanted)
        assert (image.width, image.height) == (9, 9)
    with pytest.raises(
        ConfigError, match=r"images only, this task has str: film\.mp4"
    ):
        lossless_image("film.mp4")


def test_answers_match_our_own_predictor(tmp_path: Path) -> None:
    predictor = tiny.predictor(tmp_path)
    model = ImageTextModel(predictor, max_length=4)
    texts: list[tuple[str, list[Any]]] = [
        ("red cat", [shown(0)]),
        ("two dog", [shown(1), shown(2)]),
        ("sun", []),
    ]
    documents = [
        user_prompt(text, list(map(lossless_image, pictures)))
        for text, pictures in texts
    ]
    wanted = [
        predictor.generate([document], max_tokens=n)[0]
        for document, n in zip(documents, (4, 2, 4), strict=True)
    ]
    assert model.generate(texts, [(4, ()), (2, ()), (16_384, ())]) == wanted
