"""Published encoders that are damaged, or have what ours lack: an error names the
tensor or the option."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.encoders import write_alone, write_two_towers
from parity.recorded import recorded
from safetensors.torch import load_file, save_file
from tiny import tokenizer, write_run

from mm1.config import UserError
from mm1.export.import_model import import_model
from mm1.runs.weights import load_model

State = dict[str, torch.Tensor]


def refused(
    folder: Path,
    named: str,
    *,
    error: type[Exception] = UserError,
    pickle: bool = False,
) -> None:
    with pytest.raises(error, match=named):
        import_model(str(folder), folder.with_name("run"), pickle=pickle)
    assert not folder.with_name("run").exists()


def without(state: State) -> None:
    del state["encoder.layers.1.mlp.fc1.weight"]


def added(state: State) -> None:
    state["encoder.layers.1.adapter.weight"] = torch.zeros(3)


def narrower(state: State) -> None:
    state["encoder.layers.1.mlp.fc1.weight"] = torch.zeros(39, 24)


def other_grid(state: State) -> None:
    state["embeddings.position_embedding.weight"] = torch.zeros(17, 24)


def infinite(state: State) -> None:
    state["embeddings.patch_embedding.weight"][0, 0, 0, 0] = torch.inf


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (without, r"missing encoder\.layers\.1\.mlp\.fc1\.weight"),
        (
            added,
            r"not known to this family encoder\.layers\.1\.adapter\.weight",
        ),
        (
            narrower,
            (
                r"encoder\.layers\.1\.mlp\.fc1\.weight is \[39, 24\], the config asks"
                r" for \[40, 24\]"
            ),
        ),
        (
            other_grid,
            r"position_embedding\.weight is \[17, 24\], the config asks for \[10, 24\]",
        ),
        (
            infinite,
            r"1 numbers of embeddings\.patch_embedding\.weight are NaN or infinite",
        ),
    ],
)
def test_weights(
    damage: Callable[[State], None], named: str, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    write_alone(folder, "CLIPVisionModel")
    state = load_file(folder / "model.safetensors")
    damage(state)
    save_file(state, folder / "model.safetensors")
    refused(folder, named)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            {"hidden_act": "relu"},
            (
                'hidden_act is "relu"; only gelu, quick_gelu, gelu_pytorch_tanh can be'
                " imported"
            ),
        ),
        ({"num_channels": 1}, "num_channels is 1"),
        (
            {"patch_size": 5},
            r"patch_embedding\.weight is .* the config asks for \[24, 3, 5, 5\]",
        ),
        ({"image_size": [12, 12, 3]}, "image_size is .* height and width"),
        ({"window_size": 7}, "window_size = 7"),
        (
            {"model_type": "siglip2_vision_model"},
            "NaFlex.*take a checkpoint of one fixed resolution",
        ),
        (
            {"model_type": "clip_vision"},
            (
                "model_type 'clip_vision' is not known here; did you mean"
                " 'clip_vision_model'"
            ),
        ),
    ],
)
def test_options(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    write_alone(folder, "CLIPVisionModel")
    config = json.loads((folder / "config.json").read_text()) | options
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, named)


def write_open_clip(folder: Path, **vision: Any) -> State:
    found = recorded("open_clip_openai")
    folder.mkdir()
    tokenizer(folder, "word")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<end>", "pad_token": "<pad>"})
    )
    model = found.facts["config"]
    config = {
        "model_cfg": model | {"vision_cfg": model["vision_cfg"] | vision},
        "preprocess_cfg": {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return found.state


@pytest.mark.parametrize(
    ("vision", "named"),
    [
        (
            {"timm_model_name": "vit_base_patch16_siglip_224"},
            "timm_model_name .* transformers' format",
        ),
        ({"final_ln_after_pool": True}, "final_ln_after_pool is true"),
        ({"pos_embed_type": "sin_cos_2d"}, "pos_embed_type"),
        ({"pool_type": "last"}, "pool_type"),
        ({"rope": True}, "rope = true"),
    ],
)
def test_options_of_open_clip(
    vision: dict[str, Any], named: str, tmp_path: Path
) -> None:
    save_file(
        write_open_clip(tmp_path / "published", **vision),
        tmp_path / "published/model.safetensors",
    )
    refused(tmp_path / "published", named)


def test_pickles_are_read_only_if_asked_for(tmp_path: Path) -> None:
    """DFN publishes two pickles, of which open_clip's own belongs to its config."""
    folder = tmp_path / "published"
    state = write_open_clip(folder)
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    torch.save({"other": torch.zeros(1)}, folder / "pytorch_model.bin")
    refused(folder, r"is a pickle, .* --pickle")
    import_model(str(folder), tmp_path / "run", pickle=True)
    model: Any = load_model(tmp_path / "run", torch.device("cpu"))[0]
    assert torch.equal(
        model.encoder.blocks[0].attention.qkv.weight,
        state["visual.transformer.resblocks.0.attn.in_proj_weight"],
    )


class _Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_archives_of_torchscript_are_refused_with_the_remedy(
    tmp_path: Path,
) -> None:
    """OpenAI's own files are of this kind."""
    folder = tmp_path / "published"
    folder.mkdir()
    with torch.jit.optimized_execution(False):
        torch.jit.save(
            torch.jit.trace(_Scripted(), torch.zeros(1)), folder / "ViT-B-16.pt"
        )
    refused(
        folder, r"TorchScript[\s\S]*If you trust it: .*save_file", pickle=True
    )


def test_openai_s_weights_without_a_config(tmp_path: Path) -> None:
    """Their shape is inferred from their tensors; heads are 64 wide, so the towers are
    too."""
    folder = tmp_path / "published"
    state = {
        name: widened(tensor)
        for name, tensor in write_open_clip(folder).items()
    }
    (folder / "open_clip_config.json").unlink()
    sizes = {"input_resolution": 12, "context_length": 8, "vocab_size": 50}
    save_file(
        state | {name: torch.tensor(size) for name, size in sizes.items()},
        folder / "model.safetensors",
    )
    import_model(str(folder), tmp_path / "run")
    model: Any = load_model(tmp_path / "run", torch.device("cpu"))[0]
    assert (model.encoder.image_size, model.encoder.config.num_heads) == (
        (12, 12),
        1,
    )
    assert model.text.config.max_length == 8


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Widths of 16 as 64, of 48 as 192 and so on."""
    wide = {16: 64, 48: 192, 64: 256}
    return torch.zeros([wide.get(size, size) for size in tensor.shape])


def test_a_text_tower_without_a_tokenizer(tmp_path: Path) -> None:
    write_two_towers(tmp_path / "published", "clip")
    (tmp_path / "published/tokenizer.json").unlink()
    refused(
        tmp_path / "published", "has no tokenizer.json", error=FileNotFoundError
    )


def test_a_run_of_ours_need_not_be_imported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ours")
    refused(run, rf"{run} is an mm1 run already: .* init\.PART={run}, or")
