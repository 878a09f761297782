"""What one training step of a recipe costs, and where the time goes.

    python benchmarks/step.py pretrain_ablation_base loader.batch_size=8
    loader.micro_batch_size=4 [--workers 8] [--out note.md]

It needs no data set: documents of MM1-like lengths (the distributions are below) are
made on the spot, packed by the real mixture and packing, and their pictures are real
JPEGs that workers decode and resize. Model, precision, sharding and optimiser are those
of `Trainer`.

FLOP utilisation = model FLOPs of forward and backward (`Model.flops`: encoder counted
for every image, attention by its causal pairs, recomputation not counted) / time /
ceiling, where the ceiling is a large matrix product in the same dtype, measured in the
same run. The shares come from marks on the device's own clock between the parts.
"""

import argparse
import hashlib
import io
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from tokenizers import Tokenizer as Backend
from tokenizers import models
from torch.profiler import ProfilerActivity, profile

from mm1 import dist
from mm1.batch import PackedBatch, move
from mm1.catalog import recipe
from mm1.data.document import Document, Image, Text
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.infer.trained_model import make_renderer
from mm1.loader.collate import RenderedSegment, collate
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import DocumentSegment
from mm1.loader.workers import load_batches
from mm1.overrides import override
from mm1.train.metrics import matmul_flops
from mm1.train.parallel import checkpoint_activations, freeze, shard

TABLE = 1 << 16  # document lengths come from a table of this many draws
# kind: (lognormal median and sigma of text tokens, mean pictures beyond the first)
KINDS = {
    "captions": (24, 0.6, 0.0),
    "interleaved": (550, 0.9, 1.5),
    "text": (700, 1.1, None),
}
WEIGHTS = {"interleaved": 0.45, "captions": 0.45, "text": 0.10}
PARTS = ("data", "encoder", "connector", "decoder", "loss", "optimizer")


class Synthetic:
    """Documents of one kind, from a seed: what the mixture asks for, and the documents
    themselves."""

    def __init__(
        self,
        kind: str,
        tokens_per_image: int,
        sequence_length: int,
        vocabulary: int,
    ) -> None:
        self.vocabulary = vocabulary
        median, sigma, more = KINDS[kind]
        rng = np.random.default_rng(
            int.from_bytes(
                hashlib.blake2b(kind.encode(), digest_size=4).digest()
            )
        )
        text = (
            np.exp(rng.normal(np.log(median), sigma, TABLE))
            .astype(np.int64)
            .clip(4, None)
        )
        self.pictures = (
            np.zeros(TABLE, np.int64)
            if more is None
            else 1 + rng.poisson(more, TABLE).clip(0, 15)
        )
        limit = sequence_length - self.pictures * tokens_per_image
        self.text = (
            text if more is None else np.minimum(text, limit.clip(4, None))
        )
        self.num_documents = 2_000_000_000
        self.tokens_per_image = tokens_per_image

    def tokens(self, ids: np.ndarray) -> np.ndarray:
        return (
            self.text[ids % TABLE]
            + self.pictures[ids % TABLE] * self.tokens_per_image
        )

    def images(self, ids: np.ndarray) -> np.ndarray:
        return self.pictures[ids % TABLE]

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        raise AssertionError("every document fits a row")

    def document(self, number: int, pool: list[Image]) -> Document:
        n = int(self.text[number % TABLE]) - 1
        k = int(self.pictures[number % TABLE])
        ids = (
            np.random.default_rng(number)
            .integers(8, self.vocabulary, n)
            .tolist()
        )
        cuts = np.linspace(0, n, k + 1).astype(int) if k else [0, n]
        parts: list[Any] = []
        for i in range(len(cuts) - 1):
            parts += [pool[(number + i) % len(pool)]] * bool(k) + [
                Text("", tokens=tuple(ids[cuts[i] : cuts[i + 1]]))
            ]
        return Document(tuple(parts))


def pictures(count: int, side: int) -> list[Image]:
    """JPEGs with the detail of photographs: smooth colour fields and some noise."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        small = Pillow.fromarray(
            rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        )
        coarse = small.resize((side, side), Pillow.Resampling.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + rng.normal(
            0, 12, (side, side, 3)
        ).astype(np.int16)
        buffer = io.BytesIO()
        Pillow.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
            buffer, "JPEG", quality=85
        )
        made.append(Image(buffer.getvalue(), side, side))
    return made


def plain_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    words = {"<pad>": 0, "<end>": 1, "<image>": 2} | {
        str(i): i for i in range(3, vocabulary)
    }
    path = folder / "tokenizer.json"
    Backend(models.WordLevel(words, unk_token="<pad>")).save(str(path))
    return Tokenizer.Config(path=str(path)).build()


class RowDataset(torch.utils.data.Dataset):
    """Batches of rows of synthetic documents."""

    def __init__(
        self,
        renderer: Renderer,
        sources: list[Synthetic],
        pool: list[Image],
        sequence_length: int,
    ) -> None:
        self.renderer = renderer
        self.sources = sources
        self.pool = pool
        self.sequence_length = sequence_length

    def __getitem__(
        self, rows: list[tuple[DocumentSegment, ...]]
    ) -> PackedBatch:
        spans = [
            [
                RenderedSegment(
                    self.renderer(
                        self.sources[e.source].document(e.document, self.pool)
                    ),
                    e.start,
                    e.stop,
                )
                for e in row
            ]
            for row in rows
        ]
        return collate(
            spans, self.renderer, sequence_length=self.sequence_length
        )


def batches(
    config: Any,
    model: Any,
    tokenizer: Tokenizer,
    *,
    workers: int,
    text_only: bool,
) -> Iterator[PackedBatch]:
    loader = config.loader
    weights = {"text": 1.0} if text_only else WEIGHTS
    sources = {
        kind: Synthetic(
            kind,
            model.tokens_per_image,
            loader.sequence_length,
            tokenizer.vocab_size,
        )
        for kind in weights
    }
    shape = {
        "sequence_length": loader.sequence_length,
        "max_images": loader.max_images,
        "packing_window": max(64, loader.micro_batch_size),
    }
    mixture = Mixture(sources, weights, seed=0, **shape)

    def plan() -> Iterator[list[tuple[DocumentSegment, ...]]]:
        state = mixture.start()
        while True:
            window = mixture.window(state)
            for i in range(
                0,
                len(window.rows) - loader.micro_batch_size + 1,
                loader.micro_batch_size,
            ):
                yield window.rows[i : i + loader.micro_batch_size]
            state = window.after

    renderer = make_renderer(model, tokenizer, loader)
    side = int(1.4 * max(model.image_input.size)) if model.image_input else 32
    return load_batches(
        plan(),
        RowDataset(
            renderer,
            list(sources.values()),
            pictures(64, side),
            loader.sequence_length,
        ),
        workers=workers,
    )


class Clock:
    """Marks on the device's clock; the time between two marks belongs to the part named
    at the second."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any]] = []
        self.totals: dict[str, float] = defaultdict(float)

    def mark(self, part: str) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def settle(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        for (_, a), (part, b) in zip(self.marks, self.marks[1:], strict=False):
            self.totals[part] += a.elapsed_time(b) / 1e3 if self.cuda else b - a
        self.marks.clear()


def watch(model: Any, clock: Clock) -> None:
    """Marks where each part's forward and backward end."""
    for name, call in (
        ("encoder", "forward"),
        ("connector", "forward"),
        ("decoder", "forward_with_routing"),
    ):
        if name in model.parts():
            setattr(
                model.parts()[name],
                call,
                _watched(name, getattr(model.parts()[name], call), clock),
            )


def _watched(
    name: str, call: Callable[..., Any], clock: Clock
) -> Callable[..., Any]:
    def watched(x: torch.Tensor, *more: Any) -> Any:
        clock.mark("loss")
        if x.requires_grad and name != "encoder":
            x.register_hook(
                lambda _: clock.mark(name)
            )  # this part's backward has come through
        output = call(x, *more)
        clock.mark(name)
        first = output[0] if isinstance(output, tuple) else output
        if first.requires_grad:
            first.register_hook(
                lambda _: clock.mark(
                    "loss" if name == "decoder" else "connector"
                )
            )
        return output

    return watched


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument(
        "--text-only",
        action="store_true",
        help="no pictures at all: the ceiling of the text side",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="and the dearest operations of one more step, by shape",
    )
    parser.add_argument(
        "--out", type=Path, help="append the result to this Markdown note"
    )
    arguments = parser.parse_args()
    multiprocessing.set_forkserver_preload(
        ["mm1.train.trainer", "mm1.recipes", "datasets", "PIL.Image"]
    )
    forkserver.ensure_running()  # each worker imports this file, and so what it imports
    config = recipe(arguments.recipe)
    for assignment in arguments.overrides:
        override(config, assignment)
    result = measure(config, arguments)
    text = report(arguments, result)
    print(text)
    if arguments.out:
        with arguments.out.open("a") as note:
            note.write(text + "\n")
    dist.stop()


def measure(config: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    device = dist.start()
    began = time.perf_counter()
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    ceiling = matmul_flops(device, dtype)
    scratch = Path("/tmp") if Path("/tmp").is_dir() else Path()
    tokenizer = plain_tokenizer(scratch, arguments.vocabulary)
    torch.manual_seed(0)
    with device:
        model = config.model.build(vocab_size=tokenizer.vocab_size)
    freeze(model, config.frozen)
    checkpoint_activations(model.units(), config.activation_checkpointing)
    if config.compile:
        for unit in model.units():
            unit.compile()
    params = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in model.parts().items()
    }
    clock = Clock(device)
    watch(model, clock)
    shard(model, device=device, precision=config.precision)
    optimizer = config.optimizer.build(model=model)
    scheduler = config.scheduler.build(
        peak_lr=config.optimizer.peak_lr, steps=1000
    )
    loader = batches(
        config,
        model,
        tokenizer,
        workers=arguments.workers,
        text_only=arguments.text_only,
    )
    accumulate = config.loader.batch_size // config.loader.micro_batch_size
    dist.say(
        f"{sum(params.values()) / 1e6:,.0f}M parameters, ready after"
        f" {time.perf_counter() - began:.0f} s"
    )
    seconds = []
    work = defaultdict(float)

    def one_step() -> tuple[list[PackedBatch], Any]:
        """The batches and the last one's losses."""
        seen = []
        for _ in range(accumulate):
            clock.mark("optimizer")
            batch = move(next(loader), device, non_blocking=True)
            clock.mark("data")
            losses = model(batch)
            clock.mark("loss")
            (
                losses.objective / max(1, batch.num_targets * accumulate)
            ).backward()
            clock.mark(
                "encoder"
                if "encoder" in params and "encoder" not in config.frozen
                else "decoder"
            )
            seen.append(batch)
        optimizer.step(scheduler.learning_rate(step))
        clock.mark("optimizer")
        clock.settle()
        return seen, losses

    for step in range(arguments.warmup + arguments.steps):
        measured = step >= arguments.warmup
        if step == arguments.warmup:
            clock.settle()
            clock.totals.clear()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        seen, losses = one_step()
        took = time.perf_counter() - start
        dist.say(
            f"step {step + 1} of {arguments.warmup + arguments.steps}:"
            f" {took:.2f} s"
        )
        if measured:
            seconds.append(took)
            for batch in seen:
                work["useful"] += len(batch.tokens) - batch.num_padding
                work["images"] += len(batch.slots)
                for part, flops in model.flops(batch).items():
                    work["flops"] += flops
                    work[f"flops/{part}"] += flops
    cuda = device.type == "cuda"
    memory = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    shares = {
        p: clock.totals[p] / sum(clock.totals.values())
        for p in PARTS
        if clock.totals[p]
    }
    dearest = _dearest(one_step, device) if arguments.profile else ""
    return {
        "params": params,
        "ceiling": ceiling,
        "seconds": seconds,
        "work": dict(work),
        "shares": shares,
        "dearest": dearest,
        "memory": memory,
        "loss": float(losses.means["loss"].total / losses.means["loss"].count),
        "device": (
            torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"CPU, {torch.get_num_threads()} threads"
        ),
    }


def _dearest(one_step: Callable[[], Any], device: torch.device) -> str:
    """A table of the operations of one step that take most of the device's time."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (
        device.type == "cuda"
    )
    with profile(activities=activities, record_shapes=True) as profiler:
        one_step()
    by = f"self_{device.type}_time_total"
    return profiler.key_averages(group_by_input_shape=True).table(
        sort_by=by,
        row_limit=15,
        max_src_column_width=10,
        max_name_column_width=50,
    )


def report(arguments: argparse.Namespace, result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    work = result["work"]
    total = sum(seconds)
    rate = work["flops"] / total
    rows = {
        "parameters": ", ".join(
            f"{n} {c / 1e6:,.1f}M" for n, c in result["params"].items()
        ),
        "seconds a step": (
            f"median {statistics.median(seconds):.3f}, min {min(seconds):.3f}, max"
            f" {max(seconds):.3f}"
        ),
        "useful tokens/s": f"{work['useful'] / total:,.0f}",
        "images/s": f"{work['images'] / total:,.1f}",
        "model FLOP/s": (
            f"{rate / 1e12:.3f} T (share by part: "
            + ", ".join(
                f"{n[6:]} {v / work['flops']:.0%}"
                for n, v in work.items()
                if n.startswith("flops/")
            )
            + ")"
        ),
        "ceiling, measured": f"{result['ceiling'] / 1e12:.3f} T",
        "FLOP utilisation": f"{rate / result['ceiling']:.1%}",
        "peak memory": f"{result['memory'] / 2**30:.1f} GiB",
        "time by part": ", ".join(
            f"{n} {v:.0%}" for n, v in result["shares"].items()
        ),
        "loss of the last micro-batch": f"{result['loss']:.3f}",
    }
    only_text = " --text-only" if arguments.text_only else ""
    head = f"### {arguments.recipe} {' '.join(arguments.overrides)}{only_text}"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    where = f"{time.strftime('%Y-%m-%d')}, {result['device']}, {versions}"
    command = f"`python benchmarks/step.py {' '.join(sys.argv[1:])}`"
    table = "\n".join(
        ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    )
    dearest = f"\n```\n{result['dearest']}\n```\n" if result["dearest"] else ""
    return f"{head}\n\n{where}; {command}\n\n{table}\n{dearest}"


if __name__ == "__main__":
    main()
