"""A published tokenizer and ours: its `tokenizer.json` as it is, its special tokens in a
file beside it.

Those that it lacks (padding, places for images) become new special tokens. They take
ids for which the model's table has rows already, where it is longer than the
vocabulary; otherwise the table must grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from mm1.config import ConfigError
from mm1.data.tokenizer import IMAGE, PAD, TOKENIZER, SpecialTokens, Tokenizer
from mm1.files import ANEW, read_object, write_json

TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as the run folder will hold it."""

    text: str
    """Of `tokenizer.json`."""
    special_tokens: SpecialTokens
    num_new: int
    """Rows that the model's table lacks."""


def import_vocabulary(folder: Path, ends: Sequence[int], num_rows: int) -> Vocabulary:
    """The tokenizer in a published model's folder; `ends` are the ids that end a text
    by the model's config.

    Raises:
        FileNotFoundError: there is no `tokenizer.json`.
        ConfigError: nothing ends a text, or ids have no rows in the table of
            `num_rows`.
    """
    text = _read(folder)
    backend = Backend.from_str(text)
    backend.encode_special_tokens = True
    vocabulary = backend.get_vocab()
    if max(vocabulary.values()) >= num_rows:
        most = (
            f"ids up to {max(vocabulary.values())}, the model's table {num_rows} rows"
        )
        raise ConfigError(f"{folder / TOKENIZER} has {most}: they belong to two models")
    named = _named(folder)
    begin = _begin(backend, folder)
    end = _end(backend, named.get("eos_token"), ends, folder)
    pad = named.get("pad_token")
    if pad not in vocabulary or pad in (begin, end) or _spelled(backend, pad):
        pad = _new(backend, PAD, "<|pad|>", "<|mm1_pad|>")
    image = _new(backend, IMAGE, "<|image|>", "<|mm1_image|>")
    missing = [token for token in (pad, image) if token not in vocabulary]
    if missing:
        backend = Backend.from_str(
            text
        )  # without the switch above, which is not the file's
        backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in missing]
        )
        text = backend.to_str(pretty=True)
    num_tokens = max(backend.get_vocab().values()) + 1
    rows = max(num_rows, num_tokens)
    special_tokens = SpecialTokens(
        pad=pad,
        end=end,
        image=image,
        begin=begin,
        vocab_size=rows if rows > num_tokens else None,
    )
    return Vocabulary(text, special_tokens, rows - num_rows)


def _read(folder: Path) -> str:
    path = folder / TOKENIZER
    if path.is_file():
        return path.read_text(encoding="utf-8")
    others = [
        p.name
        for p in folder.iterdir()
        if p.name in ("tokenizer.model", "vocab.json", "spiece.model")
    ]
    raise FileNotFoundError(
        f"{folder} has no {TOKENIZER}"
        + (f", only {', '.join(others)}" if others else "")
        + ". With transformers and sentencepiece installed,"
        f" `AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})`"
        " makes one"
    )


def _named(folder: Path) -> dict[str, str]:
    """`eos_token`, `pad_token` ... as the tokenizer's config names them."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        if (folder / name).is_file():
            found |= read_object(folder / name, ANEW)
    tokens = {
        k: v.get("content") if isinstance(v, dict) else v
        for k, v in found.items()
        if k.endswith("_token")
    }
    return {key: value for key, value in tokens.items() if isinstance(value, str)}


def _begin(backend: Backend, folder: Path) -> str | None:
    """The token that the tokenizer itself puts before a text, if any."""
    bare, whole = (
        backend.encode("a", add_special_tokens=special).ids for special in (False, True)
    )
    starts = [
        i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare
    ]
    if not starts or starts[0] > 1:
        num = len(whole) - len(bare)
        raise ConfigError(
            f"{folder / TOKENIZER} puts {num} tokens around a text; only one before it"
            " can be kept"
        )
    return backend.id_to_token(whole[0]) if starts[0] else None


def _end(backend: Backend, named: str | None, ends: Sequence[int], folder: Path) -> str:
    """The tokenizer's own where the model's config agrees, else the first of the
    model's."""
    own = None if named is None else backend.token_to_id(named)
    known = {
        token: name
        for token in ends
        if (name := backend.id_to_token(token)) is not None
    }
    if own is not None and (own in known or not known):
        return str(named)
    if not known:
        raise ConfigError(
            f"{folder}: no token ends a text: neither eos_token in {TOKENIZER_CONFIG}"
            " nor eos_token_id in config.json names one of the vocabulary; add one of"
            " them"
        )
    return next(iter(known.values()))


def _spelled(backend: Backend, token: str | None) -> bool:
    """Does text that spells the token become it?"""
    return (
        token is not None
        and backend.token_to_id(token)
        in backend.encode(token, add_special_tokens=False).ids
    )


def _new(backend: Backend, *names: str) -> str:
    """The first name that is no word of the vocabulary: the token is added, or was, as
    a special one."""
    return next(name for name in names if not _spelled(backend, name))


def export_vocabulary(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Writes what `AutoTokenizer` opens: the file as it is, and the names of its
    special tokens.

    Raises:
        ConfigError: the tokenizer does not itself put before a text what documents
            begin with in this run.
    """
    special_tokens = tokenizer.special_tokens
    puts = _begin(Backend.from_str(tokenizer.text), folder)
    if puts != special_tokens.begin:
        raise ConfigError(
            f"documents begin with {special_tokens.begin} in this run, but its {TOKENIZER} puts"
            f" {puts} before a text: give it a post_processor that does the same"
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "eos_token": special_tokens.end,
        "pad_token": special_tokens.pad,
    }
    if special_tokens.begin is not None:
        config["bos_token"] = special_tokens.begin
    (folder / TOKENIZER).write_text(tokenizer.text, encoding="utf-8")
    write_json(folder / TOKENIZER_CONFIG, config)
