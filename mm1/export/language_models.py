"""Language models between a run folder and a folder of the Hugging Face format, which
transformers opens as its own."""

import json
from pathlib import Path
from typing import Any

import torch

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.tokenizer import TOKENIZER, Roles, Tokenizer
from mm1.export import decoders
from mm1.export.card import Usage
from mm1.export.mapping import Grown, Link, parted, theirs_layout
from mm1.export.options import Options
from mm1.export.progress import shown
from mm1.export.run_folder import Import
from mm1.export.tokens import Vocabulary, export_vocabulary, import_vocabulary
from mm1.export.weights import Weights, write_sharded
from mm1.files import ANEW, read_object, write_json
from mm1.loader.packed import PackedLoader
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.runs.folder import weights_path

OWN = "mm1.json"
"""What our own exports carry along, so that they come back as they were."""

HEAD = "lm_head.weight"
TABLE = "model.embed_tokens.weight"

MAX_LENGTH = 4096
"""Of an exported model whose loader has no rows to go by."""

USAGE = Usage(
    what="A decoder-only language model, trained or kept with mm1.",
    code="""
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
""",
    limits=(
        "It continues text and was taught no instructions, unless its origin was.",
        (
            "What it writes may be wrong, biased or offensive; nothing was done here to"
            " prevent that."
        ),
        "Nothing is known of its quality beyond the scores above.",
    ),
    task="text-generation",
)


def read_language_model(
    folder: Path, options: Options, family: str, weights: Weights
) -> Import:
    """A published language model in `folder`; `options` are its config's.

    Raises:
        ConfigError, FileNotFoundError: an option or the tokenizer is not supported, or
            missing; it is named.
    """
    num_rows = options.need("vocab_size", int)
    length = options.left.get("max_position_embeddings", MAX_LENGTH)
    ends = options.raw("eos_token_id")
    for key in ("bos_token_id", "pad_token_id"):
        options.raw(key)  # the tokenizer's own word counts
    decoder = decoders.decoder_config(options, family)
    options.finish()
    if (folder / OWN).is_file():
        model, vocabulary = _own(folder, decoder, family)
    else:
        model = LanguageModel.Config(decoder=decoder)
        ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
        vocabulary = import_vocabulary(folder, ids, num_rows)
    if decoder.tied:
        _check_tied(weights)
    unused = decoders.UNUSED + (rf"|{HEAD}" if decoder.tied else "")
    links = [
        _grown(link, vocabulary.num_new)
        for link in decoders.links(_built(model, num_rows), family)
    ]
    return Import(
        family,
        model,
        vocabulary,
        num_rows + vocabulary.num_new,
        links,
        PackedLoader.Config(sequence_length=length),
        unused,
    )


def _built(model: LanguageModel.Config, num_rows: int) -> Decoder:
    with torch.device("meta"):
        return model.decoder.build(vocab_size=num_rows)


def _grown(link: Link, num_new: int) -> Link:
    return (
        Grown(link.ours, link.theirs, num_new)
        if num_new and link.theirs[0] in (HEAD, TABLE)
        else link
    )


def _check_tied(weights: Weights) -> None:
    """Raises ConfigError where the config ties two tables that are not equal in the
    file."""
    if weights.names >= {HEAD, TABLE} and not torch.equal(
        weights.tensor(HEAD), weights.tensor(TABLE)
    ):
        raise ConfigError(
            f"{weights.origin}: {HEAD} is not {TABLE}: set tie_word_embeddings to false"
            " in config.json"
        )


def _own(
    folder: Path, decoder: Decoder.Config, family: str
) -> tuple[LanguageModel.Config, Vocabulary]:
    """Config and tokenizer of our own export, which come back as they were.

    Raises:
        ConfigError: the folder's config.json is of another decoder by now.
    """
    own = read_object(folder / OWN, ANEW)
    model = configs.from_json(own["model"])
    written = Options(
        decoders.published_config(_built(model, 1), family, max_length=1), folder / OWN
    )
    if decoders.decoder_config(written, family) != decoder:
        raise ConfigError(
            f"{folder / OWN} and config.json are of two decoders: delete {OWN} to go by"
            " config.json"
        )
    return model, Vocabulary(
        (folder / TOKENIZER).read_text(encoding="utf-8"),
        Roles(**own["special_tokens"]),
        0,
    )


def write_language_model(run: Path, config: Any, folder: Path) -> str:
    """Writes the run's model for transformers, with no code of its own; returns the
    family.

    Raises:
        ConfigError: no published family has the decoder's options together.
    """
    tokenizer = Tokenizer.Config(path=str(run)).build()
    family = decoders.family_of(config.model.decoder)
    decoder = _built(config.model, tokenizer.vocab_size)
    max_length = getattr(config.loader, "sequence_length", MAX_LENGTH)
    weights = Weights(weights_path(run))
    links = decoders.links(decoder, family)
    layouts = theirs_layout(links, weights)
    ids = {
        "bos_token_id": tokenizer.begin,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.pad,
    }
    dtype = {"dtype": str(next(iter(layouts.values())).dtype).removeprefix("torch.")}
    write_json(
        folder / "config.json",
        decoders.published_config(decoder, family, max_length=max_length) | ids | dtype,
    )
    # Places for pictures, padding and rows without a token are no answers, here as in a
    # run of ours.
    write_json(
        folder / "generation_config.json",
        ids | {"do_sample": False, "suppress_tokens": tokenizer.unsayable},
    )
    export_vocabulary(tokenizer, folder, max_length=max_length)
    own = {
        "model": configs.to_json(config.model),
        "special_tokens": json.loads(tokenizer.roles.to_json()),
    }
    write_json(folder / OWN, own)
    total = sum(layout.num_bytes for layout in layouts.values())
    write_sharded(folder, layouts, shown("export", parted(links, weights), total))
    return family
