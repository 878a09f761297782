"""Image encoders in and out: preprocessing, shapes that fit no published class, edited
folders."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import write_run
from parity.encoders import CROP
from tiny import tokenizer
from transformers import AutoModel, AutoTokenizer

from mm1.config import ConfigError
from mm1.data.tokenizer import Tokenizer
from mm1.export.encoders.write import encoder_format, to_published_clip
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.export.options import Options
from mm1.export.preprocessor import (
    from_preprocess_cfg,
    from_preprocessor,
    to_preprocessor,
)
from mm1.nn.aim import AIM
from mm1.nn.clip import CLIP
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder
from mm1.nn.features import Features, NotTrainable
from mm1.nn.mm1 import MM1
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.runs.description import read_config
from mm1.runs.weights import load_part

PLAIN = ViT.Config(image_size=8, patch_size=4, depth=2, dim=16, num_heads=2)
TEXT = TextTower.Config(max_length=8, depth=1, dim=16, num_heads=2)
DECODER = Decoder.Config(
    depth=1, dim=16, num_heads=2, num_kv_heads=1, hidden_dim=24
)
HUB = Path("preprocessor_config.json")

MEANS = {"mean": (0.1, 0.4, 0.6), "std": (0.2, 0.3, 0.25)}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"resize": "crop", "interpolation": "bicubic"}),
        (
            {"size": 12, "crop_size": 12},
            {"resize": "crop", "interpolation": "bicubic"},
        ),  # as in transformers 4.20
        (
            {
                "size": {"height": 12, "width": 12},
                "do_center_crop": False,
                "resample": 2,
            },
            {"interpolation": "bilinear"},
        ),
        (
            {"size": {"height": 12, "width": 12}},
            {"resize": "squash"},
        ),  # where all of it is cropped to
        (
            {
                "image_processor_type": "BitImageProcessor",
                "do_convert_rgb": True,
            },
            {"resize": "crop"},
        ),
        (
            {"do_normalize": False},
            {"resize": "crop", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        ),
    ],
)
def test_pictures_of_transformers(
    keys: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = from_preprocessor(Options(CROP | keys, HUB), (12, 12))
    assert (
        found.options
        == MEANS
        | {
            "resize": "squash",
            "interpolation": "bicubic",
        }
        | expected
    )
    assert found.notes == []


def test_what_pictures_are_resized_to_and_the_size_of_the_table_are_told_apart() -> (
    None
):
    """DINOv2: resized to 256, 224 cut out, for a table of 518."""
    keys = {
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
    }
    notes = from_preprocessor(Options(CROP | keys, HUB), (518, 518)).notes
    assert "resizes to 256 pixels before it crops to 224" in notes[0]
    assert (
        "asks for images of 224 x 224 pixels, the table of positions is for 518 x 518"
        " pixels" in notes[1]
    )


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"resample": 0}, "resample is 0; only 2 .bilinear. and 3 .bicubic."),
        ({"do_resize": False}, "do_resize is false"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        (
            {"do_center_crop": False},
            r'size is {"shortest_edge": 12}; without a centre crop',
        ),
        ({"size": {"longest_edge": 12}}, "size is .* with crop_size"),
        ({"do_pan_and_scan": True}, "do_pan_and_scan = true"),
        (
            {"image_processor_type": "ViltImageProcessor"},
            "image_processor_type is .*Vilt",
        ),
    ],
)
def test_pictures_that_we_cannot_prepare_so_are_an_error(
    keys: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        from_preprocessor(Options(CROP | keys, HUB), (12, 12))


def test_pictures_of_open_clip() -> None:
    dfn = {
        "mean": [0.1, 0.4, 0.6],
        "std": [0.2, 0.3, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    assert from_preprocess_cfg(Options(dfn, HUB), (12, 12)).options == MEANS | {
        "resize": "squash",
        "interpolation": "bicubic",
    }
    padded = from_preprocess_cfg(
        Options({"resize_mode": "longest", "size": 12}, HUB), (12, 12)
    )
    assert padded.options["resize"] == "pad"
    assert "the mean colour" in padded.notes[0]
    with pytest.raises(ConfigError, match="interpolation"):
        from_preprocess_cfg(Options({"interpolation": "random"}, HUB), (12, 12))


def test_pictures_out_and_in_again() -> None:
    for resize in ("squash", "crop"):
        for interpolation in ("bicubic", "bilinear"):
            config = replace(
                PLAIN, resize=resize, interpolation=interpolation, **MEANS
            )
            written = Options(to_preprocessor(config, (8, 8)), HUB)
            assert from_preprocessor(written, (8, 8)).options == MEANS | {
                "resize": resize,
                "interpolation": interpolation,
            }
    with pytest.raises(ConfigError, match=r"encoder\.resize = 'pad'"):
        to_preprocessor(replace(PLAIN, resize="pad"), (8, 8))


CLIP_SHAPE = {"class_token": True, "pre_norm": True, "patch_bias": False}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "SiglipVisionModel"),
        (
            {"bias": False, "patch_bias": False, "positions": "fixed"},
            "SiglipVisionModel",
        ),
        (CLIP_SHAPE, "CLIPVisionModel"),
        ({"class_token": True}, "Dinov2Model"),
        (
            {
                "class_token": True,
                "num_registers": 2,
                "layer_scale": 0.1,
                "bias": False,
            },
            "Dinov2WithRegistersModel",
        ),
        (
            {
                "norm": "rms",
                "bias": False,
                "patch_norm": True,
                "feed_forward": "swiglu",
                "mlp_ratio": 2.75,
            },
            "Aimv2VisionModel",
        ),
    ],
)
def test_the_shapes_of_our_encoders_have_a_class(
    options: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Opened by transformers, with the same features; restored bit by bit without what
    ours lacks."""
    model = write_run(
        Features.Config(encoder=replace(PLAIN, **options)), tmp_path / "run"
    )
    export_run(tmp_path / "run", tmp_path / "out")
    theirs, loading = AutoModel.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert type(theirs).__name__ == name
    assert not any(loading.values())
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = (
        torch.tensor(x)[:, None, None] for x in (PLAIN.mean, PLAIN.std)
    )
    with torch.no_grad():
        found = theirs.eval()((images / 255 - mean) / std).last_hidden_state
        found = (
            theirs.post_layernorm(found) if name == "CLIPVisionModel" else found
        )
        torch.testing.assert_close(
            found, model.encoder.tokens(images), atol=1e-5, rtol=0
        )  # two blocks summed in another order; measured at most 2e-6
    import_model(str(tmp_path / "out"), tmp_path / "again")
    assert (
        read_config(tmp_path / "again").model
        == read_config(tmp_path / "run").model
    )
    assert (tmp_path / "again/model.safetensors").read_bytes() == (
        tmp_path / "run/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"patch_norm": True},
            (
                r"this one: SiglipVisionModel has no room for encoder\.patch_norm=True,"
                r" which must be False$"
            ),
        ),
        (
            CLIP_SHAPE | {"patch_bias": True},
            r"CLIPVisionModel has no room for encoder\.patch_bias=True",
        ),
        (CLIP_SHAPE | {"num_registers": 2}, r"encoder\.num_registers=2"),
        (
            {"image_size": (8, 12)},
            r"encoder\.image_size=\(8, 12\), which must be square",
        ),
        ({"norm": "rms"}, r"encoder\.norm='rms'"),
        (
            {"class_token": True},  # as near to one as to the other
            (
                r"SiglipVisionModel has no room for encoder\.class_token=True, .*;"
                r" Dinov2Model has no room for encoder\.mlp_ratio=2\.75, whose 44"
                r" channels no whole ratio gives"
            ),
        ),
    ],
)
def test_shapes_without_a_class_are_an_error_that_names_the_options(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        encoder_format(replace(PLAIN, mlp_ratio=2.75, **options))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"pooling": "mean"},
            r"CLIPModel has no room for pooling='mean'.*--part encoder",
        ),
        (
            {"text": replace(TEXT, causal=False)},
            r"text\.causal=False, which must be True",
        ),
        ({"loss": "sigmoid"}, r"loss='sigmoid', which must be 'softmax'"),
        (
            {"encoder": replace(PLAIN, **CLIP_SHAPE, patch_norm=True)},
            r"encoder\.patch_norm=True",
        ),
    ],
)
def test_two_towers_without_a_class_name_the_options(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        to_published_clip(
            replace(
                CLIP.Config(encoder=replace(PLAIN, **CLIP_SHAPE), text=TEXT),
                **options,
            )
        )


@pytest.mark.parametrize(
    "config",
    [
        MM1.Config(
            encoder=PLAIN,
            connector=AveragePool.Config(num_tokens=4),
            decoder=DECODER,
        ),
        AIM.Config(
            encoder=replace(PLAIN, bias=False), head_depth=1, head_dim=16
        ),
        CLIP.Config(encoder=PLAIN, text=TEXT),
    ],
)
def test_the_encoder_of_a_larger_model_by_itself(
    config: Any, tmp_path: Path
) -> None:
    model = write_run(config, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out", part="encoder")
    import_model(str(tmp_path / "out"), tmp_path / "alone")
    other = Features.Config(encoder=config.encoder).build()
    load_part(
        other, "encoder", tmp_path / "alone", tokenizer=tokenizer(tmp_path)
    )
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[name], tensor), name


def test_a_clip_of_ours_comes_back_as_it_was(tmp_path: Path) -> None:
    """Its tokenizer does not put an end token after a text; the export's does."""
    write_run(
        CLIP.Config(encoder=replace(PLAIN, **CLIP_SHAPE), text=TEXT),
        tmp_path / "run",
        kind="bpe",
    )
    export_run(tmp_path / "run", tmp_path / "out")
    import_model(str(tmp_path / "out"), tmp_path / "again")
    for name in ("tokenizer.json", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (
            tmp_path / "again" / name
        ).read_bytes(), name
    assert (
        read_config(tmp_path / "again").model
        == read_config(tmp_path / "run").model
    )
    ours = Tokenizer.Config(path=str(tmp_path / "run")).build()
    found = AutoTokenizer.from_pretrained(tmp_path / "out")(" red cat")[
        "input_ids"
    ]
    assert found == [*ours.encode(" red cat"), ours.end]


def test_an_export_that_was_changed_does_not_come_back_as_it_was(
    tmp_path: Path,
) -> None:
    write_run(Features.Config(encoder=PLAIN), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out")
    changed = json.loads((tmp_path / "out/config.json").read_text()) | {
        "hidden_act": "gelu_pytorch_tanh"
    }
    (tmp_path / "out/config.json").write_text(json.dumps(changed))
    with pytest.raises(
        ConfigError,
        match=r"mm1\.json and config\.json differ in hidden_act: delete mm1\.json",
    ):
        import_model(str(tmp_path / "out"), tmp_path / "again")


def test_an_encoder_alone_cannot_be_trained() -> None:
    with pytest.raises(
        NotTrainable, match=r"an encoder alone has no loss: .*init\.encoder"
    ):
        Features.Config(encoder=PLAIN).build()(None)


def test_parts_that_cannot_be_exported_are_named(tmp_path: Path) -> None:
    write_run(CLIP.Config(encoder=PLAIN, text=TEXT), tmp_path / "run")
    with pytest.raises(
        ConfigError,
        match=r"mm1\.nn\.clip:CLIP, part 'text': cannot be exported",
    ):
        export_run(tmp_path / "run", tmp_path / "out", part="text")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_decoder_says_what_it_is(tmp_path: Path) -> None:
    write_run(CLIP.Config(encoder=PLAIN, text=TEXT), tmp_path / "run")
    with pytest.raises(
        ConfigError, match="run is a CLIP, which has no decoder"
    ):
        export_run(tmp_path / "run", tmp_path / "out", part="decoder")
    assert not (tmp_path / "out").exists()
