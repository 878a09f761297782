"""Published image encoders, tiny and in fp32: imported with equal features, exported,
and imported again bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parity.encoders import (
    ALONE,
    VISION,
    captions,
    normed,
    pictures,
    randomised,
    write_alone,
    write_two_towers,
)
from parity.recorded import Recorded, recorded
from safetensors.torch import save_file
from tiny import tokenizer
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from mm1.data.image_processing import ImageProcessor
from mm1.data.tokenizer import Tokenizer
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.nn.features import Features
from mm1.runs.description import read_config
from mm1.runs.weights import load_model, load_part

CLOSE = {"atol": 2e-5, "rtol": 0.0}
"""Features of unit size after 2 or 3 blocks, whose sums run in another order there.
Measured at most 8.2e-6 (CLIP's image tower; the others 6.2e-6), 2.4e-7 for features of
unit length and their scores."""


def imported(folder: Path, run: Path) -> Any:
    import_model(str(folder), run)
    return load_model(run, torch.device("cpu"))[0]


def exported(run: Path, out: Path, *, part: str | None = None) -> Any:
    """The model as transformers opens it; nothing missing, left over or of another
    shape."""
    export_run(run, out, part=part)
    model, loading = AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    return model.eval()


def assert_same_run(run: Path, other: Path) -> None:
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes(), name


def features(model: Any, images: Tensor, encoder: Any) -> Tensor:
    """Of a model of transformers, all tokens after the last norm."""
    found = model(normed(images, encoder)).last_hidden_state
    return (
        model.post_layernorm(found)
        if type(model).__name__ == "CLIPVisionModel"
        else found
    )


@pytest.mark.parametrize("name", ALONE)
@torch.no_grad()
def test_encoders(name: str, tmp_path: Path) -> None:
    theirs = write_alone(tmp_path / "published", name)
    encoder = imported(tmp_path / "published", tmp_path / "run").encoder
    images = pictures()
    tokens = encoder.tokens(images)
    torch.testing.assert_close(
        tokens, features(theirs, images, encoder), **CLOSE
    )
    assert torch.equal(encoder(images), tokens[:, encoder.num_prefix_tokens :])

    out = exported(tmp_path / "run", tmp_path / "out")
    assert type(out) is type(theirs)
    torch.testing.assert_close(features(out, images, encoder), tokens, **CLOSE)
    imported(tmp_path / "out", tmp_path / "again")
    assert_same_run(tmp_path / "run", tmp_path / "again")


@torch.no_grad()
def assert_same_scores(
    model: Any, theirs: Any, tokens: Tensor, lengths: Tensor
) -> None:
    images = pictures()
    expected = theirs(
        input_ids=tokens, pixel_values=normed(images, model.encoder)
    )
    image = model.encode_images(images)
    text = model.encode_texts(tokens, lengths)
    torch.testing.assert_close(image, expected.image_embeds, **CLOSE)
    torch.testing.assert_close(text, expected.text_embeds, **CLOSE)
    scores = model.projection.scale * image @ text.T
    scores = (
        scores
        if model.projection.bias is None
        else scores + model.projection.bias
    )
    torch.testing.assert_close(scores, expected.logits_per_image, **CLOSE)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_two_towers(family: str, tmp_path: Path) -> None:
    theirs = write_two_towers(tmp_path / "published", family)
    model = imported(tmp_path / "published", tmp_path / "run")
    assert_same_scores(model, theirs, *captions(end=1))

    out = exported(tmp_path / "run", tmp_path / "out")
    assert type(out) is type(theirs)
    assert_same_scores(model, out, *captions(end=1))
    imported(tmp_path / "out", tmp_path / "again")
    assert_same_run(tmp_path / "run", tmp_path / "again")


def test_old_configs_of_clip_call_the_end_token_2_whatever_it_is(
    tmp_path: Path,
) -> None:
    """There transformers reads a caption at its highest number, so the test's captions
    end with that."""
    theirs = write_two_towers(tmp_path / "published", "clip", eos_token_id=2)
    model = imported(tmp_path / "published", tmp_path / "run")
    assert_same_scores(
        model, theirs, *captions(end=theirs.config.text_config.vocab_size - 1)
    )
    assert (
        Tokenizer.Config(path=str(tmp_path / "run")).build().special_tokens.end
        == "<|endoftext|>"
    )


@torch.no_grad()
def test_padding_is_to_a_tower_that_sees_it_what_it_was(tmp_path: Path) -> None:
    """SigLIP pads with its end token; our padding token must look the same to it."""
    theirs = write_two_towers(tmp_path / "published", "siglip")
    model = imported(tmp_path / "published", tmp_path / "run")
    tokenizer = Tokenizer.Config(path=str(tmp_path / "run")).build()
    tokens, lengths = captions(end=tokenizer.end)
    expected = theirs.get_text_features(tokens).pooler_output
    for row, length in zip(tokens, lengths, strict=True):
        row[length:] = tokenizer.pad
    assert tokenizer.pad != tokenizer.end
    torch.testing.assert_close(
        model.encode_texts(tokens, lengths),
        F.normalize(expected, dim=-1),
        **CLOSE,
    )


def unpacked(
    name: str, folder: Path, config: dict[str, Any], file: str
) -> Recorded:
    """A recorded model as the folder that its library would have written."""
    found = recorded(name)
    folder.mkdir()
    save_file(found.state, folder / "open_clip_model.safetensors")
    (folder / file).write_text(json.dumps(config))
    tokenizer(folder, "word")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<end>", "pad_token": "<pad>"})
    )
    return found


@pytest.mark.parametrize(
    "name", ["open_clip_openai", "open_clip_dfn", "open_clip_gap"]
)
@torch.no_grad()
def test_open_clip(tmp_path: Path, name: str) -> None:
    facts = recorded(name).facts
    config = {
        "model_cfg": facts["config"],
        "preprocess_cfg": {"mean": facts["mean"], "std": facts["std"]},
    }
    theirs = unpacked(
        name, tmp_path / "published", config, "open_clip_config.json"
    )
    ours = imported(tmp_path / "published", tmp_path / "run")
    images = theirs.inputs["images"]
    tokens = theirs.inputs["tokens"]
    torch.testing.assert_close(
        ours.encoder(images), theirs.outputs["patch_features"], **CLOSE
    )
    image = ours.encode_images(images)
    text = ours.encode_texts(tokens, tokens.argmax(-1) + 1)
    torch.testing.assert_close(
        image, F.normalize(theirs.outputs["image_features"], dim=-1), **CLOSE
    )
    torch.testing.assert_close(
        text, F.normalize(theirs.outputs["text_features"], dim=-1), **CLOSE
    )
    torch.testing.assert_close(
        ours.projection.scale * image @ text.T,
        theirs.outputs["image_logits"],
        **CLOSE,
    )


@pytest.mark.parametrize("name", ["aim_v1", "aim_v2", "aim_v2_native"])
@torch.no_grad()
def test_ml_aim(tmp_path: Path, name: str) -> None:
    config = recorded(name).facts["config"]
    if name != "aim_v1":  # as apple's code for transformers calls them
        names = {
            "img_size": "image_size",
            "embed_dim": "hidden_size",
            "mlp_hidden_dim": "intermediate_size",
        }
        names |= {
            "num_blocks": "num_hidden_layers",
            "num_heads": "num_attention_heads",
        }
        config = {
            names.get(k, k): v
            for k, v in config.items()
            if k != "pos_embed_type"
        } | {"model_type": "aimv2"}
    theirs = unpacked(name, tmp_path / "published", config, "config.json")
    encoder = imported(tmp_path / "published", tmp_path / "run").encoder
    expected = theirs.outputs[
        "full.normed" if name == "aim_v1" else "patch_features"
    ]
    torch.testing.assert_close(
        encoder.position, theirs.outputs["position"], atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        encoder(theirs.inputs["images"]), expected, **CLOSE
    )


@torch.no_grad()
def test_pixels_that_no_patch_covers_are_left_out(tmp_path: Path) -> None:
    """As in SigLIP So400m, with patches of 14 for 384 pixels; ours is made for those
    that patches cover."""
    theirs = randomised(
        SiglipVisionModel(SiglipVisionConfig(**VISION | {"image_size": 15}))
    )
    theirs.save_pretrained(tmp_path / "published")
    encoder = imported(tmp_path / "published", tmp_path / "run").encoder
    assert encoder.image_size == (12, 12)
    images = pictures(15, 15)
    expected = theirs(normed(images, encoder)).last_hidden_state
    torch.testing.assert_close(
        encoder(images[:, :, :12, :12]), expected, **CLOSE
    )


@torch.no_grad()
def test_other_resolutions_are_those_of_the_class_that_antialiases_as_we_do(
    tmp_path: Path,
) -> None:
    """Of transformers' classes only DINOv2 with registers does; the others interpolate
    without antialiasing."""
    theirs = write_alone(tmp_path / "published", "Dinov2WithRegistersModel")
    imported(tmp_path / "published", tmp_path / "run")
    for height, width in ((20, 8), (8, 8)):
        model = Features.Config(
            encoder=replace(
                read_config(tmp_path / "run").model.encoder,
                image_size=(height, width),
            )
        )
        other = model.build()
        load_part(
            other, "encoder", tmp_path / "run", tokenizer=tokenizer(tmp_path)
        )
        images = pictures(height, width)
        expected = theirs(normed(images, other.encoder)).last_hidden_state
        torch.testing.assert_close(
            other.encoder.tokens(images), expected, **CLOSE
        )


@pytest.mark.parametrize("size", [(12, 12), (40, 22), (15, 31), (8, 9)])
@pytest.mark.parametrize("name", ["CLIPVisionModel", "SiglipVisionModel"])
def test_processors_give_the_pixels_that_ours_are(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """The published processor and the exported one; pictures cut out of the centre and
    bicubic, squashed and bilinear.

    They resize with Pillow, we with torch: one grey level, measured; none where nothing
    is resized.
    """
    write_alone(tmp_path / "published", name)
    config = imported(tmp_path / "published", tmp_path / "run").encoder.config
    exported(tmp_path / "run", tmp_path / "out")
    image = torch.randint(
        256,
        (3, *size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(2),
    )
    ours = ImageProcessor(
        (12, 12), resize=config.resize, interpolation=config.interpolation
    )(image)
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (config.mean, config.std)
    )
    for folder in ("published", "out"):
        processor = AutoImageProcessor.from_pretrained(
            tmp_path / folder, backend="pil"
        )
        pixels = (
            processor(image, return_tensors="pt")["pixel_values"] * std + mean
        )
        torch.testing.assert_close(
            pixels * 255, ours.float(), atol=1.001, rtol=0
        )


def test_the_exported_tokenizer_ends_captions(tmp_path: Path) -> None:
    """Even if it puts nothing around a text by itself, like ours."""
    write_two_towers(tmp_path / "published", "siglip")
    imported(tmp_path / "published", tmp_path / "run")
    exported(tmp_path / "run", tmp_path / "out")
    ours = Tokenizer.Config(path=str(tmp_path / "run")).build()
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    found = theirs(
        ["a cat", "two dogs"], padding="max_length", truncation=True
    )["input_ids"]
    wanted = [[*ours.encode(text), ours.end] for text in ("a cat", "two dogs")]
    assert found == [[*ids, *[ours.pad] * (8 - len(ids))] for ids in wanted]
