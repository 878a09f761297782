"""The processor of an export gives the tokens of our renderer and the pixels of our
views."""

import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import exports
import numpy as np
import pytest
import torch
from exports import loader, make_run, model, modules
from PIL import Image as Pillow

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import image_size
from mm1.data.render import Renderer
from mm1.export.multimodal import write_multimodal
from mm1.loader.packed import PackedLoader
from mm1.prepare.sources.instructions import Instructions
from mm1.runs.weights import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("modules"),
]  # transformers takes seconds to import
__all__ = ["modules"]  # a fixture


def opened(
    tmp_path: Path, loader: PackedLoader.Config, kind: str = "bpe"
) -> tuple[Any, Renderer]:
    """The processor of an exported run, and the run's own renderer."""
    from transformers import AutoProcessor

    run = make_run(tmp_path / "run", model(), loader, kind=kind)
    (tmp_path / "hf").mkdir()
    write_multimodal(tmp_path / "run", run, tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(
        tmp_path / "hf", trust_remote_code=True
    )
    return processor, load_model(tmp_path / "run", torch.device("cpu"))[1]


def conversations(picture: str) -> list[list[dict[str, Any]]]:
    image = {"type": "image", "path": picture}

    def say(text: str) -> dict[str, str]:
        return {"type": "text", "text": text}

    def user(*content: Any) -> dict[str, Any]:
        return {"role": "user", "content": list(content)}

    def assistant(text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": [say(text)]}

    return [
        [
            user(image, say("\nwhat red?")),
            assistant(" Cat. "),
            user(say("and two?")),
            assistant("dog\nsun"),
        ],
        [
            user(say("  red "), image, say("\n\ngreen\nblue  "), image),
            assistant("cat"),
        ],
        [
            {"role": "system", "content": "answer "},
            {"role": "user", "content": "question"},
            assistant("two"),
        ],
        [
            user(image),
            assistant("sun"),
            user(image, image, say("   ")),
            assistant("three"),
        ],
        [
            user(
                say("red"), say("green"), image, image, say("blue"), say(" cat")
            ),
            assistant("two three"),
        ],
    ]


@pytest.mark.parametrize("kind", ["bpe", "word", "foreign"])
def test_the_chat_template_lays_out_as_our_instructions(
    kind: str, tmp_path: Path
) -> None:
    processor, renderer = opened(tmp_path, loader(max_tiles=4), kind)
    picture = exports.picture(1, tmp_path)
    data = picture.read_bytes()
    for chat in conversations(str(picture)):
        num = sum(
            part["type"] == "image"
            for turn in chat
            if isinstance(turn["content"], list)
            for part in turn["content"]
        )
        parts = (
            Instructions.Config()
            .build()
            .document({"record": {"messages": chat}, "images": [data] * num})
            .parts
        )
        sized = tuple(
            Image(data, *image_size(data)) if isinstance(part, Image) else part
            for part in parts
        )
        whole = processor.apply_chat_template(chat, tokenize=True)[0].tolist()
        assert whole == renderer(Document(sized)).tokens.tolist()
        asked = processor.apply_chat_template(
            chat[:-1], tokenize=True, add_generation_prompt=True
        )[0].tolist()
        assert (
            asked == renderer(Document(sized[:-1]), end=False).tokens.tolist()
        )
        # As text, and then as tokens: the same, since nothing here spells a control
        # token.
        text = processor.apply_chat_template(chat)
        assert (
            processor([picture] * num, text)["input_ids"][0].tolist() == whole
        )
        assert (
            processor.tokenizer.apply_chat_template(chat, tokenize=False)
            == text
        )


def test_what_a_user_types_is_text(tmp_path: Path) -> None:
    processor, renderer = opened(tmp_path, loader(), "foreign")
    picture = exports.picture(1, tmp_path)
    data = picture.read_bytes()
    typed = "is <image> <s> or </s><pad> red?"
    chat = [
        {
            "role": "user",
            "content": [
                {"type": "image", "path": str(picture)},
                {"type": "text", "text": typed},
            ],
        }
    ]
    document = Document((Image(data, *image_size(data)), Text(f"{typed}\n")))
    wanted = renderer(document, end=False).tokens
    assert (
        wanted == renderer.tokenizer.image
    ).sum() == renderer.tokens_per_image
    assert (
        processor.apply_chat_template(chat, tokenize=True)[0].tolist()
        == wanted.tolist()
    )
    plain = [{"role": "user", "content": typed}]
    wanted = renderer(Document((Text(f"{typed}\n"),)), end=False).tokens
    assert (
        processor.apply_chat_template(plain, tokenize=True)[0].tolist()
        == wanted.tolist()
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tiles": 4},
        {"max_tiles": 9, "min_tiles": 4},
        {"split": "dynamic", "max_tiles": 6},
        {"split": "dynamic", "max_tiles": 6, "index_tokens": True},
    ],
    ids=str,
)
def test_views_and_their_tokens(
    options: dict[str, Any], tmp_path: Path
) -> None:
    processor, renderer = opened(tmp_path, loader(**options))
    for resize in (
        ("squash", "pad", "crop")
        if options.get("split") != "dynamic"
        else ("squash", "pad")
    ):
        processed = replace(renderer.image_processor, resize=resize)
        renderer = replace(renderer, image_processor=processed)
        processor.image_options["resize"] = resize
        for text, pictures in exports.prompts(tmp_path):
            document = exports.document(text, pictures)
            found = processor(pictures, text)
            sequence = renderer(document, end=False)
            assert found["input_ids"][0].tolist() == sequence.tokens.tolist()
            if pictures:
                views = torch.cat(
                    [
                        renderer.sub_images(i, g)
                        for i, g in zip(
                            document.images, sequence.grids, strict=True
                        )
                    ]
                )
                assert torch.equal(
                    found["pixel_values"], processor._normalise(views)
                )


def test_a_picture_is_the_same_in_every_form(tmp_path: Path) -> None:
    processor, _ = opened(tmp_path, loader(max_tiles=4))
    for kind in ("PNG", "JPEG"):
        path = exports.picture(1, tmp_path, kind)
        data = path.read_bytes()
        url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
        array = np.asarray(Pillow.open(path))
        wanted = processor(path, "<image>")["pixel_values"]
        for form in (data, str(path), url, Pillow.open(path), array, [[path]]):
            assert torch.equal(
                processor(form, "<image>")["pixel_values"], wanted
            )
        for part in (
            {"type": "image", "image": Pillow.open(path)},
            {"type": "image", "url": url},
            {"type": "image", "base64": base64.b64encode(data).decode()},
            {"type": "image_url", "image_url": {"url": url}},
        ):
            found = processor.apply_chat_template(
                [{"role": "user", "content": [part]}],
                tokenize=True,
                return_dict=True,
            )
            assert torch.equal(found["pixel_values"], wanted)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    processor, _ = opened(tmp_path, loader())
    picture = exports.picture(1, tmp_path)
    with pytest.raises(
        ValueError, match="the text has 2 times <image>, but there are 1 images"
    ):
        processor(picture, "<image> and <image>")
    with pytest.raises(ValueError, match="not an image in a known format"):
        processor(BytesIO(b"nothing").getvalue(), "<image>")
    with pytest.raises(TypeError, match="truncation"):
        processor(picture, "<image>", truncation=True)


def test_it_is_saved_and_opened_again(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    processor, _ = opened(tmp_path, loader(max_tiles=4))
    processor.save_pretrained(tmp_path / "again")
    again = AutoProcessor.from_pretrained(
        tmp_path / "again", trust_remote_code=True
    )
    text, pictures = exports.prompts(tmp_path)[2]
    for name, tensor in processor(pictures, text).items():
        assert torch.equal(again(pictures, text)[name], tensor)
    assert again.chat_template == processor.chat_template
