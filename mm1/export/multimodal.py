"""MM1 runs between a run folder and a folder of the Hugging Face format, which carries
`remote/` along."""

import json
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.tokenizer import END, IMAGE, TOKENIZER, Roles, Tokenizer
from mm1.export import decoders
from mm1.export.card import Usage
from mm1.export.encoders.convert import check_same
from mm1.export.encoders.formats import CLIP_VISION, encoder_format
from mm1.export.encoders.vision import under
from mm1.export.language_models import MAX_LENGTH, OWN
from mm1.export.mapping import Link, parted, same, theirs_layout
from mm1.export.options import Options
from mm1.export.progress import shown
from mm1.export.remote_code import remote_code
from mm1.export.run_folder import Import
from mm1.export.tokens import TOKENIZER_CONFIG, Vocabulary, export_vocabulary
from mm1.export.weights import Weights, write_sharded
from mm1.files import ANEW, read_object, write_json
from mm1.infer.trained_model import make_renderer
from mm1.loader.packed import PackedLoader
from mm1.nn.mm1 import MM1
from mm1.runs.folder import weights_path

MODEL_TYPE = "mm1"
CONFIG = "config.json"
SPLIT_OPTIONS = (
    "resize",
    "split",
    "min_tiles",
    "max_tiles",
    "split_last",
    "index_tokens",
)
"""Options of the loader that say how a large image is split."""
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
"""The template, and the tokens as it names them: image, end, begin."""
NEW_TOKENS = 256
"""Length of an answer where nobody says how long it may be."""

USAGE = Usage(
    what=(
        "A multimodal language model that reads pictures and text and writes text,"
        " trained with mm1."
    ),
    code="""
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("FOLDER", trust_remote_code=True)
question = [{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is in the picture?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=True, return_dict=True
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
            "Before a fine-tuning on instructions it continues pages of text and"
            " pictures; it follows no questions yet."
        ),
        "Nothing is known of its quality beyond the scores above.",
    ),
    task="image-text-to-text",
)


def write_multimodal(run: Path, config: Any, folder: Path) -> str:
    """Writes the run's model, its processor and their code; returns the families of
    decoder and encoder.

    Raises:
        ConfigError: transformers has no class for the options of encoder or decoder, or
            the connector's file needs more of mm1 than travels with it.
    """
    tokenizer = Tokenizer.Config(path=str(run)).build()
    model = _built(config.model, tokenizer.vocab_size)
    family = decoders.family_of(config.model.decoder)
    for name, text in remote_code(config.model.connector).items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = Weights(weights_path(run))
    links = links_of(model, config.model, family)
    layouts = theirs_layout(links, weights)
    max_length = getattr(config.loader, "sequence_length", MAX_LENGTH)
    values = published_config(model, config.model, family, max_length=max_length)
    ids = {
        "bos_token_id": tokenizer.begin,
        "eos_token_id": tokenizer.end,
        "pad_token_id": tokenizer.pad,
    }
    dtype = {"dtype": str(next(iter(layouts.values())).dtype).removeprefix("torch.")}
    values["text_config"] |= ids  # some families have ids of their own otherwise
    write_json(
        folder / CONFIG, values | ids | dtype | {"image_token_index": tokenizer.image}
    )
    # As in `mm1.infer.generate`: places for pictures, padding and rows without a token
    # are no answers.
    said = {
        "do_sample": False,
        "max_new_tokens": NEW_TOKENS,
        "suppress_tokens": tokenizer.unsayable,
    }
    write_json(folder / "generation_config.json", ids | said)
    write_processor(model, config, tokenizer, folder, max_length=max_length)
    own = {
        "model": configs.to_json(config.model),
        "special_tokens": json.loads(tokenizer.roles.to_json()),
    }
    own["image_options"] = {
        name: getattr(config.loader, name) for name in SPLIT_OPTIONS
    }
    write_json(folder / OWN, own)
    total = sum(layout.num_bytes for layout in layouts.values())
    write_sharded(folder, layouts, shown("export", parted(links, weights), total))
    return f"{family} behind {values['vision_config']['model_type']}"


def read_multimodal(folder: Path) -> Import | None:
    """Our own export, which comes back as it was; None where the folder is of another
    kind.

    Raises:
        ConfigError: what makes it ours is gone, or the folder's files are of another
            model by now.
    """
    published = (
        Options.read(folder / CONFIG, without="auto_map").left
        if (folder / CONFIG).is_file()
        else {}
    )
    if published.get("model_type") != MODEL_TYPE:
        return None
    if not (folder / OWN).is_file():
        raise ConfigError(
            f"{folder} is an export of mm1 without its {OWN}: get that file, or export"
            " the run anew"
        )
    own = read_object(folder / OWN, ANEW)
    config = configs.from_json(own["model"])
    num_rows = published["text_config"]["vocab_size"]
    model = _built(config, num_rows)
    family = decoders.family_of(config.decoder)
    max_length = published["text_config"]["max_position_embeddings"]
    check_same(
        folder, CONFIG, published_config(model, config, family, max_length=max_length)
    )
    vocabulary = Vocabulary(
        (folder / TOKENIZER).read_text(encoding="utf-8"),
        Roles(**own["special_tokens"]),
        0,
    )
    loader = PackedLoader.Config(sequence_length=max_length, **own["image_options"])
    return Import(
        MODEL_TYPE,
        config,
        vocabulary,
        num_rows,
        links_of(model, config, family),
        loader,
    )


def _built(config: MM1.Config, num_rows: int) -> MM1:
    with torch.device("meta"):
        return config.build(vocab_size=num_rows)


def links_of(model: MM1, config: MM1.Config, family: str) -> list[Link]:
    """Between our tensors and those of `MM1ForConditionalGeneration`."""
    # A table that is computed here is written out like any other.
    encoder = encoder_format(config.encoder).links(
        replace(config.encoder, positions="learnt")
    )
    connector = {
        f"connector.{name}": f"model.connector.{name}"
        for name in model.connector.state_dict()
    }
    return [
        *under(encoder, "encoder.", "model.vision_tower."),
        *same(connector),
        *decoders.links(model.decoder, family, theirs="model.language_model."),
    ]


def published_config(
    model: MM1, config: MM1.Config, family: str, *, max_length: int
) -> dict[str, Any]:
    """`config.json`, without token ids."""
    kind = encoder_format(config.encoder)
    connector = configs.to_json(config.connector)
    text = decoders.published_config(model.decoder, family, max_length=max_length)
    vision = kind.config(config.encoder)
    for part in (text, vision):
        del part["architectures"]
    del connector["class"]
    return {
        "architectures": ["MM1ForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "auto_map": CLASSES,
        "vision_config": vision,
        "text_config": text,
        "connector": connector,
        "num_extra_tokens": model.encoder.num_prefix_tokens,
        "norm_features": kind is CLIP_VISION,
        "image_seq_length": model.tokens_per_image,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }


def write_processor(
    model: MM1, config: Any, tokenizer: Tokenizer, folder: Path, *, max_length: int
) -> None:
    """Tokenizer, chat template, and how images are preprocessed."""
    export_vocabulary(tokenizer, folder, max_length=max_length)
    roles = tokenizer.roles
    path = folder / TOKENIZER_CONFIG
    # Prompts of a batch end together, so that each is gone on from its last token.
    more = PROCESSOR | {
        "padding_side": "left",
        "extra_special_tokens": {"image_token": roles.image},
    }
    write_json(path, read_object(path, ANEW) | more)
    template = (files("mm1.export.remote") / TEMPLATE).read_text(encoding="utf-8")
    own = ", ".join(
        json.dumps(token, ensure_ascii=False)
        for token in (roles.image, roles.end, roles.begin or "")
    )
    (folder / TEMPLATE).write_text(template.replace(OUR_TOKENS, own), encoding="utf-8")
    encoder = config.model.encoder
    image_processor = make_renderer(model, tokenizer, config.loader).image_processor
    assert image_processor is not None
    pictures = {
        "image_options": asdict(image_processor),
        "tokens_per_image": model.tokens_per_image,
        "image_token": roles.image,
    }
    pictures |= {"image_mean": encoder.mean, "image_std": encoder.std}
    write_json(folder / "processor_config.json", PROCESSOR | pictures)
