"""A run folder -> a folder of the Hugging Face format: `mm1 export`. The class of the run's model says which."""

from pathlib import Path

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.dist import say
from mm1.export.card import write_card
from mm1.export.language_models import USAGE, write_language_model
from mm1.export.run_folder import aside
from mm1.nn.decoder import LanguageModel
from mm1.train.folder import read_config


def export_run(run: Path, out: Path) -> None:
    """Writes the finished run's model, tokenizer and card into `out`.

    Raises:
        ConfigError: the model is none that can be exported, or has options that no published family has.
        FileNotFoundError, FileExistsError: `run` is no finished run, or `out` is taken.
    """
    config = read_config(run)
    with aside(out) as folder:
        if type(config.model) is LanguageModel.Config:
            family = write_language_model(run, config, folder)
            write_card(run, config, folder, USAGE)
        else:
            what = configs.path_of(config.model)
            raise ConfigError(f"{run} holds a {what}, which cannot be exported; language models can")
    say(f"{out}: {family}, opens with transformers' AutoModelForCausalLM and AutoTokenizer")
