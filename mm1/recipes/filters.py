"""Sets of filters: `mm1 prepare ... filters=web_pages`, changed by further words such as
`filters.images.min_side=200`."""

from mm1.config import ConfigError, nearest
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters, ImageRules, TextRules


def web_pages() -> Filters.Config:
    """Interleaved pages as MM1's own were filtered (second-hand figures, see
    docs/paper.md).

    Pages keep 1 to 30 pictures: none that is small, huge, long, a button, a copy inside
    its page, or on over 10 pages.
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
    """Text of the web by the limits of Gopher's data (Rae et al. 2021,
    arXiv:2112.11446, table A1), without copies."""
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


def filters_named(name: str | None) -> Filters.Config:
    """Raises ConfigError for a name that is none; without one nothing is left out."""
    if name is None:
        return Filters.Config()
    if name not in SETS:
        raise ConfigError(f"no set of filters {name!r}{nearest(name, SETS)}")
    return SETS[name]()
