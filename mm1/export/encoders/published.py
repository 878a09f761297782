"""Published image encoders: which family a folder belongs to, and what of it is what of
ours.

A folder gives a `CLIP` where it holds a text tower, else `Features`, an encoder alone.
Heads of other tasks are left out; `Published.notes` says so, and whatever else a user
should know.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mm1.export.encoders import aim, clip, dinov2, open_clip
from mm1.export.encoders.vision import covered, finish, image_size, part, under
from mm1.export.mapping import Link
from mm1.export.options import Options
from mm1.export.preprocessor import assumed, from_preprocess_cfg, from_preprocessor
from mm1.export.weights import Weights
from mm1.nn.clip import CLIP
from mm1.nn.features import Features
from mm1.nn.vit import ViT

FAMILIES = (
    "clip",
    "siglip",
    "clip_vision_model",
    "siglip_vision_model",
    "dinov2",
    "dinov2_with_registers",
    "aimv2_vision_model",
)
"""`model_type` in the config.json of transformers."""


class Published(NamedTuple):
    """A published model in our terms."""

    family: str
    model: CLIP.Config | Features.Config
    links: list[Link]
    unused: str
    """Matches the names of tensors that are left out (see `mapping.check`)."""
    notes: list[str]
    ends: list[int] = []
    """Ids of tokens that end a caption, where the config names them."""


class Source(NamedTuple):
    """A folder and its weights."""

    folder: Path
    weights: Weights

    def options(self) -> Options:
        """AIMv2 comes with code of its own beside the weights that transformers reads
        without it."""
        return Options.read(self.folder / "config.json", without="auto_map")

    def prefix(self, *candidates: str) -> str:
        """What stands before all names where the encoder is part of a larger model."""
        return next(
            (
                c
                for c in candidates
                if any(name.startswith(c) for name in self.weights.names)
            ),
            "",
        )

    def encoder(
        self, family: str, found: dict[str, Any], notes: list[str]
    ) -> ViT.Config:
        """The options `found`, and how pictures are prepared: by the folder's file or,
        without one, as the family's."""
        config = ViT.Config(**found)
        pictures = assumed(family)
        if (self.folder / "preprocessor_config.json").is_file():
            options = Options.read(self.folder / "preprocessor_config.json")
            pictures = from_preprocessor(options, image_size(config))
        notes += pictures.notes
        return _tiled(replace(config, **pictures.options), notes)

    def alone(
        self,
        family: str,
        encoder: ViT.Config,
        links: list[Link],
        unused: str,
        notes: list[str],
    ) -> Published:
        left = sorted(name for name in self.weights.names if re.fullmatch(unused, name))
        if left:
            notes = [
                *notes,
                f"left out: {', '.join(left[:4])}"
                + (f" and {len(left) - 4} more" if len(left) > 4 else ""),
            ]
        return Published(
            family,
            Features.Config(encoder=encoder),
            under(links, "encoder.", ""),
            unused,
            notes,
        )


def _tiled(config: ViT.Config, notes: list[str]) -> ViT.Config:
    """SigLIP So400m has patches of 14 for pictures of 384 pixels: they cover 378, and
    the rest is never seen there."""
    size = covered(config.image_size, config.patch_size)
    if size != config.image_size:
        words = (
            f"its patches of {config.patch_size} cover {size} of the"
            f" {config.image_size} pixels it asks for"
        )
        notes.append(
            f"{words}; here pictures are resized to {size}, so nothing of them is"
            " left out"
        )
    return replace(config, image_size=size)


def published(folder: Path, weights: Weights) -> Published | None:
    """None: this is no image encoder that we know.

    Raises:
        ConfigError: it is one, but an option of it is not supported.
    """
    source = Source(folder, weights)
    if (
        folder / "open_clip_config.json"
    ).is_file() and "visual.conv1.weight" in weights.names:
        return _open_clip(source)
    if not (folder / "config.json").is_file():
        return _openai(source) if "visual.conv1.weight" in weights.names else None
    family = source.options().raw("model_type") or ""
    if family.startswith("siglip2"):
        why = (
            "pictures of any shape (NaFlex) are not supported; take a checkpoint of one"
            " fixed resolution"
        )
        source.options().refuse("model_type", family, why)
    if family in ("clip", "siglip"):
        return _two_towers(source, family)
    if "trunk.post_trunk_norm.weight" in weights.names:
        return _ml_aim(source)
    reader = {
        "clip_vision_model": _clip_vision,
        "siglip_vision_model": _siglip_vision,
        "dinov2": _dinov2,
        "dinov2_with_registers": _dinov2,
        "aimv2_vision_model": _aimv2,
    }.get(family)
    return reader(source) if reader else None


def _two_towers(source: Source, family: str) -> Published:
    options = source.options()
    notes = []
    vision = part(options, "vision_config")
    text = part(options, "text_config")
    end = text.raw("eos_token_id")
    dim = options.take("projection_dim", 512)
    ends = (
        [] if end in (None, 2) else [end]
    )  # 2 is what old configs of CLIP say, whatever the end token is
    finish(options, "logit_scale_init_value")
    if family == "clip":
        found = clip.clip_vision(vision)
        words = clip.clip_text(text)
        model = CLIP.Config(
            encoder=source.encoder("clip", found, notes), text=words, dim=dim
        )
        return Published(
            family, model, clip.clip_model(model), clip.UNUSED, notes, ends
        )
    found = clip.siglip_vision(vision)
    words = clip.siglip_text(text)
    encoder = source.encoder("siglip", found, notes)
    model = CLIP.Config(
        encoder=encoder, text=words, dim=None, pooling="attention", loss="sigmoid"
    )
    notes.append(
        "captions were put in lower case, without punctuation, before its tokenizer saw"
        " them: do the same"
    )
    return Published(family, model, clip.siglip_model(model), clip.UNUSED, notes)


def _clip_vision(source: Source) -> Published:
    notes = []
    encoder = source.encoder("clip", clip.clip_vision(source.options()), notes)
    links = under(clip.clip_encoder(encoder), "", source.prefix("vision_model."))
    return source.alone(
        "clip_vision_model",
        encoder,
        links,
        rf"{clip.UNUSED}|visual_projection\.weight",
        notes,
    )


def _siglip_vision(source: Source) -> Published:
    notes = []
    encoder = source.encoder("siglip", clip.siglip_vision(source.options()), notes)
    prefix = source.prefix("vision_model.")
    links = under(clip.siglip_encoder(encoder), "", prefix)
    return source.alone(
        "siglip_vision_model",
        encoder,
        links,
        rf"{clip.UNUSED}|{re.escape(prefix)}head\..*",
        notes,
    )


def _dinov2(source: Source) -> Published:
    options = source.options()
    notes = []
    family = options.need("model_type", str)
    encoder = source.encoder(
        "imagenet", dinov2.vision(options, registers=family != "dinov2"), notes
    )
    prefix = source.prefix(f"{family}.")
    links = under(dinov2.encoder(encoder), "", prefix)
    return source.alone(
        family,
        encoder,
        links,
        rf"{re.escape(prefix)}embeddings\.mask_token|classifier\..*",
        notes,
    )


def _aimv2(source: Source) -> Published:
    options = source.options()
    notes = []
    native = bool(options.raw("is_native"))
    encoder = source.encoder("clip", aim.aimv2_vision(options, native=native), notes)
    return source.alone(
        "aimv2_vision_model",
        encoder,
        aim.aimv2_encoder(encoder, native=native),
        aim.UNUSED,
        notes,
    )


def _ml_aim(source: Source) -> Published:
    """Both generations; the second's config has the keys of transformers."""
    options = source.options()
    notes = []
    if "num_blocks" in options.left:
        encoder = source.encoder("imagenet", aim.aim_vision(options), notes)
    else:
        native = "preprocessor.pos_embed" not in source.weights.names
        encoder = source.encoder(
            "clip", aim.aimv2_vision(options, native=native), notes
        )
    return source.alone("ml_aim", encoder, aim.aim_encoder(encoder), aim.UNUSED, notes)


def _open_clip(source: Source) -> Published:
    options = Options.read(source.folder / "open_clip_config.json")
    names = source.weights.names
    notes = []
    model = part(options, "model_cfg")
    pictures = part(options, "preprocess_cfg")
    options.finish()
    config = open_clip.config_of(model, sigmoid="logit_bias" in names)
    found = from_preprocess_cfg(pictures, image_size(config.encoder))
    config.encoder = _tiled(replace(config.encoder, **found.options), notes)
    text = "text." if "text.ln_final.weight" in names else ""
    return Published(
        "open_clip",
        config,
        open_clip.links(config, text=text),
        open_clip.UNUSED,
        notes + found.notes,
    )


def _openai(source: Source) -> Published:
    shapes = {
        n: source.weights.layout(n).shape
        for n in source.weights.names
        if not re.fullmatch(open_clip.UNUSED, n)
    }
    config = open_clip.openai_config(shapes)
    pictures = assumed("clip")
    config.encoder = replace(config.encoder, **pictures.options)
    return Published(
        "openai", config, open_clip.links(config), open_clip.UNUSED, pictures.notes
    )
