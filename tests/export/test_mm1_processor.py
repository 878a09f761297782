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
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers
from tokenizers.processors import TemplateProcessing

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import image_size
from mm1.data.render import Renderer
from mm1.data.tokenizer import SpecialTokens
from mm1.export.multimodal import write_multimodal
from mm1.loader.packed import PackedLoader
from mm1.prepare.image_folder import ImageFolder
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

    run = make_run(
        tmp_path / "run",
        model(),
        loader,
        kind="bpe" if kind == "unigram" else kind,
    )
    if kind == "unigram":
        unigram_run(tmp_path / "run")
    (tmp_path / "hf").mkdir()
    write_multimodal(tmp_path / "run", run, tmp_path / "hf")
    processor = AutoProcessor.from_pretrained(
        tmp_path / "hf", trust_remote_code=True
    )
    return processor, load_model(tmp_path / "run", torch.device("cpu"))[1]


def conversations(picture: bytes) -> list[list[dict[str, Any]]]:
    image = {"type": "image", "image": picture}

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
    for chat in conversations(data):
        num = sum(
            part["type"] == "image"
            for turn in chat
            if isinstance(turn["content"], list)
            for part in turn["content"]
        )
        parts = (
            Instructions.Config()
            .build()
            .document(
                {
                    "record": {"messages": chat},
                    "folder": ImageFolder(tmp_path),
                }
            )
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
        assert processor([data] * num, text)["input_ids"][0].tolist() == whole
        assert (
            processor.tokenizer.apply_chat_template(chat, tokenize=False)
            == text
        )


def unigram_run(folder: Path) -> None:
    """The run's tokenizer is a unigram model with control tokens among its words, and
    folds full-width characters, as sentencepiece does."""
    control = ["<pad>", "<end>", "<image>", "<s>", "<|turn|>"]
    letters = [(letter, -3.0) for letter in "<>|abcdefghijklmnopqrstuvwxyz /?"]
    pieces = [("<unk>", 0.0), *((name, 0.0) for name in control), *letters]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.NFKC()  # type: ignore[assignment]
    backend.add_special_tokens(["<unk>", *control])
    backend.post_processor = TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    backend.save(str(folder / "tokenizer.json"))
    special_tokens = SpecialTokens(begin="<s>", vocab_size=280)
    (folder / "special_tokens.json").write_text(special_tokens.to_json())


TYPED = (
    "is <image> <s> or </s><pad> red?",
    "<end><end> <|turn|> red <image>",
    "<\ue000image> <\ue001end> a",
    "\uff1cimage\uff1e \uff1cend\uff1e red",  # full-width
)


@pytest.mark.parametrize("kind", ["bpe", "word", "foreign", "unigram"])
def test_what_a_user_types_is_text(kind: str, tmp_path: Path) -> None:
    processor, renderer = opened(tmp_path, loader(), kind)
    data = exports.picture(1, tmp_path).read_bytes()
    control = renderer.tokenizer.control_ids
    for typed in TYPED:
        said = typed.translate({0xE000: None, 0xE001: None})
        shown = Document((Image(data, *image_size(data)), Text(f"{said}\n")))
        plain = Document((Text(f"{said}\n"),))
        halves = [typed[:9], typed[9:]]
        parts = [{"type": "text", "text": half} for half in halves]
        picture = {"type": "image", "image": data}
        for content, document in (
            ([picture, {"type": "text", "text": typed}], shown),
            ([picture, *parts], shown),
            (typed, plain),
            (parts, plain),
        ):
            chat = [{"role": "user", "content": content}]
            found = processor.apply_chat_template(chat, tokenize=True)[0]
            wanted = renderer(document, end=False).tokens
            if "\ue000" not in typed:
                assert found.tolist() == wanted.tolist()
            begin = [renderer.tokenizer.begin]
            place = [renderer.tokenizer.image] * renderer.tokens_per_image
            expected = [
                *(begin if begin != [None] else []),
                *(place if document is shown else []),
            ]
            assert [i for i in found.tolist() if i in control] == expected


@pytest.mark.parametrize("kind", ["word", "unigram"])
def test_padding_typed_in_a_prompt_is_text(kind: str, tmp_path: Path) -> None:
    processor, renderer = opened(tmp_path, loader(), kind)
    found = processor(None, "red <pad> cat")["input_ids"][0].tolist()
    assert renderer.tokenizer.pad not in found


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
            found = processor([p.read_bytes() for p in pictures], text)
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
        wanted = processor(data, "<image>")["pixel_values"]
        for form in (bytes(data), url, Pillow.open(path), array, [[data]]):
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


def test_no_file_is_read_and_no_address_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, _ = opened(tmp_path, loader())
    path = exports.picture(1, tmp_path)

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("something outside was opened")

    for place in ("socket.socket.connect", "builtins.open", "io.open"):
        monkeypatch.setattr(place, forbidden)
    for named in (
        path,
        str(path),
        f"file://{path}",
        "http://localhost:1/a.png",
        "https://example.org/a.png",
        "/dev/zero",
        "data:image/png,not base64",
        "",
    ):
        with pytest.raises(ValueError, match=r"no file is read here"):
            processor(named, "<image>")
        for part in (
            {"type": "image", "path": named},
            {"type": "image", "url": named},
            {"type": "image", "image": named},
            {"type": "image_url", "image_url": {"url": named}},
            {"type": "input_image", "image_url": named},
        ):
            with pytest.raises(ValueError, match=r"no file is read here"):
                processor.apply_chat_template(
                    [{"role": "user", "content": [part]}], tokenize=True
                )


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    processor, _ = opened(tmp_path, loader())
    picture = exports.picture(1, tmp_path).read_bytes()
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
    text, paths = exports.prompts(tmp_path)[2]
    pictures = [path.read_bytes() for path in paths]
    for name, tensor in processor(pictures, text).items():
        assert torch.equal(again(pictures, text)[name], tensor)
    assert again.chat_template == processor.chat_template
