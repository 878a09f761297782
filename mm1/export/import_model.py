"""A published model -> a run folder: `mm1 import`. The family is `model_type` in its config.json."""

from pathlib import Path

from mm1.config import ConfigError, nearest
from mm1.dist import say
from mm1.export import decoders
from mm1.export.language_models import read_language_model
from mm1.export.options import Options
from mm1.export.origin import find
from mm1.export.run_folder import aside, write_run
from mm1.export.weights import Weights


def import_model(name: str, out: Path, *, pickle: bool = False) -> None:
    """Makes the run folder `out` from a published model: a folder, or `owner/model` on the hub.

    Raises:
        ConfigError: an option, a tensor or the tokenizer is not supported, missing or damaged; it is named.
        FileNotFoundError, FileExistsError, UserError: nothing there, or `out` is taken.
    """
    origin = find(name, pickle=pickle)
    options = Options.read(origin.folder / "config.json")
    family = options.need("model_type", str)
    with aside(out) as folder:
        if family in decoders.FAMILIES:
            weights = Weights(origin.folder, pickle=pickle)
            found = read_language_model(origin.folder, options, family, weights)
        else:
            known = nearest(family, decoders.FAMILIES)
            raise ConfigError(f"{options.origin}: model_type {family!r} is not known here{known}")
        write_run(folder, found, weights, origin)
    say(f"{out}: a run folder of the family {family}, from {origin.name}")
