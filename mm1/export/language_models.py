"""Language models between a run folder and a Hugging Face folder, which transformers
opens with its own classes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.tokenizer import TOKENIZER, Tokenizer
from mm1.export.card import Usage
from mm1.export.decoders.config import (
    family_of,
    from_decoder_config,
    to_decoder_config,
)
from mm1.export.decoders.links import UNUSED, decoder_links
from mm1.export.fields import Fields
from mm1.export.mapping import NOTHING, Link, MeanRows, check_export
from mm1.export.options import Options
from mm1.export.published_folder import (
    CONFIG,
    MAX_LENGTH,
    OWN,
    own_special_tokens,
    read_own,
    stored_dtype,
    token_ids,
    write_tensors,
)
from mm1.export.run_folder import Import
from mm1.export.tokens import (
    GENERATION_CONFIG,
    Vocabulary,
    export_vocabulary,
    import_vocabulary,
    published_ends,
)
from mm1.files import FRESH_COPY, read_utf8, write_json
from mm1.loader.packed import PackedLoader
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.mm1 import MM1
from mm1.runs.weights import RunWeights
from mm1.weight_files import WeightFiles

HEAD = "lm_head.weight"
TABLE = "model.embed_tokens.weight"

LIMITS = (
    "It continues text and was not tuned on instructions, unless its origin was.",
    (
        "What it writes may be wrong, biased or offensive; nothing was done here to"
        " prevent that."
    ),
    "Nothing is known about its quality beyond the scores above.",
)

USAGE = Usage(
    what="A decoder-only language model, trained or kept with mm1.",
    code="""
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)
output = model.generate(**inputs, max_new_tokens=40)[0]
print(tokenizer.decode(output, skip_special_tokens=True))
""",
    limits=LIMITS,
    task="text-generation",
)


def read_language_model(
    folder: Path, options: Options, family: str, weights: WeightFiles
) -> Import:
    """A published language model; `options` are those of its `config.json`.

    Raises:
        ConfigError, FileNotFoundError: an option or the tokenizer is not supported, or
            missing; it is named.
    """
    num_rows = options.need("vocab_size", int)
    length = options.left.get("max_position_embeddings", MAX_LENGTH)
    ends = options.raw("eos_token_id")
    for key in ("bos_token_id", "pad_token_id"):
        options.raw(key)  # the tokenizer's own files decide
    decoder = from_decoder_config(options, family)
    options.finish()
    notes: list[str] = []
    if (folder / OWN).is_file():
        model, vocabulary = _own(folder, decoder, family)
    else:
        model = LanguageModel.Config(decoder=decoder)
        ids = published_ends(folder, ends)
        vocabulary = import_vocabulary(folder, ids, num_rows)
        if len(ids) > 1:
            notes.append(
                f"of the ends {ids}, only {vocabulary.special_tokens.end} ends a text"
                " here"
            )
    if decoder.tied:
        _check_tied(weights)
    unused = UNUSED + (rf"|{HEAD}" if decoder.tied else "")
    links = [
        _with_new_rows(link, vocabulary.num_new)
        for link in decoder_links(_built(model, num_rows).decoder, family)
    ]
    return Import(
        family,
        model,
        vocabulary,
        num_rows + vocabulary.num_new,
        links,
        PackedLoader.Config(sequence_length=length),
        unused,
        notes,
    )


def _built(model: LanguageModel.Config, num_rows: int) -> LanguageModel:
    with torch.device("meta"):
        return model.build(vocab_size=num_rows)


def _with_new_rows(link: Link, num_new: int) -> Link:
    if num_new and link.theirs[0] in (HEAD, TABLE):
        return MeanRows(link.ours, link.theirs, num_new)
    return link


def _check_tied(weights: WeightFiles) -> None:
    """Raises ConfigError if the config ties two tables that differ in the file."""
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
        ConfigError: `config.json` was edited and describes another decoder now.
    """
    model, own = read_own(folder, LanguageModel.Config)
    written = to_decoder_config(_built(model, 1).decoder, family, max_length=1)
    if from_decoder_config(Options(written, folder / OWN), family) != decoder:
        raise ConfigError(
            f"{folder / OWN} and config.json describe two decoders: delete {OWN} to go"
            " by config.json"
        )
    return model, Vocabulary(
        read_utf8(folder / TOKENIZER, FRESH_COPY),
        own_special_tokens(folder, own),
        0,
    )


@dataclass(frozen=True, slots=True)
class RunDecoder:
    """A run's language model, or the decoder of a multimodal run as one."""

    model: LanguageModel.Config
    family: str
    """Of published language models, that computes the same."""
    decoder: Decoder
    """On the meta device."""
    links: Sequence[Link]
    weights: RunWeights
    tokenizer: Tokenizer
    max_length: int
    """Longest text in tokens."""


def run_decoder(run: Path, config: Any) -> RunDecoder:
    """The decoder of a finished run on its way out.

    Raises:
        ConfigError: no published family has the decoder's options together, or the
            model has no decoder that a format has room for.
    """
    model = config.model
    if not isinstance(model, LanguageModel.Config):
        raise ConfigError(
            f"{run} is a {model.owner.__name__}, which has no decoder: leave out --part"
            " to export what it has"
        )
    unused = NOTHING
    if isinstance(model, MM1.Config):
        model = LanguageModel.Config(decoder=model.decoder, z_loss=model.z_loss)
        unused = r"(encoder|connector)\..*"
    fields = Fields(model, LanguageModel, "", run_decoder)
    fields.leave("z_loss")  # of training alone
    family = family_of(fields.take("decoder"))
    fields.finish("LanguageModel")
    tokenizer = Tokenizer.Config(path=str(run)).build()
    built = _built(model, tokenizer.vocab_size)
    weights = RunWeights(run)
    links = decoder_links(built.decoder, family)
    check_export(links, built, weights, unused=unused)
    max_length = getattr(config.loader, "sequence_length", MAX_LENGTH)
    return RunDecoder(
        model, family, built.decoder, links, weights, tokenizer, max_length
    )


def write_language_model(run: Path, config: Any, folder: Path) -> str:
    """Writes the run's decoder for transformers, with no code of its own; returns the
    family.

    Raises:
        ConfigError: no published family has the decoder's options together.
    """
    source = run_decoder(run, config)
    tokenizer = source.tokenizer
    values = to_decoder_config(
        source.decoder, source.family, max_length=source.max_length
    )
    ids = token_ids(tokenizer)
    values |= ids | {"dtype": stored_dtype(source.links, source.weights)}
    write_json(folder / CONFIG, values)
    # Image places, padding and ids without a token are never generated, as in a run.
    generation = {
        "do_sample": False,
        "suppress_tokens": tokenizer.suppress_tokens,
    }
    write_json(folder / GENERATION_CONFIG, ids | generation)
    export_vocabulary(
        tokenizer, folder, max_length=source.max_length, padding_side="left"
    )
    own = {
        "model": configs.to_json(source.model),
        "special_tokens": json.loads(tokenizer.special_tokens.to_json()),
    }
    write_json(folder / OWN, own)
    write_tensors(folder, source.links, source.weights)
    return source.family
