"""A published tokenizer and ours: `tokenizer.json` is kept as it is, its special tokens
are named in a file beside it.

Those that it lacks (padding, places of images) become new special tokens. They take ids
for which the model's table already has rows, if it is longer than the vocabulary;
otherwise the table grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from mm1.config import ConfigError
from mm1.data.tokenizer import IMAGE, PAD, TOKENIZER, SpecialTokens, Tokenizer
from mm1.data.tokenizer_file import open_backend, refusing_panics
from mm1.files import FRESH_COPY, read_object, read_utf8, write_json

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as a run folder holds it."""

    text: str
    """The content of `tokenizer.json`."""
    special_tokens: SpecialTokens
    num_new: int
    """Rows that the model's table lacks."""


def import_vocabulary(
    folder: Path, ends: Sequence[int], num_rows: int
) -> Vocabulary:
    """The tokenizer in a published model's folder.

    `ends` are the ids that end a text according to the model's config.

    Raises:
        FileNotFoundError: there is no `tokenizer.json`.
        ConfigError: no token ends a text, or ids are beyond the table's `num_rows`.
    """
    text = _read(folder)
    origin = str(folder / TOKENIZER)
    backend = open_backend(text, origin)
    backend.encode_special_tokens = True
    vocabulary = backend.get_vocab()
    if max(vocabulary.values(), default=0) >= num_rows:
        raise ConfigError(
            f"{folder / TOKENIZER} has ids up to {max(vocabulary.values())}, the"
            f" model's table {num_rows} rows: they belong to two models"
        )
    names = _special_tokens(folder)
    begin = _begin(backend, folder)
    end = _end(backend, names.get("eos_token"), ends, folder)
    pad = names.get("pad_token")
    if pad not in vocabulary or pad in (begin, end) or _spelled(backend, pad):
        pad = _new(backend, PAD, "<|pad|>", "<|mm1_pad|>")
    image = _new(backend, IMAGE, "<|image|>", "<|mm1_image|>")
    missing = [token for token in (pad, image) if token not in vocabulary]
    if missing:
        # Read anew: `encode_special_tokens` above would be written to the file.
        backend = Backend.from_str(text)
        backend.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token in missing
            ]
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
        return read_utf8(path, FRESH_COPY)
    others = [
        p.name
        for p in folder.iterdir()
        if p.name in ("tokenizer.model", "vocab.json", "spiece.model")
    ]
    only = f", only {', '.join(others)}" if others else ""
    name = repr(str(folder))
    raise FileNotFoundError(
        f"{folder} has no {TOKENIZER}{only}. With transformers and sentencepiece"
        f" installed, `AutoTokenizer.from_pretrained({name}).save_pretrained({name})`"
        " makes one"
    )


def _special_tokens(folder: Path) -> dict[str, str]:
    """`eos_token`, `pad_token` ... as the tokenizer's config names them."""
    options: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        if (folder / name).is_file():
            options |= read_object(folder / name, FRESH_COPY)
    tokens = {
        key: value.get("content") if isinstance(value, dict) else value
        for key, value in options.items()
        if key.endswith("_token")
    }
    return {
        key: value for key, value in tokens.items() if isinstance(value, str)
    }


def published_ends(folder: Path, own: Any) -> list[int]:
    """The ids at which a published model ends a text: those of `generation_config.json`
    if it has any, as in transformers, else its config's `own` (an id, a list or None).

    Raises:
        ConfigError: they are no ids.
    """
    path = folder / GENERATION_CONFIG
    values = read_object(path, FRESH_COPY) if path.is_file() else {}
    ends = values.get("eos_token_id")
    ends = own if ends is None else ends
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if any(type(each) is not int for each in ends):
        raise ConfigError(f"{folder}: eos_token_id {ends} are no ids")
    return ends


def _begin(backend: Backend, folder: Path) -> str | None:
    """The token that the tokenizer itself puts in front of a text, if any."""
    with refusing_panics(str(folder / TOKENIZER)):
        bare, whole = (
            backend.encode("a", add_special_tokens=special).ids
            for special in (False, True)
        )
    starts = [
        i
        for i in range(len(whole) - len(bare) + 1)
        if whole[i : i + len(bare)] == bare
    ]
    if not starts or starts[0] > 1:
        num = len(whole) - len(bare)
        raise ConfigError(
            f"{folder / TOKENIZER} puts {num} tokens around a text; only one in front"
            " of it is supported"
        )
    return backend.id_to_token(whole[0]) if starts[0] else None


def _end(
    backend: Backend, named: str | None, ends: Sequence[int], folder: Path
) -> str:
    """The tokenizer's own if the model's config agrees, else the first of the
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
    """Whether text that spells the token is encoded as it."""
    return (
        token is not None
        and backend.token_to_id(token)
        in backend.encode(token, add_special_tokens=False).ids
    )


def _new(backend: Backend, *names: str) -> str:
    """The first name that is not an ordinary word of the vocabulary: it is, or will be,
    a special token."""
    return next(name for name in names if not _spelled(backend, name))


def export_vocabulary(
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_length: int,
    padding_side: Literal["left", "right"],
) -> None:
    """Writes what `AutoTokenizer` opens: the file as it is, and the names of its
    special tokens.

    Prompts are padded on the left, so that those of a batch end together.

    Raises:
        ConfigError: the tokenizer does not itself put the token in front of a text that
            documents begin with in this run.
    """
    special_tokens = tokenizer.special_tokens
    puts = _begin(Backend.from_str(tokenizer.text), folder)
    if puts != special_tokens.begin:
        raise ConfigError(
            f"documents begin with {special_tokens.begin} in this run, but its"
            f" {TOKENIZER} puts {puts} in front of a text: give it a post_processor"
            " that does the same"
        )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "padding_side": padding_side,
        "eos_token": special_tokens.end,
        "pad_token": special_tokens.pad,
    }
    if special_tokens.begin is not None:
        config["bos_token"] = special_tokens.begin
    (folder / TOKENIZER).write_text(tokenizer.text, encoding="utf-8")
    write_json(folder / TOKENIZER_CONFIG, config)
