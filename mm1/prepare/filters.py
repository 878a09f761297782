"""What is left out of readable data: pictures and documents that a rule refuses, each
for a reason that is counted.

Pictures are judged first, each by itself; then what remains of a document is. What can
only be judged beside all other files, copies above all, is the business of
`mm1.prepare.deduplicate`.
"""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mm1.config import ConfigError, Configurable
from mm1.data.document import Document, Image, Text
from mm1.prepare.content_hash import image_hash
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.repetition import repeated
from mm1.prepare.sources import Unusable
from mm1.prepare.verify import Look


class ImageRules(Configurable):
    """Which pictures stay. Where a source drops documents with a lost picture, those of
    a refused one go too."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        min_side: int = 0
        """Pixels of the shorter side."""
        max_side: int | None = None
        """Pixels of the longer side."""
        max_aspect: float | None = None
        """How many times as long as wide, at most."""
        url_words: tuple[str, ...] = ()
        """Words of no picture of interest, anywhere in its URL or path, such as "logo";
        small letters."""
        once: bool = False
        """Of copies inside one document, only the first stays."""

        def build(self) -> "ImageRules":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config

    def of_one_document(self, look: Look) -> Look:
        """The rules around `look`, which decodes: what a URL or a hash tells is asked
        before."""
        seen: set[int] = set()

        def judged(image: Image) -> Image:
            self._before(image, seen)
            image = look(image)
            self._size(image)
            return image

        return judged

    def _before(self, image: Image, seen: set[int]) -> None:
        path = (
            urlsplit(image.url).path.lower()
            if self.config.url_words and image.url
            else ""
        )
        for word in self.config.url_words:
            if word in path:
                raise Unusable("word in image URL", f"{word!r} in {image.url[:200]}")
        if self.config.once and image.data:
            if (known := image_hash(image)) in seen:
                raise Unusable("repeated image", "it stands in the document already")
            seen.add(known)

    def _size(self, image: Image) -> None:
        short, long = sorted((image.width, image.height))
        size = f"{image.width} x {image.height} pixels"
        if short < self.config.min_side:
            raise Unusable("image too small", size)
        if self.config.max_side is not None and long > self.config.max_side:
            raise Unusable("image too large", size)
        if self.config.max_aspect is not None and long > self.config.max_aspect * short:
            raise Unusable("image too long", size)


class TextRules(Configurable):
    """Which documents stay for their text, all of it taken together. Words are what
    white space parts."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        min_words: int = 0
        max_words: int | None = None
        min_word_length: float = 0.0
        """Letters of a word in the mean."""
        max_word_length: float | None = None
        max_symbols: float | None = None
        """Hash signs and ellipses for each word."""
        min_alphabetic: float = 0.0
        """The least share of words with a letter in them."""
        repetition: bool = False
        """Is a text dropped that repeats itself beyond the limits of
        `mm1.prepare.repetition`?"""

        def build(self) -> "TextRules":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, document: Document) -> None:
        """Raises `Unusable` where a rule refuses the text."""
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
            raise Unusable("word length", f"{length:.1f} letters in the mean")
        symbols = (text.count("#") + text.count("...") + text.count("…")) / len(words)
        if c.max_symbols is not None and symbols > c.max_symbols:
            raise Unusable("too many symbols", f"{symbols:.2f} for each word")
        alphabetic = sum(any(map(str.isalpha, word)) for word in words) / len(words)
        if alphabetic < c.min_alphabetic:
            raise Unusable("too few letters", f"{alphabetic:.0%} of the words have any")
        if c.repetition and (how := repeated(text)):
            raise Unusable("repetitive text", how)


class Filters(Configurable):
    """All that a preparation leaves out beyond what cannot be read. The defaults leave
    out nothing."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        images: ImageRules.Config = field(default_factory=ImageRules.Config)
        text: TextRules.Config = field(default_factory=TextRules.Config)
        duplicates: Duplicates.Config = field(default_factory=Duplicates.Config)
        min_images: int = 0
        """Of a document, counted when all rules for pictures have had their say."""
        max_images: int | None = None

        def build(self) -> "Filters":
            return self.make()

    def __init__(self, config: Config) -> None:
        if config.max_images is not None and config.max_images < config.min_images:
            raise ConfigError(
                f"no document has {config.min_images} to {config.max_images} images"
            )
        self.config = config
        self.images = config.images.build()
        self.text = config.text.build()
        self.duplicates = config.duplicates.build()

    def check(self, document: Document) -> None:
        """Raises `Unusable` where the document is refused for itself.

        Where pictures may still be lost for being on many pages, their number is judged
        after that.
        """
        self.text.check(document)
        if self.config.duplicates.max_documents_of_image is None:
            self.check_num_images(len(document.images))

    def check_num_images(self, count: int) -> None:
        if count < self.config.min_images:
            raise Unusable("too few images", f"{count} left")
        if self.config.max_images is not None and count > self.config.max_images:
            raise Unusable("too many images", f"{count:,}")
