"""Generation beside transformers' `generate` on the exported model: the same prompts,
in turns, in one process.

    python benchmarks/generate.py [--model smollm2-135m] [--precision fp32 bf16]
        [--shots 0 8] [--out NOTE.md]

`--model` is smollm2-135m (its shape, random weights), a recipe such as pretrain_small
(its shape, random weights), or the folder of a published language model. Random weights
make answers as long as they are allowed to be. With N shots the same N examples stand
before every question, whose answer is short: mm1 reads them once, transformers with
every prompt. Both sides start from text and image files and end with text. On the CPU
the CPU time of one thread is compared, so that other work on the machine hardly counts;
on CUDA the wall time.
"""

import argparse
import io
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow

from mm1 import catalog
from mm1 import config as configs
from mm1.data.document import Document, Image, Text
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.files import write_json
from mm1.infer.predictor import Predictor
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.mm1 import MM1
from mm1.runs.weights import load_model
from mm1.runs.weights_writer import write_weights
from mm1.train.trainer import Trainer

SMOLLM2_135M = LanguageModel.Config(
    decoder=Decoder.Config(
        depth=30,
        dim=576,
        num_heads=9,
        num_kv_heads=3,
        hidden_dim=1536,
        rope_base=1e5,
    )
)
VOCABULARY = 49_152
SIDE = 320
"""Of the square images in prompts."""

Times = list[float]
Side = Callable[[], list[str]]


def random_run(folder: Path, name: str, device: torch.device) -> None:
    """A finished run of this shape with random weights, whose answers depend on the
    prompt."""
    words = " ".join(f"w{i}" for i in range(VOCABULARY - 4))
    tokenizer = train_tokenizer(
        [words],
        folder / "tokenizer.json",
        vocab_size=VOCABULARY,
        kind="word",
    )
    config = Trainer.Config(precision="bf16", steps=1)
    config = (
        replace(config, model=SMOLLM2_135M)
        if name == "smollm2-135m"
        else replace(config, model=catalog.recipe(name).model)
    )
    torch.manual_seed(0)
    with device:
        model = config.model.build(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            # as initialised, a tied model repeats the last token
            parameter.mul_(2.0)
    write_weights(folder, model.to(torch.bfloat16).state_dict())
    write_json(folder / "config.json", configs.to_json(config))
    params = {n: _size(part) for n, part in model.parts().items()}
    write_json(
        folder / "summary.json",
        {
            "model": configs.path_of(config.model),
            "params": params,
            "data": {},
            "finished": True,
        },
    )


def _size(part: torch.nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def make_prompts(
    count: int, shots: int, tokenizer: Tokenizer, *, images: bool
) -> list[Document]:
    """Questions of 30 to 100 tokens, or of 20 to 40 after `shots` common examples, each
    with an image if the model takes them."""
    draw = random.Random(0)
    known = [
        text
        for token in range(tokenizer.num_tokens)
        if (text := tokenizer.decode([token])).strip().isalnum()
    ]

    def document(number: int, low: int, high: int) -> Document:
        words = draw.choices(known, k=draw.randint(low, high))
        text = Text(" " + " ".join(word.strip() for word in words), loss=False)
        return Document((noise(number), text) if images else (text,))

    common = sum(
        (document(1000 + i, 40, 40) for i in range(shots)), Document(())
    )
    low, high = (20, 40) if shots else (30, 100)
    return [common + document(i, low, high) for i in range(count)]


def noise(number: int) -> Image:
    pixels = torch.randint(
        0,
        256,
        (SIDE // 8, SIDE // 8, 3),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(number),
    )
    buffer = io.BytesIO()
    Pillow.fromarray(pixels.numpy()).resize((SIDE, SIDE)).save(buffer, "JPEG")
    return Image(buffer.getvalue(), SIDE, SIDE)


class Peer:
    """transformers' `generate` on the exported folder."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype,
        *,
        images: bool,
        static: bool,
    ) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        auto = (
            transformers.AutoModelForImageTextToText
            if images
            else transformers.AutoModelForCausalLM
        )
        read = (
            transformers.AutoProcessor if images else transformers.AutoTokenizer
        )
        self.images = images
        self.options = {"cache_implementation": "static"} if static else {}
        self.processor: Any = read.from_pretrained(
            folder, trust_remote_code=True
        )
        self.model: Any = (
            auto.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
            .to(device)
            .eval()
        )
        self.name = f"transformers {transformers.__version__}"

    @torch.no_grad()
    def generate(
        self, prompts: list[Document], tokenizer: Tokenizer, max_tokens: int
    ) -> list[str]:
        texts = ["".join(_written(part) for part in p.parts) for p in prompts]
        images = [image.data for prompt in prompts for image in prompt.images]
        inputs = self.processor(
            text=texts,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **({"images": images} if self.images else {}),
        ).to(self.model.device)
        inputs.pop("token_type_ids", None)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        tokens = self.model.generate(
            **inputs, do_sample=False, max_new_tokens=max_tokens, **self.options
        )
        said = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            tokenizer.decode(
                row[: row.index(tokenizer.end)] if tokenizer.end in row else row
            )
            for row in said
        ]


def _written(part: Text | Image) -> str:
    return part.content if isinstance(part, Text) else "<image>"


def measure(
    sides: dict[str, Side], rounds: int, device: torch.device
) -> tuple[dict[str, Times], dict[str, list[str]]]:
    """Seconds of each side's first call and of `rounds` more, in turns; and their
    answers."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, Times] = {name: [] for name in sides}
    answers = {}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            start = clock()
            answers[name] = side()
            times[name].append(clock() - start)
    return times, answers


def report(
    title: str, times: dict[str, Times], answers: dict[str, list[str]]
) -> str:
    """Markdown; the last side is mm1."""
    *peers, ours = times
    lines = [f"### {title}", ""]
    for name, (first, *rest) in times.items():
        lines.append(
            f"- {name}: {statistics.median(rest):.3g} s (median of {len(rest)};"
            f" first call {first:.3g} s)"
        )
    for name in peers:
        pairs = sorted(a / b for a in times[name][1:] for b in times[ours][1:])
        same = [
            a == b for a, b in zip(answers[name], answers[ours], strict=True)
        ]
        lines.append(
            f"- {name} / mm1: **{statistics.median(pairs):.2f}** (any round against"
            f" any other: {pairs[0]:.2f} to {pairs[-1]:.2f}); {sum(same)} of"
            f" {len(same)} answers the same"
        )
    different = len(set(answers[ours]))
    lines.append(
        f"- {different} different answers of mm1's {len(answers[ours])}"
    )
    return "\n".join(lines) + "\n"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        choices=("cpu", "cuda"),
    )
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], choices=("fp32", "bf16")
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--shots", nargs="+", type=int, default=[0])
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument(
        "--short-answer", type=int, default=8, help="max tokens with shots"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--static-peer",
        action="store_true",
        help="also transformers with its static cache, compiled on CUDA: minutes",
    )
    parser.add_argument(
        "--out", type=Path, help="append the result to this file"
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="pretrain_small, a few short answers",
    )
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.model = "pretrain_small"
        arguments.prompts = 4
        arguments.max_tokens = 8
        arguments.rounds = 1
    return arguments


def make_run(work: Path, name: str, device: torch.device) -> None:
    """The run folder `run`, and its `export`."""
    run = work / "run"
    if Path(name).is_dir():
        import_model(name, run)
    else:
        run.mkdir()
        random_run(run, name, device)
    export_run(run, work / "export")


def compare(
    arguments: argparse.Namespace,
    predictor: Predictor,
    peers: list[Peer],
    shots: int,
) -> str:
    tokenizer = predictor.renderer.tokenizer
    max_tokens = arguments.short_answer if shots else arguments.max_tokens
    prompts = make_prompts(
        arguments.prompts, shots, tokenizer, images=peers[0].images
    )
    names = ("generate", "generate, static cache")
    sides: dict[str, Side] = {
        f"{peer.name} `{name}`": partial(
            peer.generate, prompts, tokenizer, max_tokens
        )
        for peer, name in zip(peers, names, strict=False)
    }
    sides["mm1"] = partial(
        predictor.generate,
        prompts,
        max_tokens=max_tokens,
        share_prefix=shots > 0,
    )
    times, answers = measure(sides, arguments.rounds, predictor.device)
    lengths = [len(predictor.renderer(p, end=False).tokens) for p in prompts]
    dtype = str(next(predictor.model.parameters()).dtype).removeprefix("torch.")
    return report(
        f"{arguments.model}, {_size(predictor.model) / 1e6:.0f}M parameters,"
        f" {dtype} on {predictor.device}: {len(prompts)} prompts of"
        f" {min(lengths)} to {max(lengths)} tokens, {shots} shots,"
        f" {max_tokens} new tokens",
        times,
        answers,
    )


def main() -> None:
    arguments = options()
    # of transformers and the compiler, about themselves
    warnings.simplefilter("ignore")
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32 on both sides
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_run(work, arguments.model, device)
        for precision in arguments.precision:
            config = catalog.run_config(
                str(work / "run"), [f"precision={precision}"]
            )
            model, renderer, _ = load_model(work / "run", device, config=config)
            predictor = Predictor(model, renderer, device)
            peers = [
                Peer(
                    work / "export",
                    device,
                    next(model.parameters()).dtype,
                    images=isinstance(model, MM1),
                    static=static,
                )
                for static in (False, True)[: 1 + arguments.static_peer]
            ]
            for shots in arguments.shots:
                text = compare(arguments, predictor, peers, shots)
                print(text, flush=True)
                if arguments.out:
                    with arguments.out.open("a", encoding="utf-8") as note:
                        note.write(text + "\n")


if __name__ == "__main__":
    main()
