"""Pictures as callers from Python have them, as `Image`s."""

import io
from pathlib import Path

from PIL import Image as Pillow

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.data.image_decoding import rgb_pixels, upright
from mm1.data.image_processing import ImageError, image_size

Picture = Pillow.Image | Image | bytes | Path | str
"""A Pillow image, encoded bytes, or the path of a file."""


def encoded_image(picture: Picture) -> Image:
    """The picture as encoded bytes; a Pillow image as a PNG of the pixels that training
    would see: RGB, upright, transparency on white.

    Raises:
        ConfigError: it is a URL, or nothing that is a picture.
        FileNotFoundError: there is no such file.
        ImageError: the bytes are not an image; the message names the file.
    """
    if isinstance(picture, Image):
        return picture
    if isinstance(picture, Pillow.Image):
        return _png(picture)
    if isinstance(picture, str) and "://" in picture[:16]:
        raise ConfigError(f"{picture}: download the picture, and give its path")
    if isinstance(picture, str | Path):
        try:
            return encoded_image(Path(picture).read_bytes())
        except ImageError as error:
            raise ImageError(f"{picture}: {error}") from error
    if not isinstance(picture, bytes):
        raise ConfigError(
            f"no picture, but a value of type {type(picture).__name__}: give a PIL"
            " image, the path of a file, or its bytes"
        )
    return Image(picture, *image_size(picture))


def _png(picture: Pillow.Image) -> Image:
    buffer = io.BytesIO()
    pixels = rgb_pixels(upright(picture.copy()))
    Pillow.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    height, width, _ = pixels.shape
    return Image(buffer.getvalue(), width, height)
