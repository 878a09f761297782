"""Filters: images and documents that a rule refuses, each for a reason that is counted.

Images are filtered first, each on its own, then the document that remains. What depends
on other files, above all duplicates, is in `mm1.prepare.deduplicate`.
"""

from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from mm1.config import ConfigError, Configurable
from mm1.data.document import Document, Image, Text
from mm1.prepare.content_hash import image_hash
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.repetition import find_repetition
from mm1.prepare.sources import Unusable
from mm1.prepare.verify import ImageCheck
from mm1.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    Share,
)


class ImageRules(Configurable):
    """Which images stay. A source that requires its images drops the whole document."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        min_side: NonNegativeInt = 0
        """Pixels of the shorter side."""
        max_side: PositiveInt | None = None
        """Pixels of the longer side."""
        max_aspect: Annotated[float, Range(1)] | None = None
        """The longer side over the shorter one."""
        url_words: tuple[str, ...] = ()
        """An image with one of these words in the path of its URL, such as "logo", is
        dropped; lower case."""
        once: bool = False
        """Of copies in one document, keep only the first."""

        def build(self) -> "ImageRules":
            return self.make()

    def __init__(self, config: Config) -> None:
        _check_order("images", config, "side")
        self.config = config

    def for_one_document(self, check: ImageCheck) -> ImageCheck:
        """`check`, which decodes, with the rules before and after it.

        Rules on URL and hash come first, so that images they refuse are not decoded.
        """
        seen: set[int] = set()

        def check_with_rules(image: Image) -> Image:
            self._check_undecoded(image, seen)
            image = check(image)
            self._check_size(image)
            return image

        return check_with_rules

    def _check_undecoded(self, image: Image, seen: set[int]) -> None:
        if self.config.url_words and image.url:
            path = urlsplit(image.url).path.lower()
            for word in self.config.url_words:
                if word in path:
                    raise Unusable(
                        "word in image URL", f"{word!r} in {image.url[:200]}"
                    )
        if self.config.once and image.data:
            if (known := image_hash(image)) in seen:
                raise Unusable(
                    "repeated image", "it is in the document already"
                )
            seen.add(known)

    def _check_size(self, image: Image) -> None:
        short, long = sorted((image.width, image.height))
        size = f"{image.width} x {image.height} pixels"
        if short < self.config.min_side:
            raise Unusable("image too small", size)
        if self.config.max_side is not None and long > self.config.max_side:
            raise Unusable("image too large", size)
        if (
            self.config.max_aspect is not None
            and long > self.config.max_aspect * short
        ):
            raise Unusable("image too long", size)


class TextRules(Configurable):
    """Which documents stay, by all of their text together. Words are separated by white
    space."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        min_words: NonNegativeInt = 0
        max_words: PositiveInt | None = None
        min_word_length: NonNegativeFloat = 0.0
        """Mean number of letters of a word."""
        max_word_length: PositiveFloat | None = None
        max_symbols: NonNegativeFloat | None = None
        """Hash signs and ellipses over words."""
        min_alphabetic: Share = 0.0
        """Share of words with at least one letter."""
        repetition: bool = False
        """Drop texts that exceed the limits of `mm1.prepare.repetition`."""

        def build(self) -> "TextRules":
            return self.make()

    def __init__(self, config: Config) -> None:
        for name in ("words", "word_length"):
            _check_order("text", config, name)
        self.config = config

    def check(self, document: Document) -> None:
        """Raises `Unusable` if a rule refuses the text."""
        c = self.config
        if c == TextRules.Config():
            return
        text = "\n\n".join(
            part.content for part in document.parts if isinstance(part, Text)
        )
        words = text.split()
        if len(words) < c.min_words:
            raise Unusable("text too short", f"{len(words):,} words")
        if c.max_words is not None and len(words) > c.max_words:
            raise Unusable("text too long", f"{len(words):,} words")
        length = sum(map(len, words)) / len(words)
        if length < c.min_word_length or (
            c.max_word_length is not None and length > c.max_word_length
        ):
            raise Unusable("word length", f"{length:.1f} letters on average")
        symbols = (text.count("#") + text.count("...") + text.count("…")) / len(
            words
        )
        if c.max_symbols is not None and symbols > c.max_symbols:
            raise Unusable("too many symbols", f"{symbols:.2f} for each word")
        alphabetic = sum(any(map(str.isalpha, word)) for word in words) / len(
            words
        )
        if alphabetic < c.min_alphabetic:
            raise Unusable(
                "too few letters", f"{alphabetic:.0%} of the words have any"
            )
        if c.repetition and (how := find_repetition(text)):
            raise Unusable("repetitive text", how)


class Filters(Configurable):
    """What a preparation leaves out besides what cannot be read; by default nothing."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        images: ImageRules.Config = field(default_factory=ImageRules.Config)
        text: TextRules.Config = field(default_factory=TextRules.Config)
        duplicates: Duplicates.Config = field(default_factory=Duplicates.Config)
        min_images: NonNegativeInt = 0
        """Images of a document, counted after all rules for images."""
        max_images: NonNegativeInt | None = None

        def build(self) -> "Filters":
            return self.make()

    def __init__(self, config: Config) -> None:
        _check_order("", config, "images")
        self.config = config
        self.images = config.images.build()
        self.text = config.text.build()
        self.duplicates = config.duplicates.build()

    def check(self, document: Document) -> None:
        """Raises `Unusable` if a rule refuses the document on its own.

        With `max_documents_of_image`, images are counted after the second pass.
        """
        self.text.check(document)
        if self.config.duplicates.max_documents_of_image is None:
            self.check_num_images(len(document.images))

    def check_num_images(self, count: int) -> None:
        if count < self.config.min_images:
            raise Unusable("too few images", f"{count} left")
        if (
            self.config.max_images is not None
            and count > self.config.max_images
        ):
            raise Unusable("too many images", f"{count:,}")


def _check_order(holder: str, config: Configurable.Config, name: str) -> None:
    """Raises ConfigError if `min_NAME` is more than `max_NAME`: nothing would stay."""
    least = getattr(config, f"min_{name}")
    most = getattr(config, f"max_{name}")
    if most is not None and least > most:
        prefix = f"filters.{holder}.".replace("..", ".")
        raise ConfigError(
            f"{prefix}min_{name}={least} is more than {prefix}max_{name}={most}"
        )
