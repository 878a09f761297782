"""Image encoders and CLIPs between a run folder and a Hugging Face folder, which
transformers opens with its own classes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.tokenizer import (
    END,
    IMAGE,
    PAD,
    TOKENIZER,
    UNKNOWN,
    SpecialTokens,
    Tokenizer,
)
from mm1.export.card import Usage
from mm1.export.encoders.links import with_prefixes
from mm1.export.encoders.read import read_published_encoder
from mm1.export.encoders.values import input_size
from mm1.export.encoders.write import to_published_clip, to_published_encoder
from mm1.export.fields import Fields
from mm1.export.mapping import NOTHING, Link, check_export
from mm1.export.options import Options
from mm1.export.preprocessor import to_preprocessor
from mm1.export.published_folder import (
    CONFIG,
    OWN,
    check_unedited,
    own_special_tokens,
    read_own,
    stored_dtype,
    token_ids,
    write_tensors,
)
from mm1.export.run_folder import Import
from mm1.export.tokens import (
    TOKENIZER_CONFIG,
    Vocabulary,
    export_vocabulary,
    import_vocabulary,
)
from mm1.export.weights import Weights
from mm1.files import FRESH_COPY, read_utf8, write_json
from mm1.loader.pairs import PairLoader
from mm1.nn.aim import AIM
from mm1.nn.clip import CLIP
from mm1.nn.features import Features
from mm1.nn.model import Model
from mm1.nn.vit import ViT
from mm1.runs.weights import RunWeights
from mm1.weight_files import WeightFiles

PREPROCESSOR = "preprocessor_config.json"

OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def encoder_weights(folder: Path, *, pickle: bool) -> Weights:
    """The weights of a folder: open_clip's own next to open_clip's config, which also
    says how pictures are prepared."""
    if (folder / "open_clip_config.json").is_file():
        for name in OPEN_CLIP[: 1 + pickle]:
            if (folder / name).is_file():
                return Weights(folder / name, pickle=pickle)
    return Weights(folder, pickle=pickle)


def read_encoder(folder: Path, weights: WeightFiles) -> Import | None:
    """None: the folder holds no image encoder that is known here.

    Raises:
        ConfigError, FileNotFoundError: an option or the tokenizer is not supported, or
            missing; it is named.
    """
    if (folder / OWN).is_file():
        return _own(folder)
    published = read_published_encoder(folder, weights)
    if published is None:
        return None
    model = published.model
    if isinstance(model, CLIP.Config):
        text = model.text
        assert text.vocab_size is not None
        vocabulary = import_vocabulary(
            folder, published.end_ids, text.vocab_size
        )
        # The tokenizer knows the vocabulary's size.
        model = replace(model, text=replace(text, vocab_size=None))
        num_rows = text.vocab_size + vocabulary.num_new
        loader = PairLoader.Config(context=text.max_length)
    else:
        vocabulary = _no_text()
        num_rows = 0
        loader = PairLoader.Config()
    links = [
        _with_new_rows(link, folder, vocabulary) for link in published.links
    ]
    return Import(
        published.family,
        model,
        vocabulary,
        num_rows,
        links,
        loader,
        published.unused,
        published.notes,
    )


def _no_text() -> Vocabulary:
    """The vocabulary of an encoder alone: it is never used, but every run folder has
    one."""
    tokens = [PAD, END, IMAGE, UNKNOWN]
    backend = Backend(
        models.WordLevel(
            {token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN
        )
    )
    backend.add_special_tokens(tokens)
    return Vocabulary(backend.to_str(pretty=True), SpecialTokens(), 0)


@dataclass(frozen=True, slots=True)
class CopiedRows(Link):
    """Ours has rows for new tokens, copies of one of theirs: of their padding, for a
    text tower that sees padding."""

    num_new: int
    row: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        table = theirs[0]
        return [torch.cat((table, table[self.row].expand(self.num_new, -1)))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0][: -self.num_new]]


def _with_new_rows(link: Link, folder: Path, vocabulary: Vocabulary) -> Link:
    if not vocabulary.num_new or link.ours != ("text.embedding.weight",):
        return link
    padding = _padding_id(folder, vocabulary)
    return CopiedRows(link.ours, link.theirs, vocabulary.num_new, padding)


def _padding_id(folder: Path, vocabulary: Vocabulary) -> int:
    """The token that captions are padded with there: often the one that ends them."""
    backend = Backend.from_str(vocabulary.text)
    name = None
    if (folder / TOKENIZER_CONFIG).is_file():
        name = Options.read(folder / TOKENIZER_CONFIG).raw("pad_token")
    name = name.get("content") if isinstance(name, dict) else name
    padding = backend.token_to_id(name) if name else None
    return (
        backend.get_vocab()[vocabulary.special_tokens.end]
        if padding is None
        else padding
    )


class EncoderExport(NamedTuple):
    """What an export writes."""

    model: Features.Config | CLIP.Config
    config: dict[str, Any]
    links: list[Link]
    unused: str = NOTHING
    """Matches the names of the run's tensors that are left out (see
    `mapping.check_export`)."""


def _to_export(model: Any, part: str | None) -> EncoderExport:
    """Raises ConfigError if the model, or this part of it, has no published form."""
    if isinstance(model, CLIP.Config) and part is None:
        return EncoderExport(model, *to_published_clip(model))
    if isinstance(model, (Features.Config, AIM.Config)) and part is None:
        _check_alone(model)
        part = "encoder"
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, ViT.Config) or part != "encoder":
        what = configs.path_of(model) + (
            "" if part is None else f", part {part!r}"
        )
        raise ConfigError(
            f"{what}: cannot be exported; language models, CLIPs and image encoders"
            " (--part encoder) can"
        )
    config, links = to_published_encoder(encoder)
    alone = Features.Config(encoder=encoder)
    links = with_prefixes(links, "encoder.", "")
    return EncoderExport(alone, config, links, unused=r"(?!encoder\.).*")


def _check_alone(model: Features.Config | AIM.Config) -> None:
    """Raises ConfigError for a field that says more than what the encoder is."""
    owner = AIM if isinstance(model, AIM.Config) else Features
    fields = Fields(model, owner, "", _check_alone)
    fields.leave("encoder")
    if owner is AIM:
        fields.leave("head_depth", "head_dim")  # only training needs the head
    fields.finish("an image encoder of transformers")


def _own(folder: Path) -> Import | None:
    """Our own export, which comes back as it was; None if it is no encoder.

    Raises:
        ConfigError: the folder's files were edited and describe another encoder now.
    """
    model, own = read_own(folder, Model.Config)
    if not isinstance(model, (Features.Config, CLIP.Config)):
        return None
    export = _to_export(model, None)
    check_unedited(folder, CONFIG, export.config)
    pictures = to_preprocessor(model.encoder, input_size(model.encoder))
    check_unedited(folder, PREPROCESSOR, pictures)
    family = export.config["model_type"]
    if isinstance(model, Features.Config):
        loader = PairLoader.Config()
        return Import(family, model, _no_text(), 0, export.links, loader)
    text = _run_tokenizer(folder, own)
    vocabulary = Vocabulary(text, own_special_tokens(folder, own), 0)
    num_rows = (
        Options.read(folder / CONFIG)
        .part("text_config")
        .need("vocab_size", int)
    )
    loader = PairLoader.Config(context=model.text.max_length)
    return Import(family, model, vocabulary, num_rows, export.links, loader)


ENCODER_USAGE = Usage(
    what="An image encoder, trained or kept with mm1.",
    code="""
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

processor = AutoImageProcessor.from_pretrained("FOLDER")
encoder = AutoModel.from_pretrained("FOLDER")
pixels = processor(Image.open("picture.jpg"), return_tensors="pt")
features = encoder(**pixels).last_hidden_state
""",
    limits=(
        (
            "It gives features, not words; what can be inferred from them depends on"
            " what it was trained on."
        ),
        (
            "If it is a CLIPVisionModel, `last_hidden_state` is before the last norm,"
            " `post_layernorm`."
        ),
    ),
    task="image-feature-extraction",
)

CLIP_USAGE = Usage(
    what=(
        "An image encoder and a text encoder that share one feature space, trained or"
        " kept with mm1."
    ),
    code="""
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

processor = AutoImageProcessor.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER")
texts = tokenizer(
    ["a cat", "a dog"], padding="max_length", truncation=True, return_tensors="pt"
)
pixels = processor(Image.open("picture.jpg"), return_tensors="pt")
print(model(input_ids=texts["input_ids"], **pixels).logits_per_image)
""",
    limits=(
        (
            "It compares pictures with captions; such models are weak at counting,"
            " reading and locating objects."
        ),
        "It was trained on data from the web and shares its biases.",
    ),
    task="zero-shot-image-classification",
)


def write_encoder(
    run: Path, config: Any, folder: Path, part: str | None
) -> tuple[str, Usage]:
    """Writes the run's model, or its part `encoder`, for transformers; returns the name
    of the class there.

    Raises:
        ConfigError: no class of transformers has room for all options; they are named.
    """
    export = _to_export(config.model, part)
    model = export.model
    tokenizer = Tokenizer.Config(path=str(run)).build()
    with torch.device("meta"):
        built = model.build(vocab_size=tokenizer.vocab_size)
    weights = RunWeights(run)
    check_export(export.links, built, weights, unused=export.unused)
    values = export.config
    own = {"model": configs.to_json(model)}
    if isinstance(model, CLIP.Config):
        own |= _write_vocabulary(tokenizer, folder, model.text.max_length)
        num_rows = model.text.vocab_size or tokenizer.vocab_size
        values["text_config"] |= {"vocab_size": num_rows} | token_ids(tokenizer)
    dtype = stored_dtype(export.links, weights)
    write_json(folder / CONFIG, values | {"dtype": dtype})
    pictures = to_preprocessor(model.encoder, input_size(model.encoder))
    write_json(folder / PREPROCESSOR, pictures)
    write_json(folder / OWN, own)
    write_tensors(folder, export.links, weights)
    usage = CLIP_USAGE if isinstance(model, CLIP.Config) else ENCODER_USAGE
    return values["architectures"][0], usage


def _write_vocabulary(
    tokenizer: Tokenizer, folder: Path, max_length: int
) -> dict[str, Any]:
    """As `export_vocabulary`, but the written file always ends captions, as a run does.

    Returns what `_own` needs to restore the run's own file.
    """
    export_vocabulary(
        tokenizer, folder, max_length=max_length, padding_side="right"
    )
    kept: dict[str, Any] = {
        "special_tokens": json.loads(tokenizer.special_tokens.to_json())
    }
    backend = Backend.from_str(tokenizer.text)
    if backend.encode("a").ids[-1] != tokenizer.end:
        kept["post_processor"] = json.loads(tokenizer.text)["post_processor"]
        special_tokens = tokenizer.special_tokens
        begin = []
        if special_tokens.begin is not None and tokenizer.begin is not None:
            begin = [(special_tokens.begin, tokenizer.begin)]
        backend.post_processor = TemplateProcessing(  # type: ignore[assignment]
            single=" ".join(
                [*(name for name, _ in begin), "$A", special_tokens.end]
            ),
            special_tokens=[*begin, (special_tokens.end, tokenizer.end)],
        )
        backend.save(str(folder / TOKENIZER))
    return kept


def _run_tokenizer(folder: Path, own: dict[str, Any]) -> str:
    """The run's own `tokenizer.json`, from that of its export."""
    text = read_utf8(folder / TOKENIZER, FRESH_COPY)
    if "post_processor" not in own:
        return text
    restored = json.loads(text) | {"post_processor": own["post_processor"]}
    return Backend.from_str(json.dumps(restored)).to_str(pretty=True)
