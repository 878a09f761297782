"""Image encoders and CLIPs between a run folder and a folder that transformers opens
with no code but its own."""

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
from mm1.data.tokenizer import END, IMAGE, PAD, TOKENIZER, UNKNOWN, Roles, Tokenizer
from mm1.export.card import Usage
from mm1.export.encoders.formats import published_clip, published_encoder
from mm1.export.encoders.published import published
from mm1.export.encoders.vision import image_size, under
from mm1.export.mapping import Link, parted, theirs_layout
from mm1.export.options import Options
from mm1.export.preprocessor import to_preprocessor
from mm1.export.progress import shown
from mm1.export.run_folder import Import
from mm1.export.tokens import Vocabulary, export_vocabulary, import_vocabulary
from mm1.export.weights import Weights, write_sharded
from mm1.files import ANEW, read_object, write_json
from mm1.loader.pairs import PairLoader
from mm1.nn.aim import AIM
from mm1.nn.clip import CLIP
from mm1.nn.features import Features
from mm1.nn.vit import ViT
from mm1.runs.folder import weights_path

OWN = "mm1.json"
"""What our own exports carry along, so that they come back as they were."""

PREPROCESSOR = "preprocessor_config.json"

OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def encoder_weights(folder: Path, *, pickle: bool) -> Weights:
    """Where a folder has open_clip's config, its weights: that config also says how
    pictures are prepared."""
    if (folder / "open_clip_config.json").is_file():
        for name in OPEN_CLIP[: 1 + pickle]:
            if (folder / name).is_file():
                return Weights(folder / name, pickle=pickle)
    return Weights(folder, pickle=pickle)


def read_encoder(folder: Path, weights: Weights) -> Import | None:
    """None: this is no image encoder that we know.

    Raises:
        ConfigError, FileNotFoundError: an option or the tokenizer is not supported, or
            missing; it is named.
    """
    if (folder / OWN).is_file():
        return _own(folder)
    found = published(folder, weights)
    if found is None:
        return None
    if not isinstance(found.model, CLIP.Config):
        model = found.model
        vocabulary = _no_text()
        num_rows = 0
        loader = PairLoader.Config()
    else:
        text = found.model.text
        assert text.vocab_size is not None
        vocabulary = import_vocabulary(folder, found.ends, text.vocab_size)
        model = replace(
            found.model, text=replace(text, vocab_size=None)
        )  # the tokenizer knows
        num_rows = text.vocab_size + vocabulary.num_new
        loader = PairLoader.Config(context=text.max_length)
    links = [_grown(link, folder, vocabulary) for link in found.links]
    return Import(
        found.family,
        model,
        vocabulary,
        num_rows,
        links,
        loader,
        found.unused,
        found.notes,
    )


def _no_text() -> Vocabulary:
    """An encoder alone reads no text; but every run folder has a vocabulary, and this
    one has nothing to say."""
    tokens = [PAD, END, IMAGE, UNKNOWN]
    backend = Backend(
        models.WordLevel(
            {token: i for i, token in enumerate(tokens)}, unk_token=UNKNOWN
        )
    )
    backend.add_special_tokens(tokens)
    return Vocabulary(backend.to_str(pretty=True), Roles(), 0)


@dataclass(frozen=True, slots=True)
class Copied(Link):
    """Ours has rows for new tokens, copies of one of theirs: of what they pad with, for
    a tower that sees padding."""

    num_new: int
    row: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        table = theirs[0]
        return [torch.cat((table, table[self.row].expand(self.num_new, -1)))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0][: -self.num_new]]


def _grown(link: Link, folder: Path, vocabulary: Vocabulary) -> Link:
    if not vocabulary.num_new or link.ours != ("text.embedding.weight",):
        return link
    return Copied(
        link.ours, link.theirs, vocabulary.num_new, _padding(folder, vocabulary)
    )


def _padding(folder: Path, vocabulary: Vocabulary) -> int:
    """The id that captions are padded with there: often the token that ends them."""
    backend = Backend.from_str(vocabulary.text)
    named = None
    if (folder / "tokenizer_config.json").is_file():
        named = Options.read(folder / "tokenizer_config.json").raw("pad_token")
    named = named.get("content") if isinstance(named, dict) else named
    found = backend.token_to_id(named) if named else None
    return backend.get_vocab()[vocabulary.roles.end] if found is None else found


class Written(NamedTuple):
    """What an export writes besides the weights."""

    model: Features.Config | CLIP.Config
    config: dict[str, Any]
    links: list[Link]


def _written(model: Any, part: str | None) -> Written:
    """Raises ConfigError where the model, or this part of it, has no published
    shape."""
    if isinstance(model, CLIP.Config) and part is None:
        return Written(model, *published_clip(model))
    whole = isinstance(
        model, (Features.Config, AIM.Config)
    )  # AIM's head is of no use behind its encoder
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, ViT.Config) or not (
        part == "encoder" or (part is None and whole)
    ):
        what = configs.path_of(model) + ("" if part is None else f", part {part!r}")
        raise ConfigError(
            f"{what}: cannot be exported; language models, CLIPs and image encoders"
            " (--part encoder) can"
        )
    config, links = published_encoder(encoder)
    return Written(
        Features.Config(encoder=encoder), config, under(links, "encoder.", "")
    )


def _own(folder: Path) -> Import | None:
    """Our own export, which comes back as it was; None where it is no encoder.

    Raises:
        ConfigError: the folder's files are of another encoder by now.
    """
    own = read_object(folder / OWN, ANEW)
    model = configs.from_json(own["model"])
    if not isinstance(model, (Features.Config, CLIP.Config)):
        return None
    written = _written(model, None)
    check_same(folder, "config.json", written.config)
    check_same(
        folder, PREPROCESSOR, to_preprocessor(model.encoder, image_size(model.encoder))
    )
    family = written.config["model_type"]
    links = written.links
    if isinstance(model, Features.Config):
        return Import(family, model, _no_text(), 0, links, PairLoader.Config())
    vocabulary = Vocabulary(_bare(folder, own), Roles(**own["special_tokens"]), 0)
    num_rows = Options.read(folder / "config.json").raw("text_config")["vocab_size"]
    return Import(
        family,
        model,
        vocabulary,
        num_rows,
        links,
        PairLoader.Config(context=model.text.max_length),
    )


def check_same(folder: Path, name: str, wanted: dict[str, Any]) -> None:
    """Raises ConfigError where a file of our own export is no longer what its
    `mm1.json` says."""
    found = read_object(folder / name, ANEW)
    wrong = [key for key, value in wanted.items() if not _holds(found.get(key), value)]
    if wrong:
        raise ConfigError(
            f"{folder / OWN} and {name} differ in {', '.join(wrong)}: delete {OWN} to"
            f" go by {name}"
        )


def _holds(found: Any, wanted: Any) -> bool:
    """Is all that is wanted found? There may be more."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            _holds(found.get(key), value) for key, value in wanted.items()
        )
    return found == wanted


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
            "It gives features, no words; what can be told from them depends on what it"
            " was trained on."
        ),
        (
            "Of a CLIPVisionModel, `last_hidden_state` stands before the last norm,"
            " `post_layernorm`."
        ),
    ),
    task="image-feature-extraction",
)

CLIP_USAGE = Usage(
    what=(
        "An image encoder and a text encoder with one space of features, trained or"
        " kept with mm1."
    ),
    code="""
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

processor, tokenizer = AutoImageProcessor.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
model = AutoModel.from_pretrained("FOLDER")
words = tokenizer(["a cat", "a dog"], padding="max_length", truncation=True, return_tensors="pt")
pixels = processor(Image.open("picture.jpg"), return_tensors="pt")
print(model(input_ids=words["input_ids"], **pixels).logits_per_image)
""",
    limits=(
        (
            "It compares pictures with captions; counting, reading and places in a"
            " picture are weak in such models."
        ),
        "What it was trained on was taken from the web; so were its biases.",
    ),
    task="zero-shot-image-classification",
)


def write_encoder(
    run: Path, config: Any, folder: Path, part: str | None
) -> tuple[str, Usage]:
    """Writes the run's model, or the part `encoder` of it, for transformers; returns
    the name of the class there.

    Raises:
        ConfigError: no class of transformers has room for all options; they are named.
    """
    written = _written(config.model, part)
    weights = Weights(weights_path(run))
    published = written.config
    own = {"model": configs.to_json(written.model)}
    if isinstance(written.model, CLIP.Config):
        tokenizer = Tokenizer.Config(path=str(run)).build()
        own |= _write_vocabulary(tokenizer, folder, written.model.text.max_length)
        published["text_config"] |= {
            "vocab_size": written.model.text.vocab_size or tokenizer.vocab_size,
            "bos_token_id": tokenizer.begin,
            "eos_token_id": tokenizer.end,
            "pad_token_id": tokenizer.pad,
        }
    layouts = theirs_layout(written.links, weights)
    dtype = str(next(iter(layouts.values())).dtype).removeprefix("torch.")
    write_json(folder / "config.json", published | {"dtype": dtype})
    encoder = written.model.encoder
    write_json(folder / PREPROCESSOR, to_preprocessor(encoder, image_size(encoder)))
    write_json(folder / OWN, own)
    total = sum(layout.num_bytes for layout in layouts.values())
    write_sharded(
        folder, layouts, shown("export", parted(written.links, weights), total)
    )
    return published["architectures"][0], (
        CLIP_USAGE if isinstance(written.model, CLIP.Config) else ENCODER_USAGE
    )


def _write_vocabulary(
    tokenizer: Tokenizer, folder: Path, max_length: int
) -> dict[str, Any]:
    """As `export_vocabulary`; where the file does not itself end a caption as a run
    does, it is made to.

    Returns what `_own` needs to have the run's own file back.
    """
    export_vocabulary(tokenizer, folder, max_length=max_length)
    kept: dict[str, Any] = {"special_tokens": json.loads(tokenizer.roles.to_json())}
    backend = Backend.from_str(tokenizer.text)
    if backend.encode("a").ids[-1] != tokenizer.end:
        kept["post_processor"] = json.loads(tokenizer.text)["post_processor"]
        roles = tokenizer.roles
        begin = (
            []
            if roles.begin is None or tokenizer.begin is None
            else [(roles.begin, tokenizer.begin)]
        )
        backend.post_processor = TemplateProcessing(  # type: ignore[assignment]
            single=" ".join([*(name for name, _ in begin), "$A", roles.end]),
            special_tokens=[*begin, (roles.end, tokenizer.end)],
        )
        backend.save(str(folder / TOKENIZER))
    return kept


def _bare(folder: Path, own: dict[str, Any]) -> str:
    """The run's own `tokenizer.json`."""
    text = (folder / TOKENIZER).read_text(encoding="utf-8")
    if "post_processor" not in own:
        return text
    changed = json.loads(text) | {"post_processor": own["post_processor"]}
    return Backend.from_str(json.dumps(changed)).to_str(pretty=True)
