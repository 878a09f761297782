"""`mm1 import`: a published model -> a run folder. `model_type` in its config.json is
the family."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mm1.config import ConfigError, nearest
from mm1.dist import say
from mm1.export.decoders.config import FAMILIES
from mm1.export.encoders.read import READERS
from mm1.export.gguf.read import find_gguf, gguf_as_folder
from mm1.export.image_encoders import encoder_weights, read_encoder
from mm1.export.language_models import read_language_model
from mm1.export.multimodal import read_multimodal
from mm1.export.options import Options
from mm1.export.origin import Origin, find_model
from mm1.export.run_folder import Import, new_folder, write_run
from mm1.weight_files import WeightFiles


def import_model(name: str, out: Path, *, pickle: bool = False) -> None:
    """Makes the run folder `out` from a published model: a folder, a GGUF file, or
    `owner/model` on the hub.

    Raises:
        ConfigError: an option, a tensor or the tokenizer is not supported, missing or
            damaged; it is named.
        FileNotFoundError, FileExistsError, UserError: there is no such model, or `out`
            is taken.
    """
    with new_folder(out) as folder, _opened(name, pickle) as (origin, weights):
        model = read_multimodal(origin.folder) or read_encoder(
            origin.folder, weights
        )
        model = model or _language_model(origin.folder, weights)
        write_run(folder, model, weights, origin)
    for note in model.notes:
        say(f"note: {note}")
    say(f"{out}: a run folder of the family {model.family}, from {origin.name}")


@contextmanager
def _opened(name: str, pickle: bool) -> Iterator[tuple[Origin, WeightFiles]]:
    if file := find_gguf(Path(name)):
        with gguf_as_folder(file) as (folder, weights):
            yield Origin(folder, name), weights
        return
    origin = find_model(name, pickle=pickle)
    yield origin, encoder_weights(origin.folder, pickle=pickle)


def _language_model(folder: Path, weights: WeightFiles) -> Import:
    options = Options.read(folder / "config.json")
    if "class" in options.left:
        raise ConfigError(
            f"{folder} is an mm1 run already: train from it with init.PART={folder}, or"
            f" write it for transformers with `mm1 export {folder} --out DIR`"
        )
    family = options.need("model_type", str)
    if family not in FAMILIES:
        known = nearest(family, [*FAMILIES, *READERS])
        raise ConfigError(
            f"{options.origin}: model_type {family!r} is not known here{known}"
        )
    return read_language_model(folder, options, family, weights)
