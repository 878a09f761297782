"""Small runs with random weights and their outputs, with which the tests compare
exports."""

import io
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from mm1 import config as configs
from mm1.data.document import Document, Image, Text
from mm1.data.tokenizer import SpecialTokens, Tokenizer
from mm1.export.export_run import export_run
from mm1.files import write_json
from mm1.infer.predictor import Predictor
from mm1.loader.collate import RenderedSegment, collate
from mm1.loader.packed import PackedLoader
from mm1.nn.attention import PackedAttention as Isolated
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.nn.model import Model
from mm1.nn.vit import ViT
from mm1.runs.weights import load_model
from mm1.runs.weights_writer import write_weights
from mm1.train.trainer import Trainer

SIDES = [(40, 40), (90, 70), (64, 64), (33, 130), (20, 80)]
"""Width and height of the pictures in prompts: some are larger than twice the encoder's
32 pixels."""


def model() -> MM1.Config:
    return MM1.Config(
        encoder=ViT.Config(
            image_size=32, patch_size=8, depth=2, dim=32, num_heads=4
        ),
        connector=CAbstractor.Config(num_tokens=4, dim=16, depth=1),
        decoder=Decoder.Config(
            depth=2,
            dim=64,
            num_heads=4,
            num_kv_heads=2,
            hidden_dim=96,
            qk_norm="head",
        ),
    )


def loader(**options: Any) -> PackedLoader.Config:
    return PackedLoader.Config(sequence_length=512, **options)


def make_run(
    folder: Path,
    config: MM1.Config,
    loader: PackedLoader.Config,
    *,
    kind: str = "bpe",
    seed: int = 0,
) -> Trainer.Config:
    """A finished run with weights from a seed, perturbed so that its answers depend on
    the prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = (
        foreign_tokenizer(folder)
        if kind == "foreign"
        else tiny.tokenizer(folder, kind)
    )
    run = Trainer.Config(model=config, loader=loader, precision="fp32", steps=1)
    torch.manual_seed(seed)
    built = config.build(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.requires_grad:
                parameter.add_(
                    0.3
                    * parameter.std(correction=0).clamp(min=0.05)
                    * torch.randn_like(parameter)
                )
    write_weights(folder, built.state_dict())
    write_json(folder / "config.json", configs.to_json(run))
    params = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in built.parts().items()
    }
    write_json(
        folder / "summary.json",
        {
            "model": configs.path_of(config),
            "params": params,
            "data": {},
            "finished": True,
        },
    )
    tokenizer.save(folder)
    return run


def write_run(config: Model.Config, run: Path, *, kind: str = "word") -> Any:
    """A finished run as training leaves it; returns the model."""
    torch.manual_seed(0)
    run.mkdir()
    model = config.build(vocab_size=tiny.tokenizer(run, kind).vocab_size)
    write_json(
        run / "config.json",
        configs.to_json(
            Trainer.Config(model=config, precision="fp32", steps=1)
        ),
    )
    write_weights(run, model.state_dict())
    return model


def foreign_tokenizer(folder: Path) -> Tokenizer:
    """As imports have it: a begin token, an end token of another name, rows without a
    token."""
    tiny.tokenizer(folder)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["<s>", "</s>"])
    begin = ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[begin]
    )  # type: ignore[assignment]
    backend.save(str(folder / "tokenizer.json"))
    special_tokens = SpecialTokens(
        begin="<s>", end="</s>", vocab_size=backend.get_vocab_size() + 6
    )
    (folder / "special_tokens.json").write_text(special_tokens.to_json())
    return Tokenizer.Config(path=str(folder)).build()


def picture(number: int, folder: Path, kind: str = "PNG") -> Path:
    """A file with a smooth image and some noise."""
    width, height = SIDES[number % len(SIDES)]
    generator = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    pixels = torch.nn.functional.interpolate(
        coarse, size=(height, width), mode="bilinear"
    )[0]
    pixels = (
        (pixels * 230 + 25 * torch.rand(3, height, width, generator=generator))
        .byte()
        .permute(1, 2, 0)
    )
    path = folder / f"{number}.{kind.lower()}"
    Pillow.fromarray(pixels.numpy()).save(path, kind)
    return path


def prompts(folder: Path) -> list[tuple[str, list[Path]]]:
    """Text with `<image>` marks, and their pictures: none, one and five."""
    five = [picture(i, folder) for i in range(5)]
    jpeg = picture(6, folder, "JPEG")
    return [
        (" red green cat", []),
        ("<image> red dog", [jpeg]),
        ("question<image> cat<image><image> two<image><image> answer", five),
    ]


def document(text: str, pictures: list[Path]) -> Document:
    waiting = iter(pictures)
    parts: list[Text | Image] = []
    for number, piece in enumerate(text.split("<image>")):
        if number:
            data = next(waiting).read_bytes()
            parts.append(Image(data, *Pillow.open(io.BytesIO(data)).size))
        if piece:
            parts.append(Text(piece, loss=False))
    return Document(tuple(parts))


def predictor(run: Path, **changes: Any) -> Predictor:
    model, renderer, _ = load_model(run, torch.device("cpu"))
    return Predictor(
        model,
        replace(renderer, **changes) if changes else renderer,
        torch.device("cpu"),
    )


@torch.no_grad()
def logits(
    asked: Predictor, document: Document
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of a prompt, its views as the encoder sees them, and the logits after each
    token."""
    sequence = asked.renderer(document, end=False)
    batch = collate([[RenderedSegment.whole(sequence)]], asked.renderer)
    model: Any = asked.model
    hidden = model.decoder(
        model.inputs(batch),
        batch.positions,
        Isolated(batch.cu_seqlens, batch.max_seqlen),
    )
    scale = model.encoder.get_buffer("scale")
    shift = model.encoder.get_buffer("shift")
    views = torch.addcmul(shift, batch.images.float(), scale)
    return (
        batch.tokens,
        views[: len(views) if sequence.images else 0],
        hidden @ model.decoder.head.T,
    )


MAX_TOKENS = 8

TOLERANCE = 2e-5
"""Of logits of about unit size: fp32 sums in other orders (fused attention there, plain
here). Worst measured: 9e-6."""


def export(
    folder: Path,
    config: MM1.Config,
    loader: PackedLoader.Config,
    *,
    kind: str = "bpe",
) -> None:
    """A run in `run`, its export in `hf`."""
    make_run(folder / "run", config, loader, kind=kind)
    export_run(folder / "run", folder / "hf")


def ask(folder: Path, python: Path) -> dict[str, Any]:
    """The answers of `open_export.py`, run by another Python, written to `out`."""
    (folder / "out").mkdir()
    paths = [folder / "hf", request(folder), folder / "out"]
    places = {
        "HF_MODULES_CACHE": str(folder / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [python, "-I", Path(__file__).parent / "open_export.py", *paths],
        check=True,
        env=places,
    )
    return json.loads((folder / "out" / "answers.json").read_text())


def compare(folder: Path) -> None:
    """Compares tokens, pixels, logits and answers in `out` with those of the run."""
    asked = predictor(folder / "run")
    said = json.loads((folder / "out" / "answers.json").read_text())
    found = load_file(folder / "out" / "tensors.safetensors")
    documents = [document(*p) for p in prompts(folder)]
    alone = [
        asked.generate([each], max_tokens=MAX_TOKENS)[0] for each in documents
    ]
    assert len(set(alone)) > 1
    assert said["texts"] == [[text] for text in alone] + [alone]
    views = []
    for number, each in enumerate(documents):
        tokens, pixels, ours = logits(asked, each)
        assert torch.equal(found[f"{number}.input_ids"][0], tokens)
        for theirs in (
            found[f"{number}.logits"][0],
            found["3.logits"][number, -len(tokens) :],
        ):
            torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0)
        if each.images:
            assert torch.equal(found[f"{number}.pixel_values"], pixels)
        views.append(pixels)
    assert torch.equal(found["3.pixel_values"], torch.cat(views))


def request(folder: Path) -> Path:
    """For `open_export.py`: each prompt alone, then all of them in one batch."""
    made = [
        (text, [str(path) for path in pictures])
        for text, pictures in prompts(folder)
    ]
    batches = [{"texts": [text], "images": pictures} for text, pictures in made]
    batches.append(
        {
            "texts": [text for text, _ in made],
            "images": [p for _, pictures in made for p in pictures],
        }
    )
    path = folder / "request.json"
    path.write_text(json.dumps({"batches": batches, "max_tokens": MAX_TOKENS}))
    return path


@pytest.fixture
def modules(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps the code of exports in this session's folder, not in the user's cache."""
    folder = tmp_path_factory.getbasetemp() / "modules"
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder)
    )
