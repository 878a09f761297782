"""Tokenizer, pictures, rendering and collation: what one document looks like to a model."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mm1.batch import IGNORE
from mm1.data.collate import Span, collate
from mm1.data.document import Document, Image, Text
from mm1.data.images import ImageError, Views, decode, probe, resize
from mm1.data.render import Renderer, text_length
from mm1.data.tokenizer import Tokenizer, train_tokenizer


def picture(width: int = 8, height: int = 8, *, kind: str = "PNG", mode: str = "RGB", **options: object) -> Image:
    rng = np.random.default_rng(width * 1000 + height)
    shape = {"L": (height, width), "RGBA": (height, width, 4)}.get(mode, (height, width, 3))
    made = Pillow.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode if mode in ("L", "RGBA") else None)
    buffer = io.BytesIO()
    made.convert(mode).save(buffer, kind, **options)
    return Image(buffer.getvalue(), width, height)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(["a cat two dogs sit"], tmp_path_factory.mktemp("t") / "t.json", kind="word", vocab_size=50)


@pytest.fixture(scope="module")
def renderer(tokenizer: Tokenizer) -> Renderer:
    return Renderer(tokenizer, Views((4, 4)), tokens_per_image=2)


# --- the vocabulary


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    made = train_tokenizer(["some words"] * 9, tmp_path / "tokenizer.json", vocab_size=300)
    ids = made.encode("an <image> and <end><pad>")
    assert not {made.image, made.end, made.pad} & set(ids)
    assert made.decode(ids) == "an <image> and <end><pad>"
    assert pickle.loads(pickle.dumps(made)).encode("an <image>") == made.encode("an <image>")


def test_byte_pairs_spell_any_text(tmp_path: Path) -> None:
    made = train_tokenizer(["plain"], tmp_path / "tokenizer.json", vocab_size=300)
    assert made.decode(made.encode("naïve 漢字 🦊\x00\n")) == "naïve 漢字 🦊\x00\n"


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_text(tokenizer.text.replace("<image>", "<picture>"))
    with pytest.raises(ValueError, match="<image>"):
        Tokenizer.Config(path=str(tmp_path)).build()
    with pytest.raises(FileNotFoundError, match="mm1 tokenizer"):
        Tokenizer.Config(path=str(tmp_path / "none.json")).build()


# --- pictures


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_decode_to_three_channels(kind: str) -> None:
    assert decode(picture(9, 7, kind=kind).data).shape == (3, 7, 9)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "I;16"])
def test_colour_modes_become_rgb(mode: str) -> None:
    made = Pillow.fromarray(np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10))
    if mode == "I;16":
        made = Pillow.fromarray(np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10))
    buffer = io.BytesIO()
    (made if mode == "I;16" else made.convert(mode)).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    pixels = decode(buffer.getvalue())
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 6, 10)
    assert pixels.float().std() > 20  # nothing is clipped to one grey


def test_transparency_is_laid_on_white() -> None:
    buffer = io.BytesIO()
    Pillow.new("RGBA", (3, 3), (200, 0, 0, 0)).save(buffer, "PNG")
    assert (decode(buffer.getvalue()) == 255).all()


def test_a_rotated_photo_is_upright_and_its_size_is_known_from_the_header() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    rotated = picture(10, 4, kind="JPEG", exif=exif)
    assert probe(rotated.data) == (4, 10)
    assert decode(rotated.data).shape == (3, 10, 4)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\xff\xd8\xff\xe0" + bytes(40)])
def test_what_is_no_picture_says_so(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data)


def test_half_a_picture_says_so() -> None:
    for kind in ("PNG", "JPEG"):
        data = picture(64, 64, kind=kind).data
        with pytest.raises(ImageError):
            decode(data[: len(data) // 2])


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    header = io.BytesIO()
    Pillow.new("1", (20_000, 20_000)).save(header, "PNG")
    with pytest.raises(ImageError, match="limit"):
        probe(header.getvalue())


def test_resizing_is_pillows_to_one_grey_level() -> None:
    source = picture(96, 64)
    ours = resize(decode(source.data), (24, 32)).permute(1, 2, 0).numpy().astype(int)
    image = Pillow.open(io.BytesIO(source.data)).resize((32, 24), Pillow.Resampling.BICUBIC)
    assert np.abs(ours - np.asarray(image).astype(int)).max() <= 1


def test_large_pictures_become_an_overview_and_tiles_row_by_row() -> None:
    views = Views((4, 4), max_tiles=4)
    assert [int(views.count(w, h)) for w, h in [(7, 8), (8, 8), (80, 80), (8, 4)]] == [1, 5, 5, 1]
    source = picture(8, 8)
    seen, whole = views(source), decode(source.data)
    assert seen.shape == (5, 3, 4, 4)
    assert torch.equal(seen[0], resize(whole, (4, 4)))
    assert torch.equal(seen[2], whole[:, :4, 4:])
    assert torch.equal(seen[3], whole[:, 4:, :4])
    assert Views((4, 4), max_tiles=9).count(100, 100) == 10


# --- documents


def test_a_document_is_laid_out_as_drawn(renderer: Renderer, tokenizer: Tokenizer) -> None:
    sequence = renderer(Document((picture(), Text("a cat"))))
    image, (a, cat) = tokenizer.image, tokenizer.encode("a cat")
    assert sequence.tokens.tolist() == [image, image, a, cat, tokenizer.end]
    assert sequence.learn.tolist() == [False, False, True, True, True]


def test_questions_are_not_learnt_and_answers_end_themselves(renderer: Renderer, tokenizer: Tokenizer) -> None:
    asked = Document((Text("two", loss=False), Text("dogs", end=True)))
    assert renderer(asked).learn.tolist() == [False, True, True]
    assert renderer(asked).tokens.tolist()[-1] == tokenizer.end
    assert len(renderer(Document((Text("two", loss=False),)), end=False).tokens) == 1


@pytest.mark.parametrize(
    "document",
    [
        Document((Text("a cat"),)),
        Document((picture(), Text("a cat"), Text("two", end=True))),
        Document((Text("sit", end=True), picture())),
    ],
)
def test_lengths_known_from_counts_are_the_lengths_rendered(document: Document, renderer: Renderer) -> None:
    counts = [len(renderer.tokenizer.encode(p.content)) for p in document.parts if isinstance(p, Text)]
    assert len(renderer(document).tokens) == text_length(document, counts) + 2 * len(document.images)


def test_a_picture_for_a_model_without_eyes_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="without an image encoder"):
        Renderer(tokenizer, None)(Document((picture(),)))


# --- batches


def test_targets_never_cross_a_document_and_pictures_are_no_targets(renderer: Renderer, tokenizer: Tokenizer) -> None:
    one, two = renderer(Document((picture(), Text("a cat")))), renderer(Document((Text("two dogs"),)))
    batch = collate([[Span.whole(one), Span.whole(two)]], renderer, row_length=10)
    (a, cat, _two, dogs), end, _ = tokenizer.encode("a cat two dogs"), tokenizer.end, IGNORE
    assert batch.targets.tolist() == [_, a, cat, end, _, dogs, end, _, _, _]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1]
    assert batch.boundaries.tolist() == [0, 5, 8, 10]
    assert batch.slots.tolist() == [[0, 1]]
    assert (batch.num_targets, batch.num_padding, batch.num_pairs, batch.longest) == (5, 2, 15 + 6 + 3, 5)


def test_a_cut_document_loses_no_target(renderer: Renderer, tokenizer: Tokenizer) -> None:
    text = renderer(Document((Text("a cat two dogs"),)))
    batch = collate([[Span(text, 0, 2)], [Span(text, 2, 5)]], renderer, row_length=3)
    a, cat, two, dogs = tokenizer.encode("a cat two dogs")
    del a
    assert batch.targets.tolist() == [cat, two, IGNORE, dogs, tokenizer.end, IGNORE]


def test_a_batch_without_pictures_carries_a_blank_one_without_a_place(renderer: Renderer) -> None:
    batch = collate([[Span.whole(renderer(Document((Text("sit"),))))]], renderer)
    assert batch.images.shape == (1, 3, 4, 4)
    assert batch.images.sum() == 0
    assert len(batch.slots) == 0


def test_a_damaged_picture_is_named_with_its_document(renderer: Renderer) -> None:
    broken = Document((Image(b"nothing", 4, 4), Text("sit")))
    with pytest.raises(ImageError, match=r"page 7, picture 1: .*not a picture"):
        collate([[Span(renderer(broken), 0, 4, key="page 7")]], renderer)
