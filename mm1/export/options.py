"""A published `config.json`, read so that nothing is passed over: an option is used,
known to be idle, or an error."""

import json
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mm1.config import ConfigError
from mm1.files import ANEW, read_object

T = TypeVar("T")

_IDLE = """
    who wrote the file, and with what
_name_or_path architectures transformers_version torch_dtype dtype tokenizer_class unsloth_version
transformers.js_config
    how the original was trained: nothing of it is left in what the model computes
initializer_range initializer_factor attention_dropout hidden_dropout resid_pdrop embd_pdrop dropout
    how its code goes about it, with equal results
use_cache pretraining_tp output_attentions output_hidden_states return_dict torchscript use_bfloat16
chunk_size_feed_forward _attn_implementation attn_implementation
    heads for classification, which are not read here
id2label label2id num_labels problem_type finetuning_task task_specific_params
    generation, which is asked for where it happens
do_sample temperature top_k top_p typical_p repetition_penalty length_penalty max_length min_length num_beams
num_return_sequences early_stopping no_repeat_ngram_size bad_words_ids
"""

IDLE = frozenset(
    word
    for line in _IDLE.splitlines()
    if not line.startswith(" ")
    for word in line.split()
)
"""Keys that change nothing of what is computed from a token, in any family."""

CUSTOM = {
    "auto_map": "the model brings code of its own, which is not run here",
    "quantization_config": "quantised weights cannot be read; get the unquantised ones",
}


class Options:
    """The keys of a config.json. `finish` raises for whatever was neither taken nor
    known to be idle."""

    def __init__(self, values: dict[str, Any], origin: Path) -> None:
        self.left = dict(values)
        self.origin = origin
        for key, why in CUSTOM.items():
            if self.left.pop(key, None) is not None:
                raise ConfigError(f"{origin}: {key} is set: {why}")

    @classmethod
    def read(cls, path: Path, *, without: str = "") -> "Options":
        """All keys but `without`.

        Raises:
            FileNotFoundError, ConfigError: there is no config, or it is no JSON object.
        """
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.parent} has no {path.name}: it is no folder of a published"
                " model"
            )
        values = read_object(path, ANEW)
        return cls(
            {key: value for key, value in values.items() if key != without}, path
        )

    def need(self, key: str, kind: type[T]) -> T:
        """An option that must be there."""
        if self.left.get(key) is None:
            raise ConfigError(
                f"{self.origin} does not say {key}; get the model's config anew"
            )
        return self._checked(key, self.left.pop(key), kind)

    def take(self, key: str, default: T) -> T:
        """An option of the default's type; null and absent mean the default."""
        value = self.left.pop(key, None)
        return default if value is None else self._checked(key, value, type(default))

    def raw(self, key: str) -> Any:
        """Whatever stands there; None where nothing does."""
        return self.left.pop(key, None)

    def only(
        self, key: str, *supported: Any, remedy: str = "such models cannot be imported"
    ) -> None:
        """Absent, null or one of the values that we compute.

        Raises:
            ConfigError: it is another; the option and its value are named.
        """
        value = self.left.pop(key, None)
        if value is not None and value not in supported:
            self.refuse(
                key,
                value,
                f"only {' or '.join(json.dumps(v) for v in supported)} is supported:"
                f" {remedy}",
            )

    def refuse(self, key: str, value: Any, why: str) -> NoReturn:
        raise ConfigError(f"{self.origin}: {key} is {json.dumps(value)}; {why}")

    def _checked(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(
                f"{self.origin}: {key} is {json.dumps(value)}, not {kind.__name__}"
            )
        return value

    def finish(self) -> None:
        """Raises ConfigError that names the options that nobody asked for."""
        # What is off, absent or empty adds nothing, whatever it is.
        unknown = {
            key: v
            for key, v in self.left.items()
            if key not in IDLE and v not in (None, False, [], {})
        }
        if unknown:
            named = ", ".join(
                f"{key} = {json.dumps(value)}" for key, value in unknown.items()
            )
            raise ConfigError(
                f"{self.origin} sets what is not known here: {named}. If it changes"
                " nothing of what the model computes, delete it from the file;"
                " otherwise the model cannot be imported"
            )
