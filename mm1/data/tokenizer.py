"""The vocabulary and the few special tokens.

The library is Hugging Face `tokenizers`; this file fixes what the project needs of it:
tokens in the roles pad, end and image (and begin, where a tokenizer came with one),
text that spells a special token stays text, and a fingerprint that shards and runs are
checked by.

Our own tokenizers call the roles `<pad>`, `<end>` and `<image>`. One that came with a
published model has names of its own, which stand in a file beside it:

    tokenizer.json
    special_tokens.json    {"pad": "<pad>", "end": "<|endoftext|>", "image": "<image>", "vocab_size": 151936}
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from mm1.config import ConfigError, Configurable, nearest
from mm1.files import read_object

PAD = "<pad>"
END = "<end>"
IMAGE = "<image>"
UNKNOWN = "<unknown>"

TOKENIZER = "tokenizer.json"
SPECIAL_TOKENS = "special_tokens.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Which tokens of a vocabulary play the parts that rendering needs:
    `special_tokens.json`."""

    pad: str = PAD
    end: str = END
    image: str = IMAGE
    begin: str | None = None
    """Put before every document, never learnt; None: nothing is."""
    vocab_size: int | None = None
    """Rows of the model's table where it has more than the tokenizer has tokens."""

    @classmethod
    def read(cls, path: Path) -> "Roles":
        """Those of the file, or our own names where there is none."""
        if not path.is_file():
            return cls()
        found = read_object(path, "mend it, or learn the vocabulary again")
        known = {f.name for f in fields(cls)}
        if found.keys() - known:
            wrong = min(found.keys() - known)
            raise ConfigError(f"{path} names {wrong!r}{nearest(wrong, known)}")
        return cls(**found)

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


class Tokenizer(Configurable):
    """Text <-> ids, from a `tokenizer.json`."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        path: str = ""
        """A `tokenizer.json` or a folder that holds one; empty: the one that lies with
        the prepared shards."""

        def build(self) -> "Tokenizer":
            return self.make()

    def __init__(self, config: Config) -> None:
        path = Path(config.path)
        path = path / TOKENIZER if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {path}; make one with `mm1 tokenizer TEXT_FILES --out"
                f" {path}`"
            )
        self.text = path.read_text(encoding="utf-8")
        self.roles = Roles.read(path.with_name(SPECIAL_TOKENS))
        self._load(str(path))

    def _load(self, origin: str) -> None:
        self.backend = Backend.from_str(self.text)
        self.backend.encode_special_tokens = (
            True  # "<image>" typed by a user is text, never a control token
        )
        self.backend.no_truncation()
        self.backend.no_padding()
        self._assign(self.backend.get_vocab(), origin)
        parsed = json.loads(self.text)
        covered = (
            parsed
            if self.roles == Roles()
            else {"tokenizer": parsed, "special_tokens": asdict(self.roles)}
        )
        self.fingerprint = hashlib.sha256(
            json.dumps(covered, sort_keys=True).encode()
        ).hexdigest()[:16]

    def _assign(self, vocabulary: dict[str, int], origin: str) -> None:
        """Raises ConfigError where a role has no token, two roles have the same, or the
        table is too small."""
        roles = self.roles
        tokens = [
            token
            for token in (roles.pad, roles.end, roles.image, roles.begin)
            if token is not None
        ]
        if missing := [token for token in tokens if token not in vocabulary]:
            names = (
                "add them, or name the tokens that play these parts in"
                f" {SPECIAL_TOKENS} beside it"
            )
            raise ConfigError(
                f"{origin} lacks the special tokens {', '.join(missing)}: {names}"
            )
        if len({roles.pad, roles.end, roles.image}) < 3:
            raise ConfigError(
                f"{origin}: pad, end and image must be three tokens, not"
                f" {', '.join(tokens[:3])}"
            )
        self.pad, self.end, self.image = (vocabulary[token] for token in tokens[:3])
        self.begin = None if roles.begin is None else vocabulary[roles.begin]
        self.control = {vocabulary[token] for token in tokens}
        self.num_tokens = max(vocabulary.values()) + 1
        self.vocab_size = roles.vocab_size or self.num_tokens
        if self.vocab_size < self.num_tokens:
            raise ConfigError(
                f"{origin} has {self.num_tokens} tokens, {SPECIAL_TOKENS} says"
                f" {self.vocab_size}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text, "roles": self.roles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.text = state["text"]
        self.roles = state["roles"]
        self._load("a pickled tokenizer")

    def encode(self, content: str) -> list[int]:
        """The ids of a text; none of them is a special token, whatever the text
        spells."""
        return self._as_text(
            content, self.backend.encode(content, add_special_tokens=False).ids
        )

    def encode_batch(self, contents: Sequence[str]) -> list[list[int]]:
        encoded = self.backend.encode_batch(list(contents), add_special_tokens=False)
        return [
            self._as_text(content, e.ids)
            for content, e in zip(contents, encoded, strict=True)
        ]

    def _as_text(self, content: str, ids: list[int]) -> list[int]:
        """Takes a spelled special token apart where the vocabulary itself holds it as a
        word, as those of word-level and unigram models do: behind its first character,
        which leaves two pieces that are no such word."""
        if self.control.isdisjoint(ids):
            return ids
        spelled = sorted(
            (self.roles.pad, self.roles.end, self.roles.image, self.roles.begin or END),
            key=len,
        )
        apart = "|".join(
            f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in spelled
        )
        return [
            i
            for piece in re.split(apart, content)
            for i in self.backend.encode(piece, add_special_tokens=False).ids
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens are left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def name(self, token: int) -> str:
        """One token as a person reads it, special tokens included."""
        special = {
            self.pad: self.roles.pad,
            self.end: self.roles.end,
            self.image: self.roles.image,
        }
        if self.roles.begin is not None and self.begin is not None:
            special.setdefault(self.begin, self.roles.begin)
        return special.get(token) or self.decode([token])

    @property
    def unsayable(self) -> list[int]:
        """Tokens that are never an answer: places for pictures and padding, and ids
        that stand for nothing."""
        return [self.pad, self.image, *range(self.num_tokens, self.vocab_size)]

    def save(self, folder: Path) -> None:
        (folder / TOKENIZER).write_text(self.text, encoding="utf-8")
        if self.roles != Roles():
            (folder / SPECIAL_TOKENS).write_text(self.roles.to_json(), encoding="utf-8")


def train_tokenizer(
    texts: Iterable[str],
    out: Path,
    *,
    vocab_size: int,
    kind: Literal["bpe", "word"] = "bpe",
) -> Tokenizer:
    """Learns a vocabulary from `texts` and writes it to `out` (a `tokenizer.json`).

    `bpe` is byte-level byte-pair encoding, which can spell any text; `word` splits at
    white space and knows the most frequent words alone, for worlds with a closed
    vocabulary.
    """
    special = [PAD, END, IMAGE] if kind == "bpe" else [PAD, END, IMAGE, UNKNOWN]
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
    out.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(out))
    return Tokenizer.Config(path=str(out)).build()
