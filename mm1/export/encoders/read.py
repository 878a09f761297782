"""Published image encoders: which family a folder belongs to, its config in our terms,
and links between its tensors and ours.

A folder becomes a `CLIP` if it holds a text tower, else `Features`, an encoder alone.
Heads of other tasks are left out. `PublishedEncoder.notes` says so, and whatever else a
user should know.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mm1.export.encoders import aim, clip, dinov2, open_clip
from mm1.export.encoders.links import with_prefixes
from mm1.export.encoders.values import covered_size, input_size
from mm1.export.mapping import Link
from mm1.export.options import TEXT_KEYS, Options
from mm1.export.preprocessor import (
    assumed,
    from_preprocess_cfg,
    from_preprocessor,
)
from mm1.nn.clip import CLIP
from mm1.nn.features import Features
from mm1.nn.vit import ViT
from mm1.weight_files import WeightFiles


class PublishedEncoder(NamedTuple):
    """A published model in our terms."""

    family: str
    model: CLIP.Config | Features.Config
    links: list[Link]
    unused: str
    """Matches the names of tensors that are left out (see `mapping.check_import`)."""
    notes: list[str]
    end_ids: list[int] = []
    """Ids of tokens that end a caption, if the config names them."""


class EncoderFolder(NamedTuple):
    """A folder and its weights."""

    path: Path
    weights: WeightFiles

    def options(self) -> Options:
        """Without `auto_map`: AIMv2 comes with its own code, which transformers does
        not need to read the weights."""
        return Options.read(self.path / "config.json", without="auto_map")

    def prefix(self, *candidates: str) -> str:
        """The prefix of all tensors' names if the encoder is part of a larger model."""
        names = self.weights.names
        present = (
            c for c in candidates if any(name.startswith(c) for name in names)
        )
        return next(present, "")

    def encoder(
        self, family: str, options: dict[str, Any], notes: list[str]
    ) -> ViT.Config:
        """The config with these options; how pictures are prepared is told by the
        folder's file or, without one, as usual in the family."""
        config = ViT.Config(**options)
        pictures = assumed(family)
        if (self.path / "preprocessor_config.json").is_file():
            stored = Options.read(self.path / "preprocessor_config.json")
            pictures = from_preprocessor(stored, input_size(config))
        notes += pictures.notes
        return _covered(replace(config, **pictures.options), notes)

    def alone(
        self,
        family: str,
        encoder: ViT.Config,
        links: list[Link],
        unused: str,
        notes: list[str],
    ) -> PublishedEncoder:
        """An encoder without a text tower."""
        left = sorted(
            name for name in self.weights.names if re.fullmatch(unused, name)
        )
        if left:
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            notes = [*notes, f"left out: {', '.join(left[:4])}{more}"]
        return PublishedEncoder(
            family,
            Features.Config(encoder=encoder),
            with_prefixes(links, "encoder.", ""),
            unused,
            notes,
        )


def _covered(config: ViT.Config, notes: list[str]) -> ViT.Config:
    """With the picture size that whole patches cover.

    SigLIP So400m has patches of 14 for pictures of 384 pixels: they cover 378, and the
    rest is ignored there.
    """
    size = covered_size(config.image_size, config.patch_size)
    if size != config.image_size:
        notes.append(
            f"its patches of {config.patch_size} cover {size} of the"
            f" {config.image_size} pixels it asks for; here pictures are resized to"
            f" {size}, so that nothing is cut off"
        )
    return replace(config, image_size=size)


def read_published_encoder(
    folder: Path, weights: WeightFiles
) -> PublishedEncoder | None:
    """None: the folder holds no image encoder that is known here.

    Raises:
        ConfigError: it holds one with an option that is not supported.
    """
    source = EncoderFolder(folder, weights)
    openai_names = "visual.conv1.weight" in weights.names
    if openai_names and (folder / "open_clip_config.json").is_file():
        return _open_clip(source)
    if not (folder / "config.json").is_file():
        return _openai(source) if openai_names else None
    family = source.options().raw("model_type") or ""
    if family.startswith("siglip2"):
        why = (
            "pictures of any shape (NaFlex) are not supported; take a checkpoint of one"
            " fixed resolution"
        )
        source.options().refuse("model_type", family, why)
    if "trunk.post_trunk_norm.weight" in weights.names:
        return _ml_aim(source)
    reader = READERS.get(family)
    return reader(source) if reader else None


def _clip(source: EncoderFolder) -> PublishedEncoder:
    options = source.options()
    notes: list[str] = []
    vision = options.part("vision_config")
    text = options.part("text_config")
    end = text.raw("eos_token_id")
    # Old configs of CLIP say 2, whatever the end token is.
    ends = [] if end in (None, 2) else [end]
    dim = options.take("projection_dim", 512)
    options.finish(TEXT_KEYS, "logit_scale_init_value")
    encoder = source.encoder("clip", clip.from_clip_vision(vision), notes)
    model = CLIP.Config(
        encoder=encoder, text=clip.from_clip_text(text), dim=dim
    )
    links = clip.clip_links(model)
    return PublishedEncoder("clip", model, links, clip.UNUSED, notes, ends)


def _siglip(source: EncoderFolder) -> PublishedEncoder:
    options = source.options()
    notes: list[str] = []
    vision = options.part("vision_config")
    text = options.part("text_config")
    options.finish(TEXT_KEYS, "projection_dim logit_scale_init_value")
    encoder = source.encoder("siglip", clip.from_siglip_vision(vision), notes)
    model = CLIP.Config(
        encoder=encoder,
        text=clip.from_siglip_text(text),
        dim=None,
        pooling="attention",
        loss="sigmoid",
    )
    notes.append(
        "its captions were put in lower case and stripped of punctuation before they"
        " were tokenised: do the same"
    )
    links = clip.siglip_links(model)
    return PublishedEncoder("siglip", model, links, clip.UNUSED, notes)


def _clip_vision(source: EncoderFolder) -> PublishedEncoder:
    notes: list[str] = []
    options = clip.from_clip_vision(source.options())
    encoder = source.encoder("clip", options, notes)
    prefix = source.prefix("vision_model.")
    links = with_prefixes(clip.clip_vision_links(encoder), "", prefix)
    unused = rf"{clip.UNUSED}|visual_projection\.weight"
    return source.alone("clip_vision_model", encoder, links, unused, notes)


def _siglip_vision(source: EncoderFolder) -> PublishedEncoder:
    notes: list[str] = []
    options = clip.from_siglip_vision(source.options())
    encoder = source.encoder("siglip", options, notes)
    prefix = source.prefix("vision_model.")
    links = with_prefixes(clip.siglip_vision_links(encoder), "", prefix)
    unused = rf"{clip.UNUSED}|{re.escape(prefix)}head\..*"
    return source.alone("siglip_vision_model", encoder, links, unused, notes)


def _dinov2(source: EncoderFolder) -> PublishedEncoder:
    notes: list[str] = []
    options = source.options()
    family = options.need("model_type", str)
    vision = dinov2.from_dinov2(options, registers=family != "dinov2")
    encoder = source.encoder("imagenet", vision, notes)
    prefix = source.prefix(f"{family}.")
    links = with_prefixes(dinov2.dinov2_links(encoder), "", prefix)
    unused = rf"{re.escape(prefix)}embeddings\.mask_token|classifier\..*"
    return source.alone(family, encoder, links, unused, notes)


def _aimv2(source: EncoderFolder) -> PublishedEncoder:
    notes: list[str] = []
    options = source.options()
    native = bool(options.raw("is_native"))
    vision = aim.from_aimv2(options, native=native)
    encoder = source.encoder("clip", vision, notes)
    links = aim.aimv2_links(encoder, native=native)
    return source.alone("aimv2_vision_model", encoder, links, aim.UNUSED, notes)


def _ml_aim(source: EncoderFolder) -> PublishedEncoder:
    """Both generations; the second's config has the keys of transformers."""
    notes: list[str] = []
    options = source.options()
    if "num_blocks" in options.left:
        encoder = source.encoder("imagenet", aim.from_aim(options), notes)
    else:
        native = "preprocessor.pos_embed" not in source.weights.names
        vision = aim.from_aimv2(options, native=native)
        encoder = source.encoder("clip", vision, notes)
    links = aim.aim_links(encoder)
    return source.alone("ml_aim", encoder, links, aim.UNUSED, notes)


def _open_clip(source: EncoderFolder) -> PublishedEncoder:
    options = Options.read(source.path / "open_clip_config.json")
    names = source.weights.names
    notes: list[str] = []
    model = options.part("model_cfg")
    preprocessing = options.part("preprocess_cfg")
    options.finish()
    config = open_clip.from_open_clip(model, sigmoid="logit_bias" in names)
    pictures = from_preprocess_cfg(preprocessing, input_size(config.encoder))
    config.encoder = _covered(
        replace(config.encoder, **pictures.options), notes
    )
    prefix = "text." if "text.ln_final.weight" in names else ""
    links = open_clip.open_clip_links(config, text=prefix)
    notes += pictures.notes
    return PublishedEncoder("open_clip", config, links, open_clip.UNUSED, notes)


def _openai(source: EncoderFolder) -> PublishedEncoder:
    weights = source.weights
    used = [
        name
        for name in weights.names
        if not re.fullmatch(open_clip.UNUSED, name)
    ]
    config = open_clip.from_openai(
        {name: weights.layout(name).shape for name in used}
    )
    pictures = assumed("clip")
    config.encoder = replace(config.encoder, **pictures.options)
    links = open_clip.open_clip_links(config)
    return PublishedEncoder(
        "openai", config, links, open_clip.UNUSED, pictures.notes
    )


READERS: dict[str, Callable[[EncoderFolder], PublishedEncoder]] = {
    "clip": _clip,
    "siglip": _siglip,
    "clip_vision_model": _clip_vision,
    "siglip_vision_model": _siglip_vision,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
    "aimv2_vision_model": _aimv2,
}
"""By `model_type` in the config.json of transformers."""
