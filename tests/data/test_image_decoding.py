"""Pictures as strangers encode them: read as they are meant, within bounds."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from mm1.data import image_decoding
from mm1.data.image_decoding import (
    EXIF_ORIENTATION,
    MAX_SCANS,
    ImageError,
    open_image,
    rgb_pixels,
)
from mm1.data.image_processing import decode_image, image_size


def saved(picture: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


RED, LIME, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128,) * 3

UPPER_CORNERS = {
    1: (RED, LIME),
    2: (LIME, RED),
    3: (GREY, BLUE),
    4: (BLUE, GREY),
    5: (RED, BLUE),
    6: (BLUE, RED),
    7: (GREY, LIME),
    8: (LIME, GREY),
}
"""Orientation -> the upper corners, once upright, of what `corners` draws."""


def corners() -> Pillow.Image:
    picture = Pillow.new("RGB", (6, 4), GREY)
    picture.putpixel((0, 0), RED)
    picture.putpixel((5, 0), LIME)
    picture.putpixel((0, 3), BLUE)
    return picture


def upper_corners(data: bytes) -> tuple[tuple[int, ...], ...]:
    pixels = decode_image(data)
    assert image_size(data) == (pixels.shape[2], pixels.shape[1])
    return tuple(tuple(pixels[:, 0, x].tolist()) for x in (0, -1))


@pytest.mark.parametrize("orientation", UPPER_CORNERS)
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_tiffs_are_upright(orientation: int, compression: str) -> None:
    data = saved(
        corners(),
        "TIFF",
        compression=compression,
        tiffinfo={EXIF_ORIENTATION: orientation},
    )
    assert upper_corners(data) == UPPER_CORNERS[orientation]


@pytest.mark.parametrize("orientation", UPPER_CORNERS)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF"])
def test_other_formats_are_upright(orientation: int, kind: str) -> None:
    exif = Pillow.Exif()
    exif[EXIF_ORIENTATION] = orientation
    lossy = {"quality": 100, "subsampling": "4:4:4"}
    options = lossy if kind == "AVIF" else {"lossless": True}
    seen = upper_corners(saved(corners(), kind, exif=exif, **options))
    # AVIF is off by the rounding of its colour space.
    difference = np.subtract(seen, UPPER_CORNERS[orientation])
    assert np.abs(difference).max() <= (3 if kind == "AVIF" else 0)


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        ([0.0, 0.25, 1.0], [0, 64, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 30_000.0, 65_535.0], [0, 117, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 5e6, 1e7], [0, 128, 255]),
        ([0.0, np.nan, 1.0], [0, 0, 255]),
        ([0.0, np.inf, 1.0], [0, 255, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
    ],
)
def test_floating_point_tiffs(values: list[float], grey: list[int]) -> None:
    picture = Pillow.fromarray(np.array([values], dtype=np.float32))
    pixels = decode_image(saved(picture, "TIFF"))
    assert pixels[:, 0].tolist() == [grey] * 3


@pytest.mark.parametrize(
    ("values", "grey"),
    [([0, 300, 65_535], [0, 1, 255]), ([0, 9, 255], [0, 9, 255])],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits(values: list[int], grey: list[int], kind: str) -> None:
    picture = Pillow.fromarray(np.array([values], dtype=np.uint16))
    assert decode_image(saved(picture, kind))[:, 0].tolist() == [grey] * 3


def test_32_bit_integers_are_stretched() -> None:
    values = np.array([[-5, 1_100_000, 2_000_005]], dtype=np.int32)
    pixels = decode_image(saved(Pillow.fromarray(values), "TIFF"))
    assert pixels[:, 0].tolist() == [[0, 140, 255]] * 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    data = saved(Pillow.new("CMYK", (8, 8), (0, 255, 255, 0)), kind)
    assert decode_image(data)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_clear_entries_of_palettes_are_white(kind: str) -> None:
    picture = Pillow.new("P", (4, 1))
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    picture.putdata([0, 1, 2, 1])
    pixels = decode_image(saved(picture, kind, transparency=1))
    assert pixels[:, 0].T.tolist() == [
        [9, 9, 9],
        [255] * 3,
        [0, 0, 200],
        [255] * 3,
    ]


TEXTS = {
    "tEXt": lambda info: info.add_text("workflow", "x" * 68_000_000),
    "zTXt": lambda info: info.add_text("prompt", "x" * 3_000_000, zip=True),
    "iTXt": lambda info: info.add_itxt("notes", "ü" * 3_000_000, zip=True),
    "many": lambda info: [
        info.add_text(f"{n}", "x" * 1_000_000, zip=True) for n in range(80)
    ],
    "XMP bomb": lambda info: info.add_itxt(
        "XML:com.adobe.xmp", "x" * 9_000_000, zip=True
    ),
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("late", [False, True], ids=["before", "behind"])
def test_any_text_may_stand_in_a_png(text: str, late: bool) -> None:
    info = PngInfo()
    TEXTS[text](info)
    data = saved(corners(), pnginfo=info)
    if late:  # behind the pixels
        at, pixels = data.index(b"IDAT") - 4, data.rindex(b"IDAT") - 4
        assert at == pixels
        end = at + 12 + int.from_bytes(data[at : at + 4])
        texts = data[33:at]
        data = data[:33] + data[at:end] + texts + data[end:]
    assert upper_corners(data) == UPPER_CORNERS[1]


def test_a_png_may_have_a_large_colour_profile() -> None:
    data = saved(corners(), icc_profile=bytes(9_000_000))
    assert upper_corners(data) == UPPER_CORNERS[1]


def test_a_text_that_says_the_orientation_is_read() -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert upper_corners(saved(corners(), pnginfo=info)) == UPPER_CORNERS[6]


def many_scans(count: int) -> bytes:
    data = saved(Pillow.new("RGB", (32, 32)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def test_scans_of_a_jpeg_are_bounded() -> None:
    few = many_scans(0).count(b"\xff\xda")
    assert decode_image(many_scans(MAX_SCANS - few)).shape == (3, 32, 32)
    message = f"JPEG of {MAX_SCANS + 1} scans; the limit is {MAX_SCANS}"
    with pytest.raises(ImageError, match=message):
        open_image(many_scans(MAX_SCANS - few + 1))


def test_markers_within_metadata_are_no_scans() -> None:
    data = saved(Pillow.new("RGB", (32, 32)), "JPEG")
    thumbnails = b"\xff\xda" * 5000
    size = (len(thumbnails) + 2).to_bytes(2)
    data = data[:2] + b"\xff\xe5" + size + thumbnails + data[2:]
    behind = many_scans(MAX_SCANS)  # another image in the same file
    assert decode_image(data + behind).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "F", "I;16"]
)
def test_strips_are_the_whole_image(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 11, 4), np.uint8)
    if mode in ("F", "I;16"):
        kind = np.float32 if mode == "F" else np.uint16
        picture = Pillow.fromarray((noise[..., 0] * 250.0).astype(kind))
    else:
        picture = Pillow.fromarray(noise, "RGBA").convert(mode)
    whole = rgb_pixels(picture)
    monkeypatch.setattr(image_decoding, "STRIP_PIXELS", 50)
    assert np.array_equal(rgb_pixels(picture), whole)
    assert whole.std() > 0


def test_pixels_are_bounded_by_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image_decoding.MAX_PIXELS_OF, "WEBP", 20)
    assert open_image(saved(corners())).size == (6, 4)
    with pytest.raises(ImageError, match="6 x 4 pixels; the limit is 20"):
        open_image(saved(corners(), "WEBP"))


@pytest.mark.long
def test_the_largest_picture_takes_less_than_a_gigabyte() -> None:
    script = """
import io, resource, sys
from PIL import Image
from mm1.data.image_processing import decode_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
data = sys.stdin.buffer.read()
before = peak()
assert decode_image(data).shape == (3, 9990, 9990)
print(peak() - before)
"""
    data = saved(Pillow.new("RGBA", (9990, 9990)))
    done = subprocess.run(
        [sys.executable, "-c", script], input=data, capture_output=True
    )
    assert int(done.stdout) < 1000, done.stderr
