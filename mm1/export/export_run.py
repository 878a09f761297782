"""`mm1 export`: a run folder -> a Hugging Face folder, or a GGUF file. The class of the
run's model decides which."""

from pathlib import Path
from typing import Any, Literal

from mm1.config import ConfigError
from mm1.dist import say
from mm1.export.card import Usage, write_card
from mm1.export.gguf.write import USAGE as GGUF
from mm1.export.gguf.write import write_gguf
from mm1.export.image_encoders import write_encoder
from mm1.export.language_models import USAGE as LANGUAGE_MODEL
from mm1.export.language_models import write_language_model
from mm1.export.multimodal import USAGE as MULTIMODAL
from mm1.export.multimodal import write_multimodal
from mm1.export.run_folder import new_folder
from mm1.nn.decoder import LanguageModel
from mm1.nn.mm1 import MM1
from mm1.runs.description import read_config

Format = Literal["transformers", "gguf"]


def export_run(
    run: Path,
    out: Path,
    *,
    part: str | None = None,
    file_format: Format = "transformers",
) -> None:
    """Writes the finished run's model, or one `part` of it, with tokenizer and model
    card into the new folder `out`. A GGUF holds the decoder alone.

    Raises:
        ConfigError: the model cannot be exported, or has options that no published
            family has.
        FileNotFoundError, FileExistsError: `run` is no finished run, or `out` is taken.
    """
    config = read_config(run)
    with new_folder(out) as folder:
        kind, usage, opens = _write(run, config, folder, part, file_format)
        write_card(run, config, folder, usage)
    say(f"{out}: {kind}, {opens}; see {out / 'README.md'}")


def _write(
    run: Path, config: Any, folder: Path, part: str | None, file_format: Format
) -> tuple[str, Usage, str]:
    """Writes all but the card; returns what the model is, how it is used, and what
    opens it."""
    opens = "opens with transformers"
    is_text = type(config.model) is LanguageModel.Config
    is_mm1 = isinstance(config.model, MM1.Config)
    if file_format == "gguf":
        if part == "encoder" or not (is_text or is_mm1):
            raise ConfigError(
                "a GGUF holds a language model: export an image encoder for"
                " transformers"
            )
        alone = "the decoder alone, " if is_mm1 else ""
        family = write_gguf(run, config, folder)
        return f"{alone}{family}", GGUF, "a GGUF for llama.cpp and transformers"
    if (is_text and part is None) or part == "decoder":
        return write_language_model(run, config, folder), LANGUAGE_MODEL, opens
    if is_mm1 and part is None:
        return write_multimodal(run, config, folder), MULTIMODAL, opens
    return *write_encoder(run, config, folder, part), opens
