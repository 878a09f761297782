"""The pictures of documents: read as `mm1.data.image_processing` does, with errors that
say what a user can mend."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

from mm1.config import ConfigError, UserError
from mm1.data import image_processing as portable
from mm1.data.document import Image
from mm1.data.image_processing import Views


class ImageError(UserError, ValueError):
    """Bytes that are no usable picture."""


@contextmanager
def _as_image_error() -> Iterator[None]:
    try:
        yield
    except portable.Unreadable as error:
        raise ImageError(str(error)) from error


def probe(data: bytes) -> tuple[int, int]:
    """(width, height) as a person sees it, from the header alone.

    Raises:
        ImageError: the bytes are no picture, or an absurdly large one.
    """
    with _as_image_error():
        return portable.probe(data)


def decode(data: bytes) -> UInt8[Tensor, "3 height width"]:
    """The pixels: RGB, upright, transparency on white.

    Raises:
        ImageError: the bytes are no picture, or a damaged one.
    """
    with _as_image_error():
        return portable.decode(data)


def see(
    image: Image, views: Views, grid: tuple[int, int] = (1, 1)
) -> UInt8[Tensor, "views 3 H W"]:
    """A picture's views; the grid is `views.grids`' choice, and 1 x 1 the whole picture
    alone.

    Raises:
        ImageError: the bytes are no picture, or a damaged one.
    """
    return views(decode(image.data), grid)


def room(num_views: int, views: Views) -> UInt8[Tensor, "N 3 H W"]:
    """Room for the views of a batch; in a worker where the training process sees it
    too: no pixel is copied again.

    The colours of a pixel lie side by side, as `mm1.data.image_processing` leaves them:
    so a view is copied as it lies.
    """
    shape = (num_views, *views.size, 3)
    worker = get_worker_info()
    if worker is None:
        return torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    size = math.prod(shape)
    piece = worker.dataset.shelf.take(size, worker.id)  # type: ignore[attr-defined]  # of `loader.load`
    return (
        torch.empty(0, dtype=torch.uint8)
        .set_(piece)[:size]
        .view(shape)
        .permute(0, 3, 1, 2)
    )


def checked(views: Views) -> Views:
    """Raises ConfigError for ways to split that contradict one another or the encoder's
    way to resize."""
    low = views.min_tiles
    high = views.max_tiles
    limits = f"loader.min_tiles={low} and loader.max_tiles={high}"
    if not 1 <= low <= high:
        raise ConfigError(
            f"{limits}: the least must be 1 or more, and the most not below it"
        )
    if views.split_last is not None and views.split_last < 1:
        raise ConfigError(
            f"loader.split_last={views.split_last}: at least the last picture may be"
            " split; loader.max_tiles=1 splits none"
        )
    if not views.allowed():
        raise ConfigError(
            "loader.split=square makes 1, 4, 9, 16 ... tiles, none of them within"
            f" {limits}; widen these, or set loader.split=dynamic"
        )
    if views.split == "dynamic" and views.resize == "crop":
        raise ConfigError(
            "loader.split=dynamic shows whole pictures in their own shape, but the"
            " encoder crops them; set loader.resize=pad (or squash), or"
            " loader.split=square"
        )
    return views
