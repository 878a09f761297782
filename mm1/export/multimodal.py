"""MM1 runs between a run folder and a Hugging Face folder, which carries the code in
`remote/` along."""

import json
from dataclasses import asdict
from dataclasses import fields as fields_of
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from mm1 import config as configs
from mm1.config import ConfigError, Configurable
from mm1.data.image_processing import ImageProcessor
from mm1.data.tokenizer import END, IMAGE, TOKENIZER, Tokenizer
from mm1.export.card import Usage
from mm1.export.decoders.config import family_of, to_decoder_config
from mm1.export.decoders.links import decoder_links
from mm1.export.encoders.links import with_prefixes
from mm1.export.encoders.write import CLIP_VISION, encoder_format
from mm1.export.fields import Fields
from mm1.export.mapping import Link, check_export, same
from mm1.export.options import Options
from mm1.export.published_folder import (
    CONFIG,
    MAX_LENGTH,
    OWN,
    check_unedited,
    own_special_tokens,
    read_own,
    stored_dtype,
    token_ids,
    write_tensors,
)
from mm1.export.remote_code import remote_code
from mm1.export.run_folder import Import
from mm1.export.tokens import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    Vocabulary,
    export_vocabulary,
)
from mm1.files import FRESH_COPY, read_object, read_utf8, write_json
from mm1.infer.trained_model import make_renderer
from mm1.loader.packed import PackedLoader
from mm1.nn.mm1 import MM1
from mm1.runs.weights import RunWeights

MODEL_TYPE = "mm1"
IMAGE_OPTIONS = {field.name for field in fields_of(ImageProcessor)} & {
    field.name for field in fields_of(PackedLoader.Config)
}
"""Options of the loader that say how images are preprocessed."""
CLASSES = {
    "AutoConfig": "modeling_mm1.MM1Config",
    "AutoModel": "modeling_mm1.MM1Model",
    "AutoModelForImageTextToText": "modeling_mm1.MM1ForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_mm1.MM1ForConditionalGeneration",
}
PROCESSOR = {
    "processor_class": "MM1Processor",
    "auto_map": {"AutoProcessor": "processing_mm1.MM1Processor"},
}
TEMPLATE = "chat_template.jinja"
OUR_TOKENS = f'"{IMAGE}", "{END}", ""'
"""Image, end and begin as the template names them."""
NEW_TOKENS = 256
"""Longest answer unless asked otherwise."""

USAGE = Usage(
    what=(
        "A multimodal language model that reads pictures and text and writes text,"
        " trained with mm1."
    ),
    code="""
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("FOLDER", trust_remote_code=True)
question = [
    {"type": "image", "image": Image.open("picture.jpg")},
    {"type": "text", "text": "What is in the picture?"},
]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": question}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
)
answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
""",
    limits=(
        (
            "The Python files in this folder run on your machine: read them first, they"
            " are short."
        ),
        (
            "It may describe what is not in a picture, and what it writes may be wrong,"
            " biased or offensive."
        ),
        (
            "Unless it was fine-tuned on instructions it continues pages of text and"
            " pictures and does not answer questions."
        ),
        "Nothing is known about its quality beyond the scores above.",
    ),
    task="image-text-to-text",
)


def write_multimodal(run: Path, config: Any, folder: Path) -> str:
    """Writes the run's model, its processor and their code; returns the families of
    decoder and encoder.

    Raises:
        ConfigError: transformers has no class for the options of encoder or decoder, or
            the connector's file imports more of mm1 than an export carries.
    """
    tokenizer = Tokenizer.Config(path=str(run)).build()
    model = _built(config.model, tokenizer.vocab_size)
    family = family_of(config.model.decoder)
    max_length = getattr(config.loader, "sequence_length", MAX_LENGTH)
    values = to_mm1_config(model, config.model, family, max_length=max_length)
    weights = RunWeights(run)
    links = mm1_links(model, config.model, family)
    check_export(links, model, weights)
    for name, text in remote_code(config.model.connector).items():
        (folder / name).write_text(text, encoding="utf-8")
    ids = token_ids(tokenizer)
    values["text_config"] |= ids  # some families have other defaults
    values |= ids | {"dtype": stored_dtype(links, weights)}
    write_json(folder / CONFIG, values | {"image_token_index": tokenizer.image})
    # As in `mm1.infer.generate`: image places, padding and ids without a token are
    # never generated.
    generation = {
        "do_sample": False,
        "max_new_tokens": NEW_TOKENS,
        "suppress_tokens": tokenizer.suppress_tokens,
    }
    write_json(folder / GENERATION_CONFIG, ids | generation)
    write_processor(model, config, tokenizer, folder, max_length=max_length)
    own = {
        "model": configs.to_json(config.model),
        "special_tokens": json.loads(tokenizer.special_tokens.to_json()),
        "image_options": {
            name: getattr(config.loader, name) for name in IMAGE_OPTIONS
        },
    }
    write_json(folder / OWN, own)
    write_tensors(folder, links, weights)
    return f"{family} behind {values['vision_config']['model_type']}"


def read_multimodal(folder: Path) -> Import | None:
    """Our own export, which comes back as it was; None if the folder holds anything
    else.

    Raises:
        ConfigError: `mm1.json` is missing, or `config.json` was edited and describes
            another model now.
    """
    if not (folder / CONFIG).is_file():
        return None
    published = Options.read(folder / CONFIG, without="auto_map").left
    if published.get("model_type") != MODEL_TYPE:
        return None
    if not (folder / OWN).is_file():
        raise ConfigError(
            f"{folder} is an export of mm1 without its {OWN}: get that file, or export"
            " the run again"
        )
    config, own = read_own(folder, MM1.Config)
    text = Options(published, folder / CONFIG).part("text_config")
    num_rows = text.need("vocab_size", int)
    model = _built(config, num_rows)
    family = family_of(config.decoder)
    max_length = text.need("max_position_embeddings", int)
    written = to_mm1_config(model, config, family, max_length=max_length)
    check_unedited(folder, CONFIG, written)
    vocabulary = Vocabulary(
        read_utf8(folder / TOKENIZER, FRESH_COPY),
        own_special_tokens(folder, own),
        0,
    )
    options = {"sequence_length": max_length} | own.get("image_options", {})
    loader: Any = configs.make_config(PackedLoader, options)
    links = mm1_links(model, config, family)
    return Import(MODEL_TYPE, config, vocabulary, num_rows, links, loader)


def _built(config: MM1.Config, num_rows: int) -> MM1:
    with torch.device("meta"):
        return config.build(vocab_size=num_rows)


def mm1_links(model: MM1, config: MM1.Config, family: str) -> list[Link]:
    """Between our tensors and those of `MM1ForConditionalGeneration`."""
    encoder = encoder_format(config.encoder).links(config.encoder)
    connector = {
        f"connector.{name}": f"model.connector.{name}"
        for name in model.connector.state_dict()
    }
    return [
        *with_prefixes(encoder, "encoder.", "model.vision_tower."),
        *same(connector),
        *decoder_links(model.decoder, family, theirs="model.language_model."),
    ]


def to_mm1_config(
    model: MM1, config: MM1.Config, family: str, *, max_length: int
) -> dict[str, Any]:
    """`config.json`, without token ids.

    Raises:
        ConfigError: a field of the model or of one of its parts has no place in it.
    """
    fields = Fields(config, MM1, "", to_mm1_config)
    fields.leave("z_loss")  # of training alone
    fields.leave("decoder")  # as the model has built it
    chosen = encoder_format(fields.take("encoder"))
    vision = chosen.config(config.encoder)
    text = to_decoder_config(model.decoder, family, max_length=max_length)
    for part in (text, vision):
        del part["architectures"]
    connector = _to_connector(
        fields.within("connector", config.connector.owner)
    )
    fields.finish("MM1ForConditionalGeneration")
    return {
        "architectures": ["MM1ForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "auto_map": CLASSES,
        "vision_config": vision,
        "text_config": text,
        "connector": connector,
        "num_extra_tokens": model.encoder.num_prefix_tokens,
        "norm_features": chosen is CLIP_VISION,
        "image_seq_length": model.tokens_per_image,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def _to_connector(connector: Fields) -> dict[str, Any]:
    """All fields, whatever they are: exports carry the connector's class, which reads
    them."""
    values = {}
    for name in [*connector.left]:
        value = connector.take(name)
        if isinstance(value, Configurable.Config):
            connector.refuse(
                name, "a config, which the export would read as a dict"
            )
        values[name] = configs.to_json(value)
    return values


def write_processor(
    model: MM1,
    config: Any,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    max_length: int,
) -> None:
    """Writes tokenizer and chat template, and how images are preprocessed."""
    export_vocabulary(
        tokenizer, folder, max_length=max_length, padding_side="left"
    )
    special_tokens = tokenizer.special_tokens
    path = folder / TOKENIZER_CONFIG
    more = PROCESSOR | {
        "extra_special_tokens": {"image_token": special_tokens.image},
    }
    write_json(path, read_object(path, FRESH_COPY) | more)
    template = (files("mm1.export.remote") / TEMPLATE).read_text(
        encoding="utf-8"
    )
    tokens = (
        special_tokens.image,
        special_tokens.end,
        special_tokens.begin or "",
    )
    own = ", ".join(json.dumps(token, ensure_ascii=False) for token in tokens)
    (folder / TEMPLATE).write_text(
        template.replace(OUR_TOKENS, own), encoding="utf-8"
    )
    encoder = config.model.encoder
    image_processor = make_renderer(
        model, tokenizer, config.loader
    ).image_processor
    assert image_processor is not None
    images = {
        "image_options": asdict(image_processor),
        "tokens_per_image": model.tokens_per_image,
        "image_token": special_tokens.image,
        "control_tokens": tokenizer.control_tokens,
        "image_mean": encoder.mean,
        "image_std": encoder.std,
    }
    write_json(folder / "processor_config.json", PROCESSOR | images)
