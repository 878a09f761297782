"""Tokenizer: a Hugging Face `tokenizers` file, and which of its tokens are special.

There is a pad, an end and an image token, and a begin token where a tokenizer came with
one. Text that spells a special token stays text. A fingerprint tells whether shards
were tokenised with a run's tokenizer.

Our own tokenizers name the special tokens `<pad>`, `<end>` and `<image>`. One that came
with a published model has its own names, in a second file:

    tokenizer.json
    special_tokens.json    {"pad": "<pad>", "end": "<|endoftext|>", "image": "<image>",
                            "vocab_size": 151936}
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from mm1.checksums import check_file
from mm1.config import ConfigError, Configurable, UserError, nearest
from mm1.data.tokenizer_file import open_backend, refusing_panics
from mm1.files import FRESH_COPY, atomic_path, read_object, read_utf8
from mm1.ranges import Range
from mm1.storage.remote_path import as_path

PAD = "<pad>"
END = "<end>"
IMAGE = "<image>"
UNKNOWN = "<unknown>"

TOKENIZER = "tokenizer.json"
SPECIAL_TOKENS = "special_tokens.json"

LONE_SURROGATE = re.compile("[\ud800-\udfff]")

LARGEST_VOCABULARY = 1 << 24
"""Ids of a tokenizer; an embedding has a row for each, and none is that large."""


LARGEST_LEARNT = 1_000_000
"""Tokens that a tokenizer may learn; published ones have a quarter of that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokens:
    """Names of the special tokens; the content of `special_tokens.json`."""

    pad: str = PAD
    end: str = END
    image: str = IMAGE
    begin: str | None = None
    """Put before every document, never a target; None: there is none."""
    vocab_size: int | None = None
    """Rows of the model's embedding, if more than the tokenizer has tokens."""

    @classmethod
    def read(cls, path: Path) -> "SpecialTokens":
        """The file's, or our own names if there is none."""
        if not path.is_file():
            return cls()
        names = read_object(path, "fix it, or train the tokenizer again")
        return cls.from_names(names, path)

    @classmethod
    def from_names(cls, names: Any, origin: Path) -> "SpecialTokens":
        """Raises ConfigError unless `names` is what `to_json` writes."""
        known = {f.name for f in fields(cls)}
        if not isinstance(names, dict):
            raise ConfigError(f"{origin} names no special tokens: {names!r}")
        if names.keys() - known:
            wrong = min(names.keys() - known)
            raise ConfigError(
                f"{origin} names {wrong!r}{nearest(wrong, known)}"
            )
        for name, value in names.items():
            kind = int if name == "vocab_size" else str
            if type(value) is not kind or not value:
                raise ConfigError(f"{origin}: {name} cannot be {value!r}")
        return cls(**names)

    def to_json(self) -> str:
        return (
            json.dumps(
                {
                    name: value
                    for name, value in asdict(self).items()
                    if value is not None
                },
                indent=1,
            )
            + "\n"
        )


def _where_one_comes_from(path: Path) -> str:
    """The message about a file that is not there: one belongs to prepared data and to
    runs, and is never to be made anew in their place."""
    folder = path.parent
    if path.name == TOKENIZER and (folder / "config.json").is_file():
        return (
            f"{folder} is a run without a {TOKENIZER}: an image encoder has none; name"
            " a run that was trained on text, or take the file from a copy"
        )
    if path.name == TOKENIZER and (folder / "manifest.json").is_file():
        return (
            f"{path} is missing: take it from a copy of the folder, or prepare the data"
            " again"
        )
    out = shlex.quote(str(path))
    return (
        f"no tokenizer at {path}; make one with"
        f" `mm1 tokenizer RAW_FILES --out {out}`"
    )


class Tokenizer(Configurable):
    """Text <-> ids, from a `tokenizer.json`."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        path: str = ""
        """A `tokenizer.json` or a folder that holds one; empty: that of the prepared
        data."""

        def build(self) -> "Tokenizer":
            return self.make()

    def __init__(self, config: Config) -> None:
        path = as_path(config.path)
        path = path / TOKENIZER if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(_where_one_comes_from(path))
        for each in (path, path.with_name(SPECIAL_TOKENS)):
            check_file(each, "take it from a copy of the folder")
        self.text = read_utf8(path, FRESH_COPY)
        self.special_tokens = SpecialTokens.read(path.with_name(SPECIAL_TOKENS))
        self._load(str(path))

    def _load(self, origin: str) -> None:
        self.origin = origin
        self.backend = open_backend(self.text, origin)
        # "<image>" typed by a user is text, never a special token
        self.backend.encode_special_tokens = True
        self.backend.no_truncation()
        self.backend.no_padding()
        parsed = json.loads(self.text)
        self._look_up_special_tokens(self.backend.get_vocab(), parsed, origin)
        covered = (
            parsed
            if self.special_tokens == SpecialTokens()
            else {
                "tokenizer": parsed,
                "special_tokens": asdict(self.special_tokens),
            }
        )
        self.fingerprint = hashlib.sha256(
            json.dumps(covered, sort_keys=True).encode()
        ).hexdigest()[:16]

    def _look_up_special_tokens(
        self, vocabulary: dict[str, int], parsed: dict[str, Any], origin: str
    ) -> None:
        """Raises ConfigError if a special token is missing, two are the same, or
        `vocab_size` is too small."""
        special_tokens = self.special_tokens
        tokens = [
            token
            for token in (
                special_tokens.pad,
                special_tokens.end,
                special_tokens.image,
                special_tokens.begin,
            )
            if token is not None
        ]
        if missing := [token for token in tokens if token not in vocabulary]:
            names = (
                "add them, or name the tokens to use instead in the file"
                f" {SPECIAL_TOKENS} beside it"
            )
            raise ConfigError(
                f"{origin} lacks the special tokens {', '.join(missing)}: {names}"
            )
        if (
            len({special_tokens.pad, special_tokens.end, special_tokens.image})
            < 3
        ):
            raise ConfigError(
                f"{origin}: pad, end and image must be three tokens, not"
                f" {', '.join(tokens[:3])}"
            )
        self.pad, self.end, self.image = (
            vocabulary[token] for token in tokens[:3]
        )
        self.begin = (
            None
            if special_tokens.begin is None
            else vocabulary[special_tokens.begin]
        )
        others = {
            token["content"]: token["id"]
            for token in parsed["added_tokens"]
            if token["special"] and token["content"] != _unknown(parsed)
        }
        self.control_tokens = others | {
            token: vocabulary[token] for token in tokens
        }
        """Name -> id of every token that no text may contain."""
        self.control_ids = frozenset(self.control_tokens.values())
        self.num_tokens = max(vocabulary.values()) + 1
        self.longest_token = max(map(len, vocabulary))
        """Characters."""
        self.vocab_size = special_tokens.vocab_size or self.num_tokens
        if self.vocab_size > LARGEST_VOCABULARY:
            raise ConfigError(
                f"{origin} has ids up to {self.vocab_size:,}; at most"
                f" {LARGEST_VOCABULARY:,} are supported"
            )
        if self.vocab_size < self.num_tokens:
            raise ConfigError(
                f"{origin} has {self.num_tokens} tokens, {SPECIAL_TOKENS} says"
                f" {self.vocab_size}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text, "special_tokens": self.special_tokens}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.text = state["text"]
        self.special_tokens = state["special_tokens"]
        self._load("a pickled tokenizer")

    def encode(self, content: str) -> list[int]:
        """Ids of a text; never special tokens, even if the text spells them.

        Raises:
            UserError: it has a lone surrogate.
        """
        check_unicode(content)
        return self._without_special(content, self._plain_ids(content))

    def encode_batch(self, contents: Sequence[str]) -> list[list[int]]:
        """As `encode`, of several texts.

        Raises:
            UserError: one has a lone surrogate.
        """
        for content in contents:
            check_unicode(content)
        with refusing_panics(self.origin):
            encoded = self.backend.encode_batch(
                list(contents), add_special_tokens=False
            )
        return [
            self._without_special(content, e.ids)
            for content, e in zip(contents, encoded, strict=True)
        ]

    def _plain_ids(self, content: str) -> list[int]:
        with refusing_panics(self.origin):
            return self.backend.encode(content, add_special_tokens=False).ids

    def _without_special(self, content: str, ids: list[int]) -> list[int]:
        """Encodes again, with spelled special tokens split after their first character.

        Needed only where the vocabulary holds a special token as an ordinary word, as
        word-level and unigram models do. What becomes one nevertheless, because a
        normalizer makes it so, is left out.
        """
        if self.control_ids.isdisjoint(ids):
            return ids
        split_points = "|".join(
            f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})"
            for token in sorted(self.control_tokens, key=len)
            if len(token) > 1
        )
        return [
            i
            for piece in re.split(split_points, content)
            for i in self._plain_ids(piece)
            if i not in self.control_ids
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def name(self, token: int) -> str:
        """One token as text, special tokens by name."""
        special = {
            self.pad: self.special_tokens.pad,
            self.end: self.special_tokens.end,
            self.image: self.special_tokens.image,
        }
        if self.special_tokens.begin is not None and self.begin is not None:
            special.setdefault(self.begin, self.special_tokens.begin)
        return special.get(token) or self.decode([token])

    @property
    def suppress_tokens(self) -> list[int]:
        """Tokens that are never generated: padding, images, and ids without a token."""
        return [self.pad, self.image, *range(self.num_tokens, self.vocab_size)]

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER).write_text(self.text, encoding="utf-8")
        if self.special_tokens != SpecialTokens():
            (folder / SPECIAL_TOKENS).write_text(
                self.special_tokens.to_json(), encoding="utf-8"
            )


def check_unicode(text: str) -> None:
    """Raises UserError if a text has a lone surrogate, as JSON may spell one and bytes
    that are not UTF-8 become."""
    if not text.isascii() and (found := LONE_SURROGATE.search(text)):
        raise UserError(
            f"the text is not valid Unicode: {found[0]!a} at character"
            f" {found.start()} is half a character"
        )


def _unknown(parsed: dict[str, Any]) -> str | None:
    """What stands for what a parsed `tokenizer.json` does not know."""
    model = parsed["model"]
    number = model.get("unk_id")
    if isinstance(number, int):
        return model["vocab"][number][0]
    return model.get("unk_token")


def train_tokenizer(
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    kind: Literal["bpe", "word"] = "bpe",
) -> Tokenizer:
    """Trains a tokenizer on `texts` and writes it to `out` (a `tokenizer.json`).

    `bpe` is byte-level byte-pair encoding, which can encode any text; `word` splits at
    white space and keeps the most frequent words, for closed vocabularies.

    Raises:
        ConfigError: `vocab_size` leaves no room for a word, or is far too large.
    """
    special = [PAD, END, IMAGE] if kind == "bpe" else [PAD, END, IMAGE, UNKNOWN]
    num_bytes = 256 if kind == "bpe" else 0
    sizes = Range(num_bytes + len(special) + 1, LARGEST_LEARNT)
    if vocab_size not in sizes:
        content = f"{len(special)} special tokens and a word"
        raise ConfigError(
            f"a vocabulary of {vocab_size} tokens (--vocab-size): it must be {sizes},"
            f" for {f'{num_bytes} bytes, ' if num_bytes else ''}{content}"
        )
    if kind == "bpe":
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        backend = Backend(models.WordLevel(unk_token=UNKNOWN))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    backend.train_from_iterator(texts, trainer)
    with atomic_path(out) as temporary:
        backend.save(str(temporary))
    return Tokenizer.Config(path=str(out)).build()
