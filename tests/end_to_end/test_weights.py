"""Published weights on the command line: the README's commands on a tiny model, and
transformers on what comes out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import raw_files
import worlds
from published import write_model
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from mm1 import dist
from mm1.nn.clip import CLIP, TextTower
from mm1.nn.vit import ViT

SMALL = """
    loader.sources={'captions':'captions'} loader.weights={'captions':1.0}
    loader.batch_size=2 loader.packing_window=4 loader.sequence_length=96
    loader.max_images=4 model.encoder.image_size=24 steps=2
"""


def write_encoder_run(folder: Path) -> None:
    encoder = ViT.Config(
        image_size=16, patch_size=4, depth=1, dim=24, num_heads=2
    )
    text = TextTower.Config(max_length=40, depth=1, dim=16, num_heads=2)
    clip = worlds.contrastive(folder, steps=1)
    clip.model = CLIP.Config(encoder=encoder, text=text, dim=16)
    clip.loader.sources = ("captions",)
    clip.build(folder=folder).fit()


@pytest.mark.slow
def test_in_joined_and_out(
    mm1: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(Path("published"), "qwen3", spare_rows=1, begin=True)
    Path("raw").mkdir()
    raw_files.write_tar(Path("raw/a.tar"), raw_files.pairs(30))
    assert mm1("import published --out runs/decoder") == 0
    assert (
        mm1("prepare captions raw --out captions --tokenizer runs/decoder") == 0
    )
    write_encoder_run(Path("runs/encoder"))
    origins = "init.encoder=runs/encoder init.decoder=runs/decoder"
    assert mm1(f"train pretrain_small {origins} {SMALL} --out runs/joint") == 0
    shape = (
        "init.decoder=runs/decoder brings its architecture:"
        " model.decoder.depth 4 -> 3"
    )
    assert shape in capsys.readouterr().err
    assert json.loads(Path("runs/joint/summary.json").read_text())["finished"]
    weights = load_file("runs/joint/model.safetensors")
    assert weights["encoder.position"].shape == (6, 6, 24)
    # 300 words, a spare row and a new one: <pad> and <image>.
    assert weights["decoder.embedding.weight"].shape == (302, 48)

    assert mm1("export runs/decoder --out exported") == 0
    assert (
        AutoModelForCausalLM.from_pretrained("exported").config.model_type
        == "qwen3"
    )
    wrong = "init.decoder=runs/decoder model.decoder.dim=64"
    assert mm1(f"train pretrain_small {wrong} {SMALL} --out runs/other") == 2
    contradiction = "model.decoder.dim=64 contradicts init.decoder=runs/decoder"
    assert contradiction in capsys.readouterr().err
    assert mm1("import published --out runs/decoder") == 2
    assert (
        capsys.readouterr().err
        == "mm1: runs/decoder exists already; choose another folder, or delete it\n"
    )
    dist.stop()
