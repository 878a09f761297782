"""Images become sub-images: decoded, resized, split; and an exported copy of the file
works alone."""

import ast
import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image as Pillow

from mm1.data import image_decoding, image_processing
from mm1.data.image_processing import (
    DYNAMIC_SPLIT_LIMIT,
    ImageError,
    ImageProcessor,
    decode_image,
    image_size,
    pil_to_tensor,
    resize,
)
from mm1.export.remote_code import remote_code
from mm1.nn.connectors.average_pool import AveragePool

MM15 = ImageProcessor(
    (672, 672), resize="pad", split="dynamic", min_tiles=4, max_tiles=9
)


def ramp(height: int, width: int) -> torch.Tensor:
    """An image whose pixels encode where they are: row in red, column in green."""
    rows, columns = torch.meshgrid(
        torch.arange(height), torch.arange(width), indexing="ij"
    )
    return torch.stack((rows, columns, torch.zeros_like(rows))).to(torch.uint8)


# --- decoding


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_formats_decode_to_three_channels(kind: str) -> None:
    assert decode_image(picture(9, 7, kind=kind).data).shape == (3, 7, 9)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "I;16"])
def test_colour_modes_become_rgb(mode: str) -> None:
    made = Pillow.fromarray(np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10))
    if mode == "I;16":
        made = Pillow.fromarray(
            np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10)
        )
    buffer = io.BytesIO()
    (made if mode == "I;16" else made.convert(mode)).save(
        buffer, "TIFF" if mode == "CMYK" else "PNG"
    )
    pixels = decode_image(buffer.getvalue())
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 6, 10)
    assert pixels.float().std() > 20  # nothing is clipped to one grey


def test_transparency_is_laid_on_white() -> None:
    buffer = io.BytesIO()
    Pillow.new("RGBA", (3, 3), (200, 0, 0, 0)).save(buffer, "PNG")
    assert (decode_image(buffer.getvalue()) == 255).all()


def test_a_rotated_photo_is_upright_and_its_size_is_known_from_the_header() -> (
    None
):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    rotated = picture(10, 4, kind="JPEG", exif=exif)
    assert image_size(rotated.data) == (4, 10)
    assert decode_image(rotated.data).shape == (3, 10, 4)


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\xff\xd8\xff\xe0" + bytes(40)]
)
def test_bytes_that_are_not_an_image_are_an_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode_image(data)


def test_a_truncated_image_is_an_error() -> None:
    for kind in ("PNG", "JPEG"):
        data = picture(64, 64, kind=kind).data
        with pytest.raises(ImageError):
            decode_image(data[: len(data) // 2])


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    small = picture(1, 1).data
    header = b"IHDR" + struct.pack(">II", 12_000, 12_000) + small[24:29]
    with pytest.raises(ImageError, match="12000 x 12000 pixels; the limit"):
        image_size(
            small[:12]
            + header
            + struct.pack(">I", zlib.crc32(header))
            + small[33:]
        )


def test_resizing_is_pillows_to_one_grey_level() -> None:
    source = picture(96, 64)
    ours = (
        resize(decode_image(source.data), (24, 32))
        .permute(1, 2, 0)
        .numpy()
        .astype(int)
    )
    image = Pillow.open(io.BytesIO(source.data)).resize(
        (32, 24), Pillow.Resampling.BICUBIC
    )
    assert np.abs(ours - np.asarray(image).astype(int)).max() <= 1


def test_encoded_and_decoded_images_have_the_same_pixels() -> None:
    """An exported processor is often given decoded images."""
    for kind in ("PNG", "JPEG"):
        data = picture(300, 200, kind=kind).data
        opened = Pillow.open(io.BytesIO(data))
        opened.load()
        assert torch.equal(decode_image(data), pil_to_tensor(opened))


# --- resizing


def test_squash_ignores_the_aspect_ratio() -> None:
    source = torch.randint(0, 256, (3, 12, 30), dtype=torch.uint8)
    assert torch.equal(
        ImageProcessor((6, 4)).fit(source, (6, 4)), resize(source, (6, 4))
    )


def test_crop_takes_the_centre() -> None:
    cropped = ImageProcessor((4, 4), resize="crop").fit(ramp(4, 9), (4, 4))
    # of 9 columns 5 are cut off: 2 on the left, 3 on the right
    assert cropped[1].tolist() == [[2, 3, 4, 5]] * 4
    wide = ImageProcessor((4, 8), resize="crop").fit(ramp(16, 8), (4, 8))
    assert wide[0].tolist() == [[6] * 8, [7] * 8, [8] * 8, [9] * 8]


def test_a_crop_rounds_the_long_side_down() -> None:
    """To 5 for 5.6 pixels, of which the last is cut off; torchvision does so."""
    pixels = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    for image in (pixels, pixels.transpose(1, 2)):
        size = (4, 5) if image.shape[2] == 7 else (5, 4)
        expected = resize(image, size)[:, :4, :4]
        given = ImageProcessor((4, 4), resize="crop")(image)
        assert torch.equal(given[0], expected)


def test_interpolation_is_the_one_that_is_asked_for() -> None:
    pixels = torch.randint(256, (3, 9, 9), dtype=torch.uint8)
    linear, cubic = (
        ImageProcessor((6, 6), interpolation=mode)(pixels)
        for mode in ("bilinear", "bicubic")
    )
    expected = torch.nn.functional.interpolate(
        pixels[None].float(), size=(6, 6), mode="bilinear", antialias=True
    )
    # uint8 arithmetic rounds; a cubic kernel overshoots by tens of grey levels
    assert (linear.float() - expected).abs().max() <= 1
    assert (cubic.float() - expected).abs().max() > 3


def test_pad_centres_the_whole_image_on_the_fill_colour() -> None:
    processor = ImageProcessor((8, 8), resize="pad", fill=(7, 8, 9))
    padded = processor.fit(ramp(5, 8), (8, 8))
    assert padded[0, :, 0].tolist() == [7, 0, 1, 2, 3, 4, 7, 7]
    assert padded[:, 0, 0].tolist() == [7, 8, 9]
    assert processor.fit(ramp(1, 100), (8, 8)).shape == (3, 8, 8)


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 7), (640, 480)]
)
def test_any_size_fits_any_target(mode: str, height: int, width: int) -> None:
    processor = ImageProcessor((6, 10), resize=mode, max_tiles=4)  # type: ignore[arg-type]
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    assert processor(pixels, (2, 2)).shape == (5, 3, 6, 10)


# --- splitting into squares


def test_square_puts_the_overview_first_then_tiles_in_row_major_order() -> None:
    processor = ImageProcessor((4, 4), max_tiles=4)
    assert [
        processor.choose_grid(w, h)[0]
        for w, h in [(7, 8), (8, 8), (80, 80), (8, 4)]
    ] == [
        1,
        2,
        2,
        1,
    ]
    whole = ramp(8, 8)
    sub_images = processor(whole, (2, 2))
    assert processor.positions((2, 2)) == [
        (0, 0),
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    ]
    assert torch.equal(sub_images[0], resize(whole, (4, 4)))
    assert torch.equal(sub_images[2], whole[:, :4, 4:])
    assert torch.equal(sub_images[3], whole[:, 4:, :4])
    assert processor.positions((1, 1)) == [(0, 0)]


@pytest.mark.parametrize(("side", "size"), [(1344, 672), (1792, 896)])
def test_large_images_of_mm1_are_five_sub_images(side: int, size: int) -> None:
    """MM1, section 5.1: 5 sub-images, 720 tokens at 144 each."""
    processor = ImageProcessor((size, size), max_tiles=4)
    assert len(processor.positions(processor.choose_grid(side, side))) == 5
    assert processor(
        torch.zeros(3, side, side, dtype=torch.uint8), (2, 2)
    ).shape == (
        5,
        3,
        size,
        size,
    )


def test_no_image_is_enlarged_to_be_split_unless_min_tiles_says_so() -> None:
    # padded, 1000 x 3000 becomes 448 x 1344
    for mode, tall in (("squash", 1), ("crop", 1), ("pad", 2)):
        processor = ImageProcessor((672, 672), resize=mode, max_tiles=4)  # type: ignore[arg-type]
        assert processor.choose_grid(1000, 3000) == (tall, tall)
        assert processor.choose_grid(671, 671) == (1, 1)
    always = ImageProcessor((672, 672), min_tiles=4, max_tiles=4)
    assert always.choose_grid(100, 100) == (2, 2)
    assert ImageProcessor((4, 4), max_tiles=12).choose_grid(100, 100) == (3, 3)


# --- splitting by aspect ratio


def test_the_grids_of_mm15() -> None:
    assert len(MM15.allowed_grids()) == 18
    assert (
        len(
            ImageProcessor(
                (672, 672), split="dynamic", min_tiles=4, max_tiles=16
            ).allowed_grids()
        )
        == 45
    )


def test_the_grid_follows_the_aspect_ratio() -> None:
    expected = {
        (1344, 1344): (2, 2),
        (1792, 1792): (3, 3),
        (1000, 3000): (4, 2),
        (3000, 1000): (2, 4),
        (6048, 672): (1, 9),
        (672, 672): (2, 2),  # 3 x 3 leaves nothing empty either: fewest tiles
        (9000, 9000): (
            3,
            3,
        ),  # no grid is large enough: the one that shrinks it least
    }
    assert {size: MM15.choose_grid(*size) for size in expected} == expected


def reference_grid(
    width: int, height: int, processor: ImageProcessor
) -> tuple[int, int]:
    """MM1.5's rule in exact fractions."""
    h, w = processor.size
    best = []
    for tiles in range(processor.min_tiles, processor.max_tiles + 1):
        for rows in range(1, tiles + 1):
            if tiles % rows:
                continue
            columns = tiles // rows
            scale = min(
                Fraction(rows * h, height), Fraction(columns * w, width)
            )
            padding = rows * h * columns * w - scale**2 * height * width
            best.append(
                (
                    (scale < 1, padding if scale >= 1 else -scale, tiles, rows),
                    (rows, columns),
                )
            )
    return min(best)[1]


def test_grids_of_many_images_match_the_reference() -> None:
    processor = ImageProcessor(
        (6, 8), split="dynamic", min_tiles=2, max_tiles=9
    )
    sizes = [(w, h) for w in range(1, 25) for h in range(1, 19)] + [
        (1, 10**8),
        (9_999, 10_000),
    ]
    width, height = np.array(sizes).T
    rows, columns = processor.choose_grids(
        width, height, *[np.ones_like(width)] * 2
    )
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        reference_grid(w, h, processor) for w, h in sizes
    ]


def test_dynamic_puts_the_overview_last_and_small_images_have_none() -> None:
    processor = ImageProcessor(
        (4, 4), split="dynamic", min_tiles=1, max_tiles=4
    )
    assert processor.choose_grid(4, 4) == (1, 1)
    assert processor.positions((1, 1)) == [(0, 0)]
    whole = ramp(4, 8)
    assert processor.positions((1, 2)) == [(1, 1), (1, 2), (0, 0)]
    sub_images = processor(whole, processor.choose_grid(8, 4))
    assert torch.equal(sub_images[1], whole[:, :, 4:])
    assert torch.equal(sub_images[2], resize(whole, (4, 4)))


def test_dynamic_splits_no_image_of_a_document_with_many() -> None:
    assert MM15.choose_grid(2000, 2000, DYNAMIC_SPLIT_LIMIT - 1) == (3, 3)
    assert MM15.choose_grid(2000, 2000, DYNAMIC_SPLIT_LIMIT) == (1, 1)
    square = ImageProcessor((4, 4), max_tiles=4)
    assert square.choose_grid(8, 8, DYNAMIC_SPLIT_LIMIT) == (
        2,
        2,
    )  # no such limit in MM1


@pytest.mark.parametrize("split", ["square", "dynamic"])
def test_split_last_splits_only_the_last_images(split: str) -> None:
    """MM1's few-shot prompts: the last shots and the question are split, earlier shots
    are not."""
    processor = ImageProcessor(
        (4, 4), split=split, min_tiles=4, max_tiles=4, split_last=2
    )  # type: ignore[arg-type]
    assert [
        processor.choose_grid(8, 8, 9, number) for number in (1, 7, 8, 9)
    ] == [
        (1, 1),
        (1, 1),
        (2, 2),
        (2, 2),
    ]
    assert processor.choose_grid(8, 8) == (2, 2)


# --- the copy in exported models


def test_the_files_import_only_what_exports_have() -> None:
    sources = [
        Path(module.__file__ or "").read_text()
        for module in (image_processing, image_decoding)
    ]
    imports = {
        name.split(".")[0]
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    assert imports == {
        "collections",
        "dataclasses",
        "importlib",
        "io",
        "jaxtyping",
        "mm1",
        "numpy",
        "PIL",
        "re",
        "torch",
        "typing",
        "warnings",
        "zlib",
    }


@pytest.mark.slow
def test_the_exported_copy_works_without_mm1(tmp_path: Path) -> None:
    """In a process that can import neither mm1 nor jaxtyping."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, text in remote_code(AveragePool.Config()).items():
        (folder / name).write_text(text)
    data = picture(70, 40, kind="JPEG").data
    (tmp_path / "image.jpg").write_bytes(data)
    options = {
        "size": (16, 16),
        "resize": "pad",
        "split": "dynamic",
        "min_tiles": 2,
        "max_tiles": 6,
        "fill": (1, 2, 3),
    }
    script = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mm1", "jaxtyping"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import torch
from exported.image_processing import ImageProcessor, decode_image, image_size
processor = ImageProcessor(**{options})
data = open("image.jpg", "rb").read()
grid = processor.choose_grid(*image_size(data))
torch.save(processor(decode_image(data), grid), "sub_images.pt")
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    processor = ImageProcessor(**options)
    expected = processor(decode_image(data), processor.choose_grid(70, 40))
    exported = torch.load(tmp_path / "sub_images.pt", weights_only=True)
    assert torch.equal(exported, expected)
