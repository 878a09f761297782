"""Options of how images are split that contradict one another."""

from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor


def check_split(image_processor: ImageProcessor) -> None:
    """Raises ConfigError for split options that contradict one another or the encoder's
    resize mode."""
    low = image_processor.min_tiles
    high = image_processor.max_tiles
    limits = f"loader.min_tiles={low} and loader.max_tiles={high}"
    if not 1 <= low <= high:
        raise ConfigError(
            f"{limits}: the minimum must be at least 1, and at most the maximum"
        )
    split_last = image_processor.split_last
    if split_last is not None and split_last < 1:
        raise ConfigError(
            f"loader.split_last={split_last} must be at least 1; loader.max_tiles=1"
            " splits no image"
        )
    if not image_processor.allowed_grids():
        raise ConfigError(
            "loader.split=square makes 1, 4, 9, 16 ... tiles, none of them within"
            f" {limits}; widen these, or set loader.split=dynamic"
        )
    if image_processor.split == "dynamic" and image_processor.resize == "crop":
        raise ConfigError(
            "loader.split=dynamic keeps whole images in their aspect ratio, but the"
            " encoder crops them; set loader.resize=pad (or squash), or"
            " loader.split=square"
        )
