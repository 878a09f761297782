"""Our image encoders and CLIPs as classes of transformers: which one has room for all
options of ours.

    CLIPVisionModel   class token, norm before the blocks, patches without bias
    SiglipVisionModel no class token: our plain ViT (written without its attention head)
    Dinov2Model       class token, layer scale or none, MLP or SwiGLU
    Dinov2WithRegistersModel    the same with registers
    Aimv2VisionModel  RMSNorm, a norm after the patches, SwiGLU (written without its
                      attention head)
    CLIPModel         CLIPVisionModel and a causal text tower read at its end token;
                      softmax
    SiglipModel       SiglipVisionModel with its attention head and a text tower that
                      sees padding; sigmoid

What theirs always has and ours lacks is written as what does nothing: biases of zero,
layer scales of one. Everything else that has no room there is an error that names the
option, and so is a new field that a class neither places nor refuses yet (see
`mm1.export.fields`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mm1.config import ConfigError
from mm1.export.encoders.aim import aimv2_links, to_aimv2
from mm1.export.encoders.clip import (
    clip_links,
    clip_vision_links,
    siglip_links,
    siglip_vision_links,
    to_clip,
    to_clip_vision,
    to_siglip,
    to_siglip_vision,
)
from mm1.export.encoders.dinov2 import dinov2_links_with_mask, to_dinov2
from mm1.export.encoders.links import with_prefixes
from mm1.export.fields import Fields
from mm1.export.mapping import Link
from mm1.nn.clip import CLIP
from mm1.nn.vit import ViT


@dataclass(frozen=True, slots=True)
class EncoderFormat:
    """A class of transformers that holds an image encoder alone."""

    name: str
    to_config: Callable[[Fields], dict[str, Any]]
    links: Callable[[ViT.Config], list[Link]]
    prefix: str = ""
    """Of all names in its files, as transformers 4 wrote them; 5 reads them with and
    without it."""

    def config(self, encoder: ViT.Config) -> dict[str, Any]:
        """`config.json`; valid if there are no `misfits`."""
        return self._written(encoder)[0]

    def misfits(self, encoder: ViT.Config) -> list[str]:
        """The fields that have no room in it."""
        return self._written(encoder)[1].misfits()

    def _written(self, encoder: ViT.Config) -> tuple[dict[str, Any], Fields]:
        fields = Fields(encoder, ViT, "encoder", self.to_config)
        return self.to_config(fields), fields


CLIP_VISION = EncoderFormat(
    "CLIPVisionModel", to_clip_vision, clip_vision_links, "vision_model."
)
SIGLIP_VISION = EncoderFormat(
    "SiglipVisionModel", to_siglip_vision, siglip_vision_links, "vision_model."
)
DINOV2 = EncoderFormat("Dinov2Model", to_dinov2, dinov2_links_with_mask)
AIMV2 = EncoderFormat("Aimv2VisionModel", to_aimv2, aimv2_links)

ENCODER_FORMATS = (CLIP_VISION, SIGLIP_VISION, DINOV2, AIMV2)


def encoder_format(encoder: ViT.Config) -> EncoderFormat:
    """The format that has room for all fields of an encoder.

    Raises:
        ConfigError: there is none; the nearest ones are named, and what does not fit.
    """
    misfits = {each.name: each.misfits(encoder) for each in ENCODER_FORMATS}
    for each in ENCODER_FORMATS:
        if not misfits[each.name]:
            return each
    raise ConfigError(
        "no image encoder of transformers has all options of this one:"
        f" {_nearest(misfits)}"
    )


def _nearest(misfits: dict[str, list[str]]) -> str:
    """What the formats with the fewest misfits have no room for."""
    fewest = min(len(names) for names in misfits.values())
    return "; ".join(
        f"{format_name} has no room for {', '.join(names)}"
        for format_name, names in misfits.items()
        if len(names) == fewest
    )


def to_published_encoder(
    encoder: ViT.Config,
) -> tuple[dict[str, Any], list[Link]]:
    """`config.json`, and links from our ViT's tensors.

    Raises:
        ConfigError: no class of transformers has room for all fields.
    """
    chosen = encoder_format(encoder)
    return chosen.config(encoder), with_prefixes(
        chosen.links(encoder), "", chosen.prefix
    )


def to_published_clip(model: CLIP.Config) -> tuple[dict[str, Any], list[Link]]:
    """`config.json` of a CLIPModel or SiglipModel, and links from our CLIP's tensors.

    Raises:
        ConfigError: neither has room for all fields; they are named.
    """
    as_clip = Fields(model, CLIP, "", to_clip)
    clip = to_clip(as_clip)
    if not as_clip.misfits():
        return clip, clip_links(model)
    as_siglip = Fields(model, CLIP, "", to_siglip)
    siglip = to_siglip(as_siglip)
    if not as_siglip.misfits():
        return siglip, siglip_links(model)
    misfits = {
        "CLIPModel": as_clip.misfits(),
        "SiglipModel": as_siglip.misfits(),
    }
    raise ConfigError(
        "no model of transformers has both towers as they are here:"
        f" {_nearest(misfits)}. `--part encoder` exports the image encoder alone"
    )
