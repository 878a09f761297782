"""A fine-tuning on real conversations, looked at: what the run says before and after it
about pictures it never saw.

    python benchmarks/finetune.py runs/real --out runs/sft [--steps 200]

`runs/real` is what `benchmarks/real_data.py` leaves: prepared folders, and a run that
was pre-trained on them. The recipe is `sft_small`; pictures and questions are of the
documents held out of `captions` and `instructions`, which neither training has seen.
Answers go to OUT/answers.md. No figure here says how good a model is: it is far too
small.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from mm1.data.document import Document, Text
from mm1.data.prepared.shards import Shards
from mm1.infer.predictor import Predictor
from mm1.runs.weights import load_model

QUESTIONS = (
    "What is in the picture?",
    "Describe this image in detail.",
    "Is this a receipt?",
)
NUM_PICTURES = 8
NUM_TURNS = 12
MAX_TOKENS = 48


def train(origin: Path, instructions: Path, out: Path, steps: int) -> None:
    parts = [
        f"init.{part}={origin}" for part in ("encoder", "connector", "decoder")
    ]
    words = [
        "sft_small",
        *parts,
        f"loader.sources.instructions={instructions}",
        f"steps={steps}",
        "--out",
        str(out),
    ]
    resume = ["--resume"] if (out / "config.json").exists() else []
    print("$ mm1 train", *words, *resume, flush=True)
    subprocess.run(
        [sys.executable, "-m", "mm1.cli", "train", *words, *resume], check=True
    )


def asked_of_pictures(captions: Path) -> list[tuple[str, Document, str]]:
    """(what it is, prompt, what is true)."""
    shards = Shards(captions, "validation")
    found = []
    for number in range(0, len(shards), max(1, len(shards) // NUM_PICTURES)):
        key, document = shards.read(number)
        image = document.images[0]
        caption = document.parts[-1].content  # type: ignore[union-attr]
        found += [
            (
                key,
                Document((image, Text(q + "\n", loss=False))),
                f"caption: {caption}",
            )
            for q in QUESTIONS
        ]
    return found


def asked_of_turns(instructions: Path) -> list[tuple[str, Document, str]]:
    """The first question of conversations with pictures."""
    shards = Shards(instructions, "validation")
    found = []
    for number in range(len(shards)):
        key, document = shards.read(number)
        first = next(
            i
            for i, part in enumerate(document.parts)
            if isinstance(part, Text) and part.loss
        )
        found.append(
            (
                key,
                Document(document.parts[:first]),
                document.parts[first].content,
            )
        )  # type: ignore[union-attr]
    return found[:NUM_TURNS]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("real", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/sft"))
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    real = arguments.real
    out = arguments.out
    train(real / "run", real / "instructions", out, arguments.steps)
    asked = asked_of_pictures(real / "captions") + asked_of_turns(
        real / "instructions"
    )
    answers = []
    for folder in (real / "run", out):
        model, renderer, _ = load_model(folder, torch.device("cpu"))
        predictor = Predictor(model, renderer, torch.device("cpu"))
        answers.append(
            predictor.generate(
                [prompt for _, prompt, _ in asked], max_tokens=MAX_TOKENS
            )
        )
    rows = [
        "| picture | question | before | after | true |",
        "|---|---|---|---|---|",
    ]
    for (key, prompt, true), before, after in zip(asked, *answers, strict=True):
        cells = (
            " ".join(cell.replace("|", "/").split())
            for cell in (Path(key).name, prompt.text, before, after, true)
        )
        rows.append(f"| {' | '.join(cells)} |")
    (out / "answers.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
