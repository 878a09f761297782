"""How published encoders preprocess images: transformers' `preprocessor_config.json`
and open_clip's `preprocess_cfg`.

In `ViT.Config` these are `mean`, `std`, `resize` and `interpolation`. Two things differ
from what some files say; a note tells the user:

- Our `crop` resizes the shorter side to the encoder's size and crops at the centre.
  Files that resize to more than they crop to (DINOv2: 256, then 224) let the encoder
  see a little less of the image.
- The images' size is that of the table of positions. A file may ask for another one
  (DINOv2: 224 pixels for a table of 518); start from the run with
  `encoder.image_size=224` to have it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mm1.config import ConfigError
from mm1.export.options import TEXT_KEYS, Options
from mm1.nn.vit import CLIP_MEAN, CLIP_STD, ViT

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for our interpolations."""

IDLE = """
image_processor_type feature_extractor_type processor_class _processor_class
_valid_processor_keys auto_map do_convert_rgb data_format input_data_format
default_to_square device return_tensors disable_grouping
"""
"""Keys that say nothing about pixels, or what is always so here (RGB)."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Options of `ViT.Config`, and notes for the user about them."""

    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def assumed(family: str) -> Preprocessing:
    """What a family's published encoders were trained with, for a folder without such a
    file."""
    mean, std, resize = {
        "clip": (CLIP_MEAN, CLIP_STD, "crop"),
        "siglip": (HALF, HALF, "squash"),
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD, "crop"),
    }[family]
    options = {
        "mean": mean,
        "std": std,
        "resize": resize,
        "interpolation": "bicubic",
    }
    return Preprocessing(
        options,
        [
            f"no preprocessor_config.json: assumed resize={resize!r}, mean={mean},"
            f" std={std}"
        ],
    )


def from_preprocessor(
    options: Options, input_size: tuple[int, int]
) -> Preprocessing:
    """From transformers' `preprocessor_config.json`; `input_size` is the encoder's
    (height, width).

    Raises:
        ConfigError: images are resized in a way that is not supported, or a key is
            unknown.
    """
    kind = (
        options.raw("image_processor_type")
        or options.raw("feature_extractor_type")
        or "CLIPImageProcessor"
    )
    defaults = _defaults(options, kind)
    for switch in ("do_resize", "do_rescale"):
        options.only(switch, True)
    options.only("do_pad", False)
    scale = options.take("rescale_factor", 1 / 255)
    if abs(scale * 255 - 1) > 1e-4:
        options.refuse("rescale_factor", scale, "only 1 / 255 is supported")
    mean, std = (
        options.take(f"image_{name}", list(defaults[name]))
        for name in ("mean", "std")
    )
    if not options.take("do_normalize", True):
        mean = [0.0] * 3
        std = [1.0] * 3
    resize, size, notes = _resize(options, defaults)
    interpolation = _interpolation(options)
    options.finish(TEXT_KEYS, IDLE)
    notes += (
        [] if size == input_size else [_other_size(options, size, input_size)]
    )
    return Preprocessing(_options(mean, std, resize, interpolation), notes)


def _options(
    mean: Sequence[float], std: Sequence[float], resize: str, interpolation: str
) -> dict[str, Any]:
    return {
        "mean": tuple(float(x) for x in mean),
        "std": tuple(float(x) for x in std),
        "resize": resize,
        "interpolation": interpolation,
    }


def _interpolation(options: Options) -> str:
    number = options.take("resample", 3)
    if number not in RESAMPLE:
        options.refuse(
            "resample",
            number,
            "only 2 (bilinear) and 3 (bicubic) are supported",
        )
    return RESAMPLE[number]


def _defaults(options: Options, kind: str) -> dict[str, Any]:
    """Transformers' defaults for keys that the file lacks."""
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if kind in ("CLIP", "Bit"):
        return {
            "mean": CLIP_MEAN,
            "std": CLIP_STD,
            "size": {"shortest_edge": 224},
            "crop": True,
        }
    if kind == "Siglip":
        return {
            "mean": HALF,
            "std": HALF,
            "size": {"height": 224, "width": 224},
            "crop": False,
        }
    return options.refuse(
        "image_processor_type",
        kind,
        "only those of CLIP, SigLIP and Bit can be imported",
    )


def _resize(
    options: Options, defaults: Mapping[str, Any]
) -> tuple[str, tuple[int, int], list[str]]:
    """How `ViT.Config` calls it, the resulting (height, width), and notes."""
    crops = options.take("do_center_crop", defaults["crop"])
    size = options.raw("size")
    crop = options.raw("crop_size")
    size = defaults["size"] if size is None else size
    crop = (crop or 224) if crops else None
    if isinstance(size, int):  # as transformers 4.20 wrote it
        size = (
            {"shortest_edge": size}
            if crops
            else {"height": size, "width": size}
        )
    if crop is not None:
        crop = (
            (crop, crop)
            if isinstance(crop, int)
            else (crop["height"], crop["width"])
        )
    if set(size) == {"height", "width"}:
        whole = (size["height"], size["width"])
        if crop in (None, whole):
            return "squash", whole, []
    elif (
        set(size) == {"shortest_edge"}
        and crop is not None
        and max(crop) <= size["shortest_edge"]
    ):
        edge = size["shortest_edge"]
        notes = []
        if min(crop) != edge:
            notes.append(
                f"{options.origin} resizes to {edge} pixels before it crops to"
                f" {min(crop)}; here images are resized to the cropped size, so a"
                " little more of them is seen"
            )
        return "crop", crop, notes
    words = f"with crop_size {crop}" if crop else "without a centre crop"
    return options.refuse("size", size, f"{words} that gives no fixed size")


def from_preprocess_cfg(
    options: Options, input_size: tuple[int, int]
) -> Preprocessing:
    """From open_clip's `preprocess_cfg`; missing keys have open_clip's defaults."""
    options.only("mode", "RGB")
    mode = options.choice(
        "resize_mode",
        "shortest",
        {"shortest": "crop", "squash": "squash", "longest": "pad"},
    )
    interpolation = options.choice(
        "interpolation", "bicubic", {name: name for name in RESAMPLE.values()}
    )
    mean = options.take("mean", list(CLIP_MEAN))
    std = options.take("std", list(CLIP_STD))
    size = options.raw("size")
    notes = []
    size = (
        input_size
        if size is None
        else (size, size)
        if isinstance(size, int)
        else tuple(size[-2:])
    )
    if size != input_size:
        notes.append(_other_size(options, size, input_size))
    if mode == "pad":
        notes.append(
            f"{options.origin} pads images with {options.raw('fill_color') or 0}, here"
            " they are padded with the mean colour"
        )
    options.finish(TEXT_KEYS, "fill_color")
    return Preprocessing(_options(mean, std, mode, interpolation), notes)


def to_preprocessor(
    config: ViT.Config, input_size: tuple[int, int]
) -> dict[str, Any]:
    """The equivalent `preprocessor_config.json`; CLIP's image processor can do
    everything but `pad`.

    Raises:
        ConfigError: the encoder takes padded images.
    """
    height, width = input_size
    if config.resize == "pad" or (config.resize == "crop" and height != width):
        raise ConfigError(
            "no image processor of transformers resizes like encoder.resize ="
            f" {config.resize!r}"
        )
    whole = {"height": height, "width": width}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": whole
        if config.resize == "squash"
        else {"shortest_edge": height},
        "resample": {name: number for number, name in RESAMPLE.items()}[
            config.interpolation
        ],
        "do_center_crop": config.resize == "crop",
        "crop_size": whole,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.mean),
        "image_std": list(config.std),
    }


def _other_size(
    options: Options, size: tuple[int, int], input_size: tuple[int, int]
) -> str:
    return (
        f"{options.origin} asks for images of {_pixels(size)}, the table of positions"
        f" is for {_pixels(input_size)}"
    )


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"
