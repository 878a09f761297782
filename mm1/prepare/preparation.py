"""What a preparation does to each record, as one typed config: source, filters, split.

source = mm1.overrides.default_config(Source, "captions")
config = Preparation.Config(source=source, validation=0.01)
mm1.overrides.override(config, "source.field=recaption")
mm1.overrides.override(config, "filters.images.min_side=100")
mm1.overrides.override(config, "filters.duplicates.exact=True")
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mm1.config import Configurable
from mm1.data.document import Document, Text
from mm1.data.tokenizer import Tokenizer
from mm1.prepare.content_hash import ValidationBy, is_validation
from mm1.prepare.filters import Filters
from mm1.prepare.output_folder import SPLITS
from mm1.prepare.sources import Record, Source, Unusable
from mm1.prepare.verify import check_document, check_image
from mm1.ranges import ShareBelowOne

MAX_ENCODED = 1 << 20
"""Characters encoded at a time: a tokenizer needs some 200 bytes for each."""


class Preparation(Configurable):
    """Turns raw records into filtered and tokenised documents."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        source: Source.Config
        """Reads the raw files: one of `mm1/prepare/sources`, or a class of your own."""
        filters: Filters.Config = field(default_factory=Filters.Config)
        """What is left out; by default nothing that can be read."""
        validation: ShareBelowOne = 0.0
        """Share of documents in the validation split, from 0 to below 1."""
        validation_by: ValidationBy = "text"
        """What keeps documents together in one split: the same text or the same
        image."""

        def build(self) -> "Preparation":
            return self.make()

    def __init__(self, config: Config) -> None:
        """Raises ConfigError for filters that contradict one another."""
        self.config = config
        self.source = config.source.build()
        self.filters = config.filters.build()

    def document(
        self, record: Record, file: Path, tokenizer: Tokenizer
    ) -> tuple[Document, list[Unusable]]:
        """The tokenised document of a record, and why images of it were left out.

        Raises:
            Unusable: the record is dropped.
        """
        document, lost = self.checked(record, file)
        return tokenize(document, tokenizer), lost

    def checked(
        self, record: Record, file: Path
    ) -> tuple[Document, list[Unusable]]:
        """As `document`, before it is tokenised."""
        if isinstance(record.data, Unusable):
            raise record.data
        try:
            document = self.source.document(record.data)
        except Unusable:
            raise
        except Exception as error:
            error.add_note(f"while reading {file}#{record.key}")
            raise
        document, lost = check_document(
            document,
            images_required=self.source.IMAGES_REQUIRED,
            check=self.filters.images.for_one_document(check_image),
        )
        self.filters.check(document)
        return document, lost

    def split(self, document: Document) -> str:
        config = self.config
        return SPLITS[
            is_validation(document, config.validation, config.validation_by)
        ]


def encode_text(content: str, tokenizer: Tokenizer) -> Sequence[int]:
    """The token ids of a text; one of more than `MAX_ENCODED` characters is encoded in
    pieces that end at a line break, or else at a space."""
    if len(content) <= MAX_ENCODED:
        return tuple(tokenizer.encode(content))
    ids = array("i")
    start = 0
    while start < len(content):
        stop = start + MAX_ENCODED
        if stop < len(content):
            middle = start + MAX_ENCODED // 2
            line = content.rfind("\n", middle, stop) + 1
            # A space belongs to the word that it precedes.
            stop = line or max(content.rfind(" ", middle, stop), 0) or stop
        ids.extend(tokenizer.encode(content[start:stop]))
        start = stop
    return ids


def tokenize(document: Document, tokenizer: Tokenizer) -> Document:
    """The document with token ids; raises `Unusable` if there are none to learn."""
    parts = [
        (
            replace(part, tokens=encode_text(part.content, tokenizer))
            if isinstance(part, Text)
            else part
        )
        for part in document.parts
    ]
    if not any(
        part.tokens and part.loss for part in parts if isinstance(part, Text)
    ):
        raise Unusable("no text", "the tokenizer returns no tokens")
    return Document(tuple(parts))
