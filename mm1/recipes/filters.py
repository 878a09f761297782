"""Predefined filters: `mm1 prepare ... filters=web_pages`, changed by further overrides
such as `filters.images.min_side=200`."""

from collections.abc import Sequence
from typing import Any

from mm1.config import ConfigError, nearest
from mm1.overrides import default_config, override
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters, ImageRules, TextRules
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source


def web_pages() -> Filters.Config:
    """Filters of MM1's interleaved pages (second-hand figures, see docs/paper.md).

    A page keeps 1 to 30 images: none that is small, huge, elongated, a button, repeated
    within the page, or on more than 10 pages.
    """
    return Filters.Config(
        images=ImageRules.Config(
            min_side=100,
            max_side=10_000,
            max_aspect=2.0,
            url_words=("logo", "button", "icon", "plugin", "widget"),
            once=True,
        ),
        duplicates=Duplicates.Config(exact=True, max_documents_of_image=10),
        min_images=1,
        max_images=30,
    )


def web_text() -> Filters.Config:
    """Filters of web text with the limits of Gopher's data (Rae et al. 2021,
    arXiv:2112.11446, table A1), without duplicates."""
    return Filters.Config(
        text=TextRules.Config(
            min_words=50,
            max_words=100_000,
            min_word_length=3.0,
            max_word_length=10.0,
            max_symbols=0.1,
            min_alphabetic=0.8,
            repetition=True,
        ),
        duplicates=Duplicates.Config(exact=True, near=0.8),
    )


SETS = {"web_pages": web_pages, "web_text": web_text}


def filters_named(name: str) -> Filters.Config:
    """Raises ConfigError if there is no such set; the message names the nearest."""
    if name not in SETS:
        raise ConfigError(f"no set of filters {name!r}{nearest(name, SETS)}")
    return SETS[name]()


def preparation_config(
    source: str, overrides: Sequence[str], **fields: Any
) -> Preparation.Config:
    """The config that a source's name and overrides say; they win over `fields`."""
    config = Preparation.Config(source=default_config(Source, source), **fields)
    for assignment in overrides:
        if assignment.startswith("filters="):
            config.filters = filters_named(assignment.removeprefix("filters="))
        else:
            override(config, assignment)
    return config
