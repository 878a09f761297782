"""Every command that a message proposes, run: as it stands there, or with files in
place of what stands for them. A proposal that has no entry here fails."""

from pathlib import Path

import pytest
import raw_files
import tiny
from forked import shell
from published import write_model
from test_proposed_commands import COMMANDS, PROPOSED, SMALL, proposed

from mm1.nn.features import Features
from mm1.nn.vit import ViT

JOINT = """
    model.encoder.image_size=8 model.encoder.patch_size=4 model.encoder.depth=1
    model.encoder.dim=16 model.encoder.num_heads=2 model.connector=average_pool
    model.connector.num_tokens=4 model.decoder.depth=1 model.decoder.dim=32
    model.decoder.num_heads=2 model.decoder.hidden_dim=48 loader.workers=0
    loader.batch_size=2 loader.micro_batch_size=2 loader.sequence_length=128
    loader.packing_window=8 loader.max_images=8 precision=fp32 compile=False steps=2
    benchmarks.colours=miniature benchmarks.colours.num_questions=4
"""
CLIP = """
    model.text.depth=1 model.text.dim=16 model.text.num_heads=2 loader.batch_size=4
    loader.workers=0 loader.sources='["data/captions"]' benchmarks={} precision=fp32
    compile=False steps=2
"""
TEXT = f"{SMALL} steps=2".removeprefix("mm1 train language_model_9m ")
PREPARE = "--tokenizer data/tokenizer.json --validation 0.1"

POINTS = Path(__file__).parents[2] / "studies/results/lr-law-mm1-2026-11-29.csv"

AS_THEY_STAND = {
    "mm1 list",
    "mm1 list benchmarks",
    "mm1 list recipes",
    "mm1 list sources",
    "mm1 list studies",
}
FILLED = {
    "mm1 COMMAND --help": [f"mm1 {each} --help" for each in sorted(COMMANDS)],
    "mm1 chat": ["mm1 chat runs/joint --terminal"],
    "mm1 chat X --terminal": ["mm1 chat runs/joint --terminal"],
    "mm1 completion": ["mm1 completion bash"],
    "mm1 completion bash > ~/.mm1.bash": ["mm1 completion bash"],
    "mm1 completion zsh > ~/.zfunc/_mm1": ["mm1 completion zsh"],
    "mm1 deduplicate": [
        "mm1 deduplicate text raw/text filters.duplicates.exact=True"
        " --out copies"
    ],
    "mm1 eval": ["mm1 eval runs/joint --shots 0"],
    "mm1 eval RUN --controls": ["mm1 eval runs/joint --controls"],
    "mm1 eval RUN --out DIR": ["mm1 eval runs/joint --shots 0 --out scores"],
    "mm1 eval X --shots 0 4": ["mm1 eval runs/joint --shots 0 4"],
    "mm1 export X --out DIR": ["mm1 export runs/joint --out exported"],
    "mm1 export X --out X-exported": [
        "mm1 export runs/joint --out runs/joint-exported"
    ],
    # the hub is out of reach: a folder in its format
    "mm1 import HuggingFaceTB/SmolLM2-135M --out X": [
        "mm1 import published --out runs/published"
    ],
    "mm1 import PATH_OR_ID --out X": ["mm1 import published --out runs/again"],
    "mm1 import X --out DIR": [
        "mm1 export runs/joint --out runs/exported",
        "mm1 import runs/exported --out runs/back",
        "mm1 eval runs/back benchmarks.colours=miniature"
        " benchmarks.colours.num_questions=2 --shots 0",
    ],
    "mm1 launch": [
        f"mm1 launch language_model_9m {TEXT} --out runs/launched --on here"
        " --nodes 1 --gpus-per-node 0"
    ],
    "mm1 prepare": [f"mm1 prepare text raw/text --out data/one {PREPARE}"],
    "mm1 prepare NAME PATHS --out DIR --tokenizer FILE": [
        f"mm1 prepare text raw/text --out data/two {PREPARE}"
    ],
    "mm1 prepare SOURCE RAW_FILES --out X --tokenizer PATH": [
        f"mm1 prepare text raw/text/a.jsonl --out data/three {PREPARE}"
    ],
    "mm1 prepare X RAW_X --out X --tokenizer X --validation 0.02": [
        f"mm1 prepare captions raw/captions --out data/four {PREPARE}"
    ],
    "mm1 report X --out X-report": [
        "mm1 report runs/joint --out runs/joint-report"
    ],
    "mm1 report XX": ["mm1 report runs/joint --out two-reports"],
    "mm1 show": ["mm1 show pretrain_small"],
    "mm1 show X": ["mm1 show runs/joint"],
    "mm1 study lr-law --fit POINTS.csv": [f"mm1 study lr-law --fit {POINTS}"],
    "mm1 tokenizer": ["mm1 tokenizer raw/text --out one.json"],
    "mm1 tokenizer RAW_FILES --out X": [
        "mm1 tokenizer raw/text/a.jsonl --out two.json"
    ],
    "mm1 tokenizer RAW_TEXT --out X": [
        "mm1 tokenizer raw/text --out three.json"
    ],
    "mm1 train": [f"mm1 train pretrain_small {JOINT} --out runs/one"],
    "mm1 train ... --resume": [
        f"mm1 train pretrain_small {JOINT} --out runs/joint --resume"
    ],
    "mm1 train NAME --out DIR": [
        f"mm1 train pretrain_small {JOINT} --out runs/two"
    ],
    "mm1 train X --out X": [
        f"mm1 train language_model_9m {TEXT} --out runs/text"
    ],
    "mm1 train clip_small init.encoder=RUN --out DIR": [
        f"mm1 train clip_small init.encoder=runs/encoder {CLIP} --out runs/clip"
    ],
}
ELSEWHERE = {
    "mm1 demo --out X": "tests/end_to_end/test_demo.py",
    "mm1 chat X": "tests/end_to_end/test_demo.py",
    "mm1 study NAME --out DIR": "tests/end_to_end/test_demo.py",
    "torchrun --max-restarts": "benchmarks/rank_kills.py",
    "torchrun --nproc-per-node 8 -m mm1.cli train ...": "tests/train",
}
"""Command -> what runs it."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files, data and runs that the commands speak of."""
    made = tmp_path_factory.mktemp("proposals")
    for name in ("text", "captions", "pages"):
        (made / "raw" / name).mkdir(parents=True)
    raw_files.write_lines(
        made / "raw/text/a.jsonl",
        [{"text": f"line {i} of a text about pictures"} for i in range(90)],
    )
    raw_files.write_tar(made / "raw/captions/a.tar", raw_files.pairs(40))
    pages = [
        {"images": [None, raw_files.jpeg(i)], "texts": [f"page {i}", None]}
        for i in range(30)
    ]
    raw_files.write_pages(made / "raw/pages/a.parquet", pages)
    model = Features.Config(
        encoder=ViT.Config(
            image_size=16, patch_size=8, depth=1, dim=16, num_heads=2
        )
    )
    tiny.write_run(made / "runs/encoder", model=model)
    write_model(made / "published", "llama")
    for command in (
        "mm1 tokenizer raw/text --out data/tokenizer.json --vocab-size 300",
        f"mm1 prepare text raw/text --out data/text {PREPARE}",
        f"mm1 prepare captions raw/captions --out data/captions {PREPARE}",
        f"mm1 prepare interleaved raw/pages --out data/interleaved {PREPARE}",
        f"mm1 train pretrain_small {JOINT} --out runs/joint",
    ):
        done = shell(command, made)
        assert done.returncode == 0, (command, done.stderr)
    return made


@pytest.mark.long
@pytest.mark.parametrize("template", sorted({*AS_THEY_STAND, *FILLED}))
def test_a_proposed_command_runs(template: str, folder: Path) -> None:
    if template == "mm1 deduplicate":
        pytest.importorskip("datatrove", reason="pip install 'mm1[datatrove]'")
    for command in FILLED.get(template, [template]):
        done = shell(command, folder)
        assert done.returncode == 0, (command, done.stderr)


def test_every_proposal_is_run() -> None:
    ours = {
        command
        for _, command in PROPOSED
        if not command.startswith("pip install")
    }
    assert ours == {*AS_THEY_STAND, *FILLED, *ELSEWHERE}
    root = Path(__file__).parents[2]
    assert all((root / path).exists() for path in ELSEWHERE.values())


@pytest.mark.long
def test_an_encoder_alone_leads_to_one_that_is_trained(folder: Path) -> None:
    alone = shell("mm1 train runs/encoder --out runs/trained", folder)
    assert alone.returncode == 2
    (command,) = proposed(alone.stderr)
    filled = command.replace("RUN", "runs/encoder").replace("DIR", "runs/more")
    done = shell(f"{filled} {CLIP}", folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/more/summary.json").exists()
