"""Our models with image encoders in the published shapes that have room for them.

    CLIPVisionModel      class token, norm before the blocks, patches without bias
    SiglipVisionModel    patches alone: our plain ViT (written without its attention head)
    Dinov2Model          class token, patches with bias, layer scale or none, MLP or SwiGLU; ...WithRegistersModel
    Aimv2VisionModel     RMSNorm, a norm after the patches, SwiGLU (written without its attention head)
    CLIPModel            a CLIPVisionModel and a causal text tower read at its end token, softmax
    SiglipModel          a SiglipVisionModel with its attention head and a text tower that sees padding, sigmoid

What theirs always has and ours lacks is written as what does nothing: biases of zero,
layer scales of one. Everything else that has no place there is an error that names the
options.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mm1.config import ConfigError
from mm1.export.encoders import aim, clip, dinov2
from mm1.export.encoders.vision import image_size, under
from mm1.export.mapping import Link
from mm1.nn.clip import CLIP
from mm1.nn.vit import ViT

Needs = Mapping[str, Any]
"""Option -> the one value that a format has room for."""


@dataclass(frozen=True, slots=True)
class Format:
    """A class of transformers that holds an image encoder alone."""

    name: str
    needs: Needs
    config: Callable[[ViT.Config], dict[str, Any]]
    links: Callable[[ViT.Config], list[Link]]
    prefix: str = ""
    """Begins all names in its files, as transformers 4 wrote them; 5 reads them with
    and without."""

    def misfits(self, config: ViT.Config) -> list[str]:
        """The options that have no place in it."""
        height, width = image_size(config)
        square = (
            []
            if height == width
            else [f"image_size={height, width}, which must be square"]
        )
        return square + _misfits(config, self.needs)


PLAIN = {"norm": "layer", "patch_norm": False}
TOWER = PLAIN | {"num_registers": 0, "layer_scale": None, "feed_forward": "mlp"}

CLIP_VISION = Format(
    "CLIPVisionModel",
    TOWER | {"class_token": True, "pre_norm": True, "patch_bias": False},
    clip.clip_vision_config,
    clip.clip_encoder,
    "vision_model.",
)
SIGLIP_VISION = Format(
    "SiglipVisionModel",
    TOWER | {"class_token": False, "pre_norm": False},
    clip.siglip_vision_config,
    clip.siglip_encoder,
    "vision_model.",
)
DINOV2 = Format(
    "Dinov2Model",
    PLAIN | {"class_token": True, "pre_norm": False},
    dinov2.published,
    dinov2.whole,
)
AIMV2 = Format(
    "Aimv2VisionModel",
    {
        "norm": "rms",
        "patch_norm": True,
        "feed_forward": "swiglu",
        "bias": False,
        "class_token": False,
    }
    | {"pre_norm": False, "num_registers": 0, "layer_scale": None},
    aim.aimv2_config,
    aim.aimv2_encoder,
)

FORMATS = (CLIP_VISION, SIGLIP_VISION, DINOV2, AIMV2)

TEXT = {"causal": True, "read": "end", "output_bias": False}
SIGLIP_TEXT = {"causal": False, "read": "last", "output_bias": True}


def encoder_format(config: ViT.Config) -> Format:
    """Raises ConfigError where none has room for all options; the nearest one and what
    does not fit it are named."""
    misfits = {kind.name: (kind, kind.misfits(config)) for kind in FORMATS}
    nearest, wrong = min(misfits.values(), key=lambda found: len(found[1]))
    if wrong:
        raise ConfigError(
            "no image encoder of transformers has all options of this one;"
            f" {nearest.name}, the nearest, has no room for"
            f" encoder.{', encoder.'.join(wrong)}"
        )
    return nearest


def published_encoder(config: ViT.Config) -> tuple[dict[str, Any], list[Link]]:
    """config.json, and links from the names of our ViT's own tensors."""
    kind = encoder_format(config)
    return kind.config(config), under(kind.links(config), "", kind.prefix)


def published_clip(config: CLIP.Config) -> tuple[dict[str, Any], list[Link]]:
    """config.json of a CLIPModel or SiglipModel, and links from the names of our CLIP's
    tensors.

    Raises:
        ConfigError: neither has room for all options; they are named.
    """
    pooling = config.pooling or ("class" if config.encoder.class_token else "mean")
    softmax = _misfits(config, {"loss": "softmax"}) + [
        f"pooling={pooling!r}, which must be 'class'"
    ] * (pooling != "class")
    softmax += ["dim=None, which must be a width"] * (config.dim is None) + _both(
        CLIP_VISION, config, TEXT
    )
    sigmoid = _misfits(config, {"loss": "sigmoid", "pooling": "attention", "dim": None})
    sigmoid += _both(SIGLIP_VISION, config, SIGLIP_TEXT)
    if softmax and sigmoid:
        name, wrong = min(
            ("CLIPModel", softmax),
            ("SiglipModel", sigmoid),
            key=lambda found: len(found[1]),
        )
        raise ConfigError(
            f"no model of transformers has both towers as they are here; {name}, the"
            f" nearest, has no room for {', '.join(wrong)}. `--part encoder` exports"
            " the image encoder alone"
        )
    if softmax:
        return clip.siglip_config(config), clip.siglip_model(config)
    return clip.clip_config(config), clip.clip_model(config)


def _both(kind: Format, config: CLIP.Config, text: Needs) -> list[str]:
    misfits = [f"encoder.{wrong}" for wrong in kind.misfits(config.encoder)]
    return misfits + [f"text.{wrong}" for wrong in _misfits(config.text, text)]


def _misfits(config: Any, needs: Needs) -> list[str]:
    found = ((key, getattr(config, key), value) for key, value in needs.items())
    return [
        f"{key}={given!r}, which must be {value!r}"
        for key, given, value in found
        if given != value
    ]
