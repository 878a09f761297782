"""A published model -> a run folder: `mm1 import`. The family is `model_type` in its
config.json."""

from pathlib import Path

from mm1.config import ConfigError, nearest
from mm1.dist import say
from mm1.export import decoders
from mm1.export.encoders.convert import encoder_weights, read_encoder
from mm1.export.encoders.published import FAMILIES as ENCODERS
from mm1.export.language_models import read_language_model
from mm1.export.multimodal import read_multimodal
from mm1.export.options import Options
from mm1.export.origin import find
from mm1.export.run_folder import Import, aside, write_run
from mm1.export.weights import Weights


def import_model(name: str, out: Path, *, pickle: bool = False) -> None:
    """Makes the run folder `out` from a published model: a folder, or `owner/model` on
    the hub.

    Raises:
        ConfigError: an option, a tensor or the tokenizer is not supported, missing or
            damaged; it is named.
        FileNotFoundError, FileExistsError, UserError: nothing there, or `out` is taken.
    """
    origin = find(name, pickle=pickle)
    with aside(out) as folder:
        weights = encoder_weights(origin.folder, pickle=pickle)
        found = read_multimodal(origin.folder) or read_encoder(origin.folder, weights)
        found = found or _language_model(origin.folder, weights)
        write_run(folder, found, weights, origin)
    for note in found.notes:
        say(f"note: {note}")
    say(f"{out}: a run folder of the family {found.family}, from {origin.name}")


def _language_model(folder: Path, weights: Weights) -> Import:
    options = Options.read(folder / "config.json")
    family = options.need("model_type", str)
    if family not in decoders.FAMILIES:
        known = nearest(family, [*decoders.FAMILIES, *ENCODERS])
        raise ConfigError(
            f"{options.origin}: model_type {family!r} is not known here{known}"
        )
    return read_language_model(folder, options, family, weights)
