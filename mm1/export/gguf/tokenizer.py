"""The tokenizer in a GGUF's metadata and `tokenizer.json`: byte-level byte-pair
encoding, as the families that are read here have it.

A GGUF names its rule for cutting a text into words (`tokenizer.ggml.pre`) and leaves
the rule itself to llama.cpp. The rules below are those of the published tokenizers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.tokenizer import Tokenizer

PREFIX = "tokenizer.ggml."
NORMAL = 1
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5
"""Kinds of tokens in `token_type`."""

_BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _split_by(digits: str) -> dict[str, Any]:
    """The rule of Llama 3 and Qwen2, which differ in how many digits stay together."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "type": "Sequence",
        "pretokenizers": [split, _BYTES | {"use_regex": False}],
    }


RULES: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTES,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            _BYTES,
        ],
    },
    "llama-bpe": _split_by(r"\p{N}{1,3}"),
    "qwen2": _split_by(r"\p{N}"),
}
"""`tokenizer.ggml.pre` -> `pre_tokenizer`."""
OTHER_NAMES = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
}
BEGUN = {"llama-bpe"}
"""Rules with which a text begins with a token, unless the metadata says otherwise."""


def read_tokenizer(
    metadata: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """`tokenizer.json`, and the names of special tokens for `tokenizer_config.json`.

    Raises:
        ConfigError: the tokenizer is missing, damaged or of a kind that is not read.
    """
    rule = _rule(metadata, path)
    tokens = _strings(metadata, "tokens", path)
    kinds = metadata.get(f"{PREFIX}token_type") or [NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise ConfigError(
            f"{path} lists {len(tokens):,} tokens and {len(kinds):,} kinds of them: get"
            " a fresh copy"
        )
    used = _used(tokens, kinds)
    vocabulary = {token: i for i, token in enumerate(used)}
    if len(vocabulary) != len(used):
        raise ConfigError(
            f"{path} lists {len(used) - len(vocabulary):,} tokens twice: get a fresh"
            " copy"
        )
    names = _special_names(metadata, used, path)
    begin = metadata.get(f"{PREFIX}add_bos_token", rule in BEGUN)
    parsed = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(i, token, kind == CONTROL)
            for i, (token, kind) in enumerate(zip(used, kinds, strict=False))
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": {"type": "NFC"} if rule == "qwen2" else None,
        "pre_tokenizer": RULES[rule],
        "post_processor": _begins_with(names["bos_token"], vocabulary)
        if begin and "bos_token" in names
        else None,
        "decoder": _BYTES | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": rule == "llama-bpe",
            "vocab": vocabulary,
            "merges": _merges(metadata, vocabulary, path),
        },
    }
    return parsed, names


def _rule(metadata: Mapping[str, Any], path: Path) -> str:
    model = metadata.get(f"{PREFIX}model")
    if model != "gpt2":
        said = "does not say" if model is None else f"has {model!r} as"
        raise ConfigError(
            f"{path} {said} {PREFIX}model: only gpt2, byte-level byte-pair encoding, is"
            " read; import the model's safetensors and tokenizer.json instead"
        )
    pre = metadata.get(f"{PREFIX}pre")
    rule = OTHER_NAMES.get(str(pre), pre)
    if rule not in RULES:
        raise ConfigError(
            f"{path}: {PREFIX}pre is {pre!r}, and how that cuts texts into words is not"
            f" known here (known: {', '.join((*RULES, *OTHER_NAMES))}); import the"
            " model's safetensors and tokenizer.json instead"
        )
    return str(rule)


def _strings(metadata: Mapping[str, Any], key: str, path: Path) -> list[str]:
    values = metadata.get(PREFIX + key)
    if not isinstance(values, list) or not all(
        isinstance(value, str) for value in values
    ):
        raise ConfigError(
            f"{path} has no list {PREFIX}{key}: it holds no tokenizer; get another file"
            " of the model"
        )
    return values


def _used(tokens: Sequence[str], kinds: Sequence[int]) -> Sequence[str]:
    """Without the names at the end that stand for rows of the table without a token."""
    num = len(tokens)
    while num and kinds[num - 1] == UNUSED:
        num -= 1
    return tokens[:num]


def _special_names(
    metadata: Mapping[str, Any], tokens: Sequence[str], path: Path
) -> dict[str, str]:
    """Raises ConfigError if no token ends a text, or an id is none."""
    keys = {
        "eos": "eos_token_id",
        "bos": "bos_token_id",
        "pad": "padding_token_id",
    }
    names = {}
    for name, key in keys.items():
        number = metadata.get(PREFIX + key)
        if number is None:
            continue
        if not isinstance(number, int) or not 0 <= number < len(tokens):
            raise ConfigError(
                f"{path}: {PREFIX}{key} is {number}, and the tokens are 0 to"
                f" {len(tokens) - 1}: get a fresh copy"
            )
        names[f"{name}_token"] = tokens[number]
    if "eos_token" not in names:
        raise ConfigError(
            f"{path} does not say {PREFIX}eos_token_id: no token ends a text; get"
            " another file of the model"
        )
    return names


def _merges(
    metadata: Mapping[str, Any], vocabulary: Mapping[str, int], path: Path
) -> list[list[str]]:
    merges = [merge.split(" ") for merge in _strings(metadata, "merges", path)]
    for merge in merges:
        if len(merge) != 2 or not vocabulary.keys() >= {*merge, "".join(merge)}:
            raise ConfigError(
                f"{path}: {' '.join(merge)[:80]!r} in {PREFIX}merges does not join two"
                " tokens into a third: get a fresh copy"
            )
    return merges


def _added(number: int, token: str, special: bool) -> dict[str, Any]:
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _begins_with(token: str, vocabulary: Mapping[str, int]) -> dict[str, Any]:
    """Puts a token in front of every text."""
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [begin, texts[0]],
        "pair": [begin, texts[0], begin, texts[1]],
        "special_tokens": {
            token: {
                "id": token,
                "ids": [vocabulary[token]],
                "tokens": [token],
            }
        },
    }


def add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """Adds a run's tokenizer to the metadata of a `gguf.GGUFWriter`.

    Raises:
        ConfigError: it is no byte-level byte-pair encoding with a rule that llama.cpp
            knows.
    """
    parsed = json.loads(tokenizer.text)
    rule = _rule_of(parsed)
    model = parsed["model"]
    names: list[str] = [f"[PAD{i}]" for i in range(tokenizer.vocab_size)]
    kinds = [UNUSED] * len(names)
    for token, number in model["vocab"].items():
        names[number] = token
        kinds[number] = NORMAL
    for added in parsed["added_tokens"]:
        names[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in model["merges"]
        ]
    )
    writer.add_eos_token_id(tokenizer.end)
    writer.add_pad_token_id(tokenizer.pad)
    if tokenizer.begin is not None:
        writer.add_bos_token_id(tokenizer.begin)
    writer.add_add_bos_token(tokenizer.begin is not None)


def _rule_of(parsed: Mapping[str, Any]) -> str:
    kind = parsed["model"].get("type")
    if kind != "BPE" or parsed["model"].get("byte_fallback"):
        raise ConfigError(
            f"the run's tokenizer is {kind}, and a GGUF is written of byte-level"
            " byte-pair encoding alone: train with such a tokenizer (`mm1 tokenizer`)"
        )
    given = _essence(parsed.get("pre_tokenizer"))
    for name, rule in RULES.items():
        normalizer = {"type": "NFC"} if name == "qwen2" else None
        if given == _essence(rule) and normalizer == parsed.get("normalizer"):
            return name
    raise ConfigError(
        "the run's tokenizer cuts texts into words in a way for which llama.cpp has no"
        f" name here (known: {', '.join(RULES)}): its GGUF would read other tokens;"
        " export it for transformers"
    )


def _essence(pre_tokenizer: Any) -> Any:
    """Without offsets, which do not change tokens."""
    if isinstance(pre_tokenizer, dict):
        return {
            key: _essence(value)
            for key, value in pre_tokenizer.items()
            if key != "trim_offsets"
        }
    if isinstance(pre_tokenizer, list):
        return [_essence(each) for each in pre_tokenizer]
    return pre_tokenizer
