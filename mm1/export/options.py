"""A published `config.json`, read so that no key is passed over: a key is used, known
to be irrelevant, or an error."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mm1.config import ConfigError
from mm1.files import FRESH_COPY, read_object

T = TypeVar("T")

_IDLE = """
    who wrote the file, and with what
_name_or_path architectures transformers_version torch_dtype dtype tokenizer_class
unsloth_version transformers.js_config
    how the original was trained, which leaves no trace in what the model computes
initializer_range initializer_factor attention_dropout hidden_dropout resid_pdrop
embd_pdrop dropout
    implementation details that do not change results
use_cache pretraining_tp output_attentions output_hidden_states return_dict torchscript
use_bfloat16 chunk_size_feed_forward _attn_implementation attn_implementation
    classification heads, which are not imported
id2label label2id num_labels problem_type finetuning_task task_specific_params
    defaults for generation, which are set here when generating
do_sample temperature top_k top_p typical_p repetition_penalty length_penalty max_length
min_length num_beams num_return_sequences early_stopping no_repeat_ngram_size
bad_words_ids
"""

IDLE = frozenset(
    word
    for line in _IDLE.splitlines()
    if not line.startswith(" ")
    for word in line.split()
)
"""Keys that change nothing about what is computed for a token, in any family."""

TEXT_KEYS = """
num_beam_groups tie_word_embeddings pad_token_id bos_token_id eos_token_id sep_token_id
model_type
"""
"""Keys of text and generation that transformers wrote into configs of encoders too."""

CUSTOM = {
    "auto_map": "the model brings code of its own, which is not run here",
    "quantization_config": (
        "quantised weights cannot be read; get the unquantised ones"
    ),
}


class Options:
    """The keys of a config.json. `finish` raises for keys that were neither read nor
    known to be irrelevant."""

    def __init__(self, values: dict[str, Any], origin: Path) -> None:
        self.left = dict(values)
        self.origin = origin
        for key, why in CUSTOM.items():
            if self.left.pop(key, None) is not None:
                raise ConfigError(f"{origin}: {key} is set: {why}")

    @classmethod
    def read(cls, path: Path, *, without: str = "") -> "Options":
        """All keys of the file but `without`.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigError: it does not hold a JSON object.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.parent} has no {path.name}: it is not the folder of a published"
                " model"
            )
        values = read_object(path, FRESH_COPY)
        return cls(
            {key: value for key, value in values.items() if key != without},
            path,
        )

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a key that must be there."""
        if self.left.get(key) is None:
            raise ConfigError(
                f"{self.origin} does not say {key}; get a fresh copy of the model's"
                " config"
            )
        return self._checked(key, self.left.pop(key), kind)

    def take(self, key: str, default: T) -> T:
        """A value of the default's type; null and absent mean the default."""
        value = self.left.pop(key, None)
        return (
            default
            if value is None
            else self._checked(key, value, type(default))
        )

    def raw(self, key: str) -> Any:
        """The value as it stands; None if there is none."""
        return self.left.pop(key, None)

    def part(self, key: str) -> "Options":
        """The options nested under `key`, none if there is no such key.

        `key`_dict, in old configs of CLIP, takes precedence.
        """
        plain = self.take(key, {})
        amended = self.take(f"{key}_dict", {})
        return Options(amended or plain, Path(f"{self.origin}: {key}"))

    def choice(self, key: str, default: str, known: Mapping[str, T]) -> T:
        """What the value of `key` is called here.

        Raises:
            ConfigError: it is not one of the `known` ones.
        """
        value = self.take(key, default)
        if value not in known:
            self.refuse(key, value, f"only {', '.join(known)} can be imported")
        return known[value]

    def only(
        self,
        key: str,
        *supported: Any,
        remedy: str = "such models cannot be imported",
    ) -> None:
        """Checks that a key is absent, null or one of the supported values.

        Raises:
            ConfigError: it has another value; key and value are named.
        """
        value = self.left.pop(key, None)
        if value is not None and value not in supported:
            allowed = " or ".join(json.dumps(other) for other in supported)
            self.refuse(key, value, f"only {allowed} is supported: {remedy}")

    def refuse(self, key: str, value: Any, why: str) -> NoReturn:
        raise ConfigError(f"{self.origin}: {key} is {json.dumps(value)}; {why}")

    def _checked(self, key: str, value: Any, kind: type[T]) -> T:
        if (
            kind is float
            and isinstance(value, int)
            and not isinstance(value, bool)
        ):
            value = float(value)
        if not isinstance(value, kind) or (
            kind is int and isinstance(value, bool)
        ):
            raise ConfigError(
                f"{self.origin}: {key} is {json.dumps(value)}, not {kind.__name__}"
            )
        return value

    def finish(self, *idle: str) -> None:
        """Raises ConfigError that names the keys that were not read.

        `idle`: more keys, separated by spaces, that are irrelevant in this file.
        """
        irrelevant = IDLE.union(*(keys.split() for keys in idle))
        # What is off, absent or empty adds nothing, whatever it is.
        unknown = {
            key: value
            for key, value in self.left.items()
            if key not in irrelevant and value not in (None, False, [], {})
        }
        if unknown:
            named = ", ".join(
                f"{key} = {json.dumps(value)}" for key, value in unknown.items()
            )
            raise ConfigError(
                f"{self.origin} sets what is not known here: {named}. If it changes"
                " nothing about what the model computes, delete it from the file;"
                " otherwise the model cannot be imported"
            )
