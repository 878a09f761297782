"""What all exports write into a Hugging Face folder, whatever kind of model it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.tokenizer import SpecialTokens, Tokenizer
from mm1.export.mapping import Link, parted, theirs_layout
from mm1.files import FRESH_COPY, read_object
from mm1.nn.model import Model
from mm1.progress import track_tensors
from mm1.weight_files import WeightFiles, write_sharded

CONFIG = "config.json"

OWN = "mm1.json"
"""The run's own config, which lets an export come back as it was."""

M = TypeVar("M", bound=Model.Config)

MAX_LENGTH = 4096
"""Longest text of an exported model whose loader has no sequence length."""


def read_own(folder: Path, kind: type[M]) -> tuple[M, dict[str, Any]]:
    """The model's config in `mm1.json`, and all of the file.

    Raises:
        ConfigError: it is not what an export of such a model writes, or names a class
            outside mm1 that is not trusted.
    """
    path = folder / OWN
    own = read_object(path, FRESH_COPY)
    try:
        model = configs.from_json(own.get("model"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(model, kind):
        raise ConfigError(
            f"{path} holds no {kind.__qualname__}: delete it to go by {CONFIG}"
        )
    return model, own


def own_special_tokens(folder: Path, own: dict[str, Any]) -> SpecialTokens:
    """Raises ConfigError if `mm1.json` does not name them."""
    return SpecialTokens.from_names(own.get("special_tokens"), folder / OWN)


def token_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """Ids of special tokens, as `config.json` and `generation_config.json` have
    them."""
    return {
        "bos_token_id": tokenizer.begin,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.pad,
    }


def stored_dtype(links: Sequence[Link], weights: WeightFiles) -> str:
    """The type of the first tensor, as `config.json` names it: "float32"."""
    first = next(iter(theirs_layout(links, weights).values()))
    return str(first.dtype).removeprefix("torch.")


def write_tensors(
    folder: Path, links: Sequence[Link], weights: WeightFiles
) -> None:
    """Writes a run's weights under their published names."""
    layouts = theirs_layout(links, weights)
    total = sum(layout.num_bytes for layout in layouts.values())
    write_sharded(
        folder, layouts, track_tensors("export", parted(links, weights), total)
    )


def check_unedited(folder: Path, name: str, written: dict[str, Any]) -> None:
    """Checks that a file of our own export still says what was written into it.

    Raises:
        ConfigError: it differs; the keys are named.
    """
    stored = read_object(folder / name, FRESH_COPY)
    edited = [
        key for key in written if not _holds(stored.get(key), written[key])
    ]
    if edited:
        raise ConfigError(
            f"{folder / OWN} and {name} differ in {', '.join(edited)}: delete {OWN} to"
            f" go by {name}"
        )


def _holds(stored: Any, written: Any) -> bool:
    """Is everything written still there? There may be more."""
    if isinstance(written, dict):
        return isinstance(stored, dict) and all(
            _holds(stored.get(key), value) for key, value in written.items()
        )
    return stored == written
