"""The pages of docs/how-to: each has one whole file and the commands that use it, which
run as they stand there, and what a command changes is found in what it leaves."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import raw_files
import tiny
from test_commands import raw  # noqa: F401

from mm1 import config as configs
from mm1 import dist
from mm1.runs.description import read_config

PAGES = Path(__file__).parents[2] / "docs/how-to"
FILE = re.compile(r'```python title="(\w+)\.py"\n(.*?)```', re.DOTALL)
COMMANDS = re.compile(r"```sh\nexport PYTHONPATH=\.\n(.*?)```", re.DOTALL)
SMALL = """
    model.encoder.image_size=8 model.encoder.patch_size=4 model.encoder.depth=1
    model.encoder.dim=16 model.encoder.num_heads=2
    model.decoder.depth=1 model.decoder.dim=32 model.decoder.num_heads=2
    model.decoder.hidden_dim=48
    loader.sequence_length=128 loader.packing_window=8 loader.max_images=8
    steps=4 log_every=2 checkpoint_every=2
"""

Command = Callable[[str], int]


@pytest.fixture
def follow(
    mm1: Command, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Writes the file of a page and runs its commands, in an empty folder; what is
    trained is small."""
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.setattr(configs, "TRUSTED", ["mm1"])
    modules = []

    def run(name: str) -> None:
        page = (PAGES / f"{name}.md").read_text()
        ((module, code),) = FILE.findall(page)
        modules.append(module)
        Path(f"{module}.py").write_text(code)
        (commands,) = COMMANDS.findall(page)
        for line in commands.replace("\\\n", " ").splitlines():
            program, _, words = line.partition(" ")
            assert program == "mm1"
            is_new = words.startswith("train") and "--resume" not in words
            assert mm1(words + SMALL * is_new) == 0, line
            dist.stop()

    yield run
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def data(mm1: Command, raw: Path) -> None:  # noqa: F811
    """What `pretrain_small` reads."""
    mm1(f"tokenizer {raw}/text --out data/tokenizer.json --vocab-size 300")
    how = "--tokenizer data/tokenizer.json --validation 0.1"
    sources = {"text": "text", "captions": "captions", "interleaved": "pages"}
    for source, folder in sources.items():
        mm1(f"prepare {source} {raw}/{folder} --out data/{source} {how}")


def test_every_page_is_followed() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {
        "connector",
        "source",
        "benchmark",
        "optimizer",
    }


@pytest.mark.usefixtures("data")
def test_a_connector(
    follow: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    follow("connector")
    connector = read_config(Path("runs/strided")).model.connector
    assert type(connector).__module__ == "strided_conv"
    assert connector.tokens_for((4, 6)) == 24
    connector.stride = 2
    assert connector.tokens_for((4, 6)) == 6
    with pytest.raises(configs.ConfigError, match="divide both sides"):
        connector.tokens_for((4, 5))
    assert "strided_conv:StridedConv" in capsys.readouterr().out


@pytest.mark.usefixtures("data")
def test_an_optimizer(follow: Callable[[str], None]) -> None:
    follow("optimizer")
    run = Path("runs/lion")
    assert type(read_config(run).optimizer).__module__ == "lion"
    assert json.loads((run / "summary.json").read_text())["finished"]


def test_a_source(follow: Callable[[str], None], mm1: Command) -> None:
    Path("guides/pictures").mkdir(parents=True)
    Path("guides/pictures/1.jpg").write_bytes(raw_files.jpeg(1, (40, 30)))
    step = {"text": "Loosen the roots.", "photo": "pictures/1.jpg"}
    lost = {"text": "Water it.", "photo": "pictures/2.jpg"}
    guides = [
        {"title": "Repot a plant", "steps": [step, {"text": "Water it."}]},
        {"title": "Water a plant", "steps": [lost]},
        {"title": "Nothing to do", "steps": []},
        {"title": "Not steps", "steps": 3},
    ]
    raw_files.write_lines(Path("guides/a.jsonl"), guides)
    mm1("tokenizer guides --out data/tokenizer.json --field title")
    follow("source")
    manifest = json.loads(Path("data/guides/manifest.json").read_text())
    assert manifest["documents"] == 2
    assert manifest["images"] == 1
    drops = Path("data/guides/drops.jsonl").read_text()
    assert drops.count('"no steps"') == 2
    assert drops.count('"missing image file"') == 1


def test_a_benchmark(follow: Callable[[str], None]) -> None:
    Path("pets").mkdir()
    for number in range(6):
        Path(f"pets/{number}.png").write_bytes(tiny.picture(number).data)
    for name, numbers in (("test", range(2)), ("train", range(2, 6))):
        questions = [
            {
                "id": number,
                "image": f"{number}.png",
                "question": "Is it a cat or a dog?",
                "choices": ["cat", "dog"],
                "answer": ["cat", "dog"][number % 2],
            }
            for number in numbers
        ]
        Path(f"pets/{name}.json").write_text(
            json.dumps({"questions": questions})
        )
    tiny.write_run(Path("runs/first"))
    follow("benchmark")
    scores = json.loads(Path("runs/first/scores.json").read_text())
    assert {"pets", "pets, restricted", "pets, moved labels"} <= scores.keys()
    restricted = Path("runs/first/predictions/pets, restricted-2shot.jsonl")
    for line in restricted.read_text().splitlines():
        assert json.loads(line)["prediction"] in ("cat", "dog")
