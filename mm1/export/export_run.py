"""`mm1 export`: a run folder -> a Hugging Face folder. The class of the run's model
decides which."""

from pathlib import Path

from mm1.dist import say
from mm1.export.card import write_card
from mm1.export.image_encoders import write_encoder
from mm1.export.language_models import USAGE as LANGUAGE_MODEL
from mm1.export.language_models import write_language_model
from mm1.export.multimodal import USAGE as MULTIMODAL
from mm1.export.multimodal import write_multimodal
from mm1.export.run_folder import new_folder
from mm1.nn.decoder import LanguageModel
from mm1.nn.mm1 import MM1
from mm1.runs.description import read_config


def export_run(run: Path, out: Path, *, part: str | None = None) -> None:
    """Writes the finished run's model, or one `part` of it, with tokenizer and model
    card into the new folder `out`.

    Raises:
        ConfigError: the model cannot be exported, or has options that no published
            family has.
        FileNotFoundError, FileExistsError: `run` is no finished run, or `out` is taken.
    """
    config = read_config(run)
    with new_folder(out) as folder:
        if type(config.model) is LanguageModel.Config and part is None:
            family = write_language_model(run, config, folder)
            usage = LANGUAGE_MODEL
        elif isinstance(config.model, MM1.Config) and part is None:
            family = write_multimodal(run, config, folder)
            usage = MULTIMODAL
        else:
            family, usage = write_encoder(run, config, folder, part)
        write_card(run, config, folder, usage)
    say(f"{out}: {family}, opens with transformers; see {out / 'README.md'}")
