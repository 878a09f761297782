"""The vocabulary and the few special tokens.

The library is Hugging Face `tokenizers`; this file fixes what the project needs of it: three special tokens (`<pad>`,
`<end>`, `<image>`), text that spells a special token stays text, and a fingerprint that shards and runs are checked by.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from mm1.config import Configurable

PAD, END, IMAGE, UNKNOWN = "<pad>", "<end>", "<image>", "<unknown>"


class Tokenizer(Configurable):
    """Text <-> ids, from a `tokenizer.json`."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        path: str = ""
        """A `tokenizer.json` or a folder that holds one; empty: the one that lies with the prepared shards."""

        def build(self) -> "Tokenizer":
            return self.make()

    def __init__(self, config: Config) -> None:
        path = Path(config.path)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}; make one with `mm1 tokenizer TEXT_FILES --out {path}`")
        self.text = path.read_text(encoding="utf-8")
        self._load(str(path))

    def _load(self, origin: str) -> None:
        self.backend = Backend.from_str(self.text)
        self.backend.encode_special_tokens = True  # "<image>" typed by a user is text, never a control token
        self.backend.no_truncation()
        self.backend.no_padding()
        vocabulary = self.backend.get_vocab()
        if missing := [token for token in (PAD, END, IMAGE) if token not in vocabulary]:
            raise ValueError(f"{origin} lacks the special tokens {', '.join(missing)}")
        self.pad, self.end, self.image = (vocabulary[token] for token in (PAD, END, IMAGE))
        self.vocab_size = self.backend.get_vocab_size()
        self.fingerprint = hashlib.sha256(json.dumps(json.loads(self.text), sort_keys=True).encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, str]:
        return {"text": self.text}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.text = state["text"]
        self._load("a pickled tokenizer")

    def encode(self, content: str) -> list[int]:
        return self.backend.encode(content, add_special_tokens=False).ids

    def encode_batch(self, contents: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.backend.encode_batch(list(contents), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens are left out."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def name(self, token: int) -> str:
        """One token as a person reads it, special tokens included."""
        return {self.pad: PAD, self.end: END, self.image: IMAGE}.get(token) or self.decode([token])

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(self.text, encoding="utf-8")


def train_tokenizer(
    texts: Iterable[str], out: Path, *, vocab_size: int, kind: Literal["bpe", "word"] = "bpe"
) -> Tokenizer:
    """Learns a vocabulary from `texts` and writes it to `out` (a `tokenizer.json`).

    `bpe` is byte-level byte-pair encoding, which can spell any text; `word` splits at white space and knows the most
    frequent words alone, for worlds with a closed vocabulary.
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
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    out.parent.mkdir(parents=True, exist_ok=True)
    backend.save(str(out))
    return Tokenizer.Config(path=str(out)).build()
