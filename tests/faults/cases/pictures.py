"""Images, each in a tar of captions between two good ones; what is kept is described as
decoded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from raw_files import jpeg, pairs, write_tar

from cases import Case, prepared
from mm1.data import image_decoding
from mm1.data.image_processing import decode_image
from mm1.data.prepared.shards import Shards
from mm1.prepare import verify

RED = (255, 0, 0, 255)
CLEAR = (0, 0, 255, 0)


def in_tar(data: bytes, kind: str = "jpg") -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        members = [
            *pairs(1),
            (f"bad.{kind}", data),
            ("bad.txt", b"text"),
            *pairs(1, start=1),
        ]
        outcome = prepared("captions", write_tar(folder / "a.tar", members))
        if "dropped" in outcome:
            return outcome
        (image,) = Shards(folder / "out").document(1).images
        pixels = decode_image(image.data)
        assert (image.height, image.width) == tuple(pixels.shape[1:])
        corners = [tuple(pixels[:, 0, x].tolist()) for x in (0, -1)]
        return (
            f"kept; {image.width} x {image.height}, RGB at the upper corners"
            f" {corners[0]} and {corners[1]}"
        )

    return case


def saved(picture: Pillow.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(
    mode: str, left: Any, right: Any, size: tuple[int, int] = (16, 8)
) -> Pillow.Image:
    picture = Pillow.new(mode, size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def rotated() -> bytes:
    exif = Pillow.Exif()
    # The camera was held sideways: rotate by 90 degrees clockwise.
    exif[image_decoding.EXIF_ORIENTATION] = 6
    return saved(halves("RGB", "black", "white"), exif=exif)


def palette() -> bytes:
    return saved(
        halves("RGB", (200, 0, 0), (0, 0, 200)).convert(
            "P", palette=Pillow.Palette.ADAPTIVE
        )
    )


def animated() -> bytes:
    frames = [Pillow.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def deep() -> bytes:
    values = np.full((4, 6), 30_000, dtype=np.uint16)
    values[:, 3:] = 65_535
    return saved(Pillow.fromarray(values))


def palette_with_clear_entry() -> bytes:
    return saved(
        halves("RGBA", RED, CLEAR).quantize(2), transparency=bytes([0, 255])
    )


def floats() -> bytes:
    values = np.full((4, 6), 0.25, dtype=np.float32)
    values[:, 3:] = 1
    return saved(Pillow.fromarray(values), "TIFF")


def long_text() -> bytes:
    text = PngInfo()
    text.add_itxt("workflow", "{}" * 1_000_000, zip=True)
    return saved(halves("RGB", "red", "lime"), pnginfo=text)


def endless_scans() -> bytes:
    data = saved(Pillow.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 2000 + data[-2:]


def too_many_pixels(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(image_decoding, "MAX_PIXELS", 1000)
    return in_tar(jpeg(size=(40, 40)))(folder, patch)


def too_many_bytes(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(verify, "MAX_BYTES", 1000)
    return in_tar(bytes(2000))(folder, patch)


WHOLE = jpeg(size=(64, 64))
CASES: dict[str, Case] = {
    "half a JPEG": in_tar(WHOLE[: len(WHOLE) // 2]),
    "only the header of a JPEG": in_tar(WHOLE[:200]),
    "a truncated PNG": in_tar(
        (png := jpeg(kind="PNG", size=(64, 64)))[: len(png) // 2], "png"
    ),
    "an HTML page as image": in_tar(b"<html>404</html>"),
    "an SVG": in_tar(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "empty file": in_tar(b""),
    "a URL as image": in_tar(b"https://example.org/1.jpg"),
    "PNG named .jpg": in_tar(saved(Pillow.new("RGB", (3, 2), "lime"))),
    "PNG with alpha (right half clear)": in_tar(
        saved(halves("RGBA", RED, CLEAR)), "png"
    ),
    "grey with alpha": in_tar(saved(halves("LA", (9, 255), (9, 0))), "png"),
    "palette": in_tar(palette(), "png"),
    "palette with a clear entry": in_tar(palette_with_clear_entry(), "png"),
    "black and white, one bit": in_tar(saved(halves("1", 0, 1)), "png"),
    "CMYK JPEG": in_tar(
        saved(Pillow.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")
    ),
    "16 bits per channel": in_tar(deep(), "png"),
    "rotated by EXIF": in_tar(rotated(), "png"),
    "rotated by its tag (TIFF)": in_tar(
        saved(
            halves("RGB", "black", "white"),
            "TIFF",
            tiffinfo={image_decoding.EXIF_ORIENTATION: 6},
        ),
        "tif",
    ),
    "32-bit floating point": in_tar(floats(), "tiff"),
    "PNG with 2 MB of text": in_tar(long_text(), "png"),
    "PNG with 2 MB of colour profile": in_tar(
        saved(halves("RGB", "red", "lime"), icc_profile=bytes(2_000_000)),
        "png",
    ),
    "JPEG of 2,000 scans": in_tar(endless_scans()),
    "animated GIF (its first frame is red)": in_tar(animated(), "webp"),
    "1 x 1": in_tar(saved(Pillow.new("RGB", (1, 1), "white"))),
    "12,000 x 40": in_tar(saved(halves("RGB", "black", "white", (12_000, 40)))),
    "decompression bomb (limit lowered to 1,000 pixels)": too_many_pixels,
    "absurdly large file (limit lowered to 1,000 bytes)": too_many_bytes,
}
