"""Encoded images -> 8-bit RGB, within bounds of pixels, memory and time.

An exported model ships a copy of this file beside `image_processing` (see
`mm1.export.remote_code`). It may therefore import nothing but numpy, Pillow, the
standard library and the errors of `mm1.config`.

Bytes are not trusted. Before a decoder allocates anything, the header says how many
pixels there are and, of a JPEG, how many scans pass over them; text and colour profiles
of a PNG, which may be of any size, are taken out, since nothing here reads them.
"""

import io
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from mm1.config import UserError

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    *(["AVIF"] if find_spec("PIL._avif") else []),
)
"""Formats that are decoded, AVIF where Pillow was built with it. Pillow knows more, and
runs external programs for some of them; untrusted bytes must not get there."""

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded (decompression bombs). Measured
for the largest ones: 0.75 GB, and 1.2 GB for 16-bit TIFFs of one strip."""

MAX_PIXELS_OF = {"WEBP": 60_000_000, "AVIF": 60_000_000}
"""Their decoders take twice the memory."""

MAX_FRAMES = 1000
"""Pages of a TIFF that are taken apart."""

MAX_SCANS = 100
"""Passes over all pixels of a JPEG, libtiff's limit; encoders make some ten. A scan of
a hundred bytes may take as long as a whole image."""

STRIP_PIXELS = 1 << 22
"""Larger images are converted in strips of so many pixels, so that only the decoded
image and its RGB are held whole."""

EXIF_ORIENTATION = 0x0112

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
PNG_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Texts that may hold the orientation of a PNG; kept, up to `MAX_PNG_TEXT` bytes."""
MAX_PNG_TEXT = 1 << 19

JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
JPEG_SCAN = b"\xff\xda"
JPEG_END = b"\xff\xd9"


class ImageError(UserError, ValueError):
    """Bytes that are not a usable image."""


def open_image(data: bytes) -> Pillow.Image:
    """The image that encoded bytes hold, not decoded yet.

    Raises:
        ImageError: the bytes are not an image, or it exceeds a bound.
    """
    if data.startswith(PNG_SIGNATURE):
        data = _without_png_text(data)
    try:
        with warnings.catch_warnings():
            # Pillow's own bomb warning; our stricter check follows
            warnings.simplefilter("ignore")
            image = Pillow.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a known format") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Pillow.DecompressionBombError,
    ) as error:
        raise ImageError(f"unreadable image: {error}") from error
    _check_size(image)
    if data.startswith(b"\xff\xd8") and (scans := _num_scans(data)) > MAX_SCANS:
        raise ImageError(f"JPEG of {scans:,} scans; the limit is {MAX_SCANS}")
    return image


def _check_size(image: Pillow.Image) -> None:
    width, height = image.size
    most = min(MAX_PIXELS, MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS))
    if width < 1 or height < 1 or width * height > most:
        raise ImageError(
            f"image of {width} x {height} pixels; the limit is {most:,} in all"
        )


def encoded_frames(data: bytes) -> list[bytes]:
    """The pages of a TIFF, each as a PNG where there are several; of any other format
    the data as it is.

    Raises:
        ImageError: the bytes are not an image, or a page exceeds a bound.
    """
    image = open_image(data)
    if image.format != "TIFF" or not _seek(image, 1):
        return [data]
    pages = []
    while _seek(image, number := len(pages)):
        if number == MAX_FRAMES:
            raise ImageError(f"TIFF of more than {MAX_FRAMES:,} pages")
        try:
            _check_size(image)
            pixels = rgb_pixels(upright(image))
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise ImageError(f"page {number + 1}: {error}") from error
        buffer = io.BytesIO()
        Pillow.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        pages.append(buffer.getvalue())
    return pages


def _seek(image: Pillow.Image, number: int) -> bool:
    """Go to a page of a TIFF; false where there is none."""
    try:
        image.seek(number)
    except EOFError:
        return False
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"page {number + 1}: {error}") from error
    return True


def upright_size(image: Pillow.Image) -> tuple[int, int]:
    """(width, height) after EXIF rotation of an image that is not decoded yet."""
    transposed = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    # Pillow gives the size of a TIFF as it will be once decoded.
    if transposed and image.format != "TIFF":
        return image.height, image.width
    return image.width, image.height


def upright(image: Pillow.Image) -> Pillow.Image:
    """The image as it is to be seen; decodes it. The one given may be changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, for example
        image.load()  # some formats store the orientation after the pixels
        if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
            ImageOps.exif_transpose(image, in_place=True)
    return image


def rgb_pixels(image: Pillow.Image) -> UInt8[np.ndarray, "height width 3"]:
    """RGB, transparency on white.

    More than 8 bits are reduced to 8: 16 bits to the upper 8 (values that all fit in 8
    stay), floating-point values from 0..1 where none is greater, else as 16 bits.
    Values outside 0..65,535 are stretched from their least to their greatest.
    """
    convert = _deep_to_8_bits(image) if _is_deep(image) else _to_rgb
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    if height <= rows:
        return np.asarray(convert(image), dtype=np.uint8)
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    top = 0
    for strip in _strips(image, rows):
        pixels[top : top + strip.height] = np.asarray(convert(strip))
        top += strip.height
    return pixels


def _strips(image: Pillow.Image, rows: int) -> Iterator[Pillow.Image]:
    for top in range(0, image.height, rows):
        bottom = min(image.height, top + rows)
        yield image.crop((0, top, image.width, bottom))


def _is_deep(image: Pillow.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _deep_to_8_bits(
    image: Pillow.Image,
) -> Callable[[Pillow.Image], Pillow.Image]:
    """How to convert strips of an image of one channel and more than 8 bits."""
    rows = max(1, STRIP_PIXELS // image.width)
    ranges = [_finite_range(strip) for strip in _strips(image, rows)]
    low = min(each[0] for each in ranges)
    high = max(each[1] for each in ranges)
    least = 0.0
    rounding = 0.5
    if low < 0 or high > 65_535:
        least = low
        factor = 255 / max(high - low, 1e-30)
    elif image.mode == "F" and high <= 1:
        factor = 255.0
    else:
        factor = 1 / 256 if high > 255 else 1.0
        rounding = 0.0

    def convert(strip: Pillow.Image) -> Pillow.Image:
        values = np.array(strip, dtype=np.float32)
        np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
        values -= least
        values *= factor
        values += rounding
        grey = Pillow.fromarray(values.clip(0, 255).astype(np.uint8))
        return grey.convert("RGB")

    return convert


def _finite_range(strip: Pillow.Image) -> tuple[float, float]:
    values = np.asarray(strip)
    if strip.mode == "F":
        values = values[np.isfinite(values)]
    return (
        (float(values.min()), float(values.max()))
        if values.size
        else (0.0, 0.0)
    )


def _to_rgb(image: Pillow.Image) -> Pillow.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        return Pillow.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _without_png_text(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, of which Pillow refuses large
    ones."""
    view = memoryview(data)
    pieces = []
    start = at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4])
        kind = bytes(view[at + 4 : at + 8])
        if kind in PNG_TEXT and not _says_orientation(
            kind, view[at + 8 : end - 4]
        ):
            pieces.append(view[start:at])
            start = end
        at = end
    if not pieces:
        return data
    return b"".join([PNG_SIGNATURE, *pieces, view[start:]])


def _says_orientation(kind: bytes, content: memoryview) -> bool:
    """Whether a text of a PNG is one that may hold the orientation, and not too
    large."""
    keyword, _, rest = bytes(content[: MAX_PNG_TEXT + 1]).partition(b"\0")
    if keyword not in PNG_ORIENTATION or len(content) > MAX_PNG_TEXT:
        return False
    packed = rest[1:] if kind == b"zTXt" else b""
    if kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(packed, MAX_PNG_TEXT)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


def _num_scans(data: bytes) -> int:
    """Scans of the first image of a JPEG file."""
    if (most := data.count(JPEG_SCAN)) <= MAX_SCANS:
        return (
            most  # more of them than there are scans, where metadata have some
        )
    scans = 0
    at = 2
    while marker := JPEG_MARKER.search(data, at):
        if marker[0] == JPEG_END:
            break
        scans += marker[0] == JPEG_SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2])
        at = marker.end() + max(2, length)
    return scans
