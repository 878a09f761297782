"""mm1 beside what one would pick instead: transformers' LLaVA on the same documents.

    python benchmarks/peers.py [--size cpu|gpu|tiny] [--rounds 3] [--out note.md]

Three ways to train a model of the same shapes (CLIP-shaped encoder, two-layer
connector, Llama-shaped decoder) on the documents of one optimizer step, in turns in one
process:

    mm1      packed, documents isolated by variable-length attention
    padded   LLaVA on one document a row, padded to the longest of its batch; batches
             take documents as they come, as many as fit mm1's tokens with the padding
    sorted   the same, after sorting the step's documents by length
    dense    LLaVA on mm1's packed rows under a dense mask that isolates documents

All take the same optimizer (fused AdamW), precision (bf16 on a GPU, fp32 on a CPU) and
number of sequences; mm1 runs as its recipe says, so compiled on a GPU. Batches of the
peers are made outside the time that is measured. LLaVA's learning rate is zero: its
weights stay, so its losses of the same documents must agree, which is checked.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from synthetic import synthetic_run
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mm1 import dist
from mm1.batch import IGNORE, PackedBatch
from mm1.loader.loader import StepBatches
from mm1.nn.connectors.mlp import MLPConnector
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.nn.vit import CLIP_MEAN, CLIP_STD, ViT
from mm1.train.trainer import Trainer

IMAGE_TOKEN = 2
ALL_KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
AGREEMENT = {"cpu": 1e-4, "cuda": 2e-2}
"""Largest relative difference of LLaVA's losses of the same documents: fp32, and bf16
with other kernels."""


@dataclass(frozen=True)
class Size:
    encoder: tuple[int, int, int]
    """Depth, width, heads; images of 168 pixels in 144 patches of 14."""
    decoder: tuple[int, int, int]
    vocab_size: int
    sequence_length: int
    batch_size: int
    micro_batch_size: int
    image_size: int = 168


SIZES = {
    "tiny": Size((1, 32, 2), (1, 32, 2), 64, 256, 2, 1, image_size=56),
    "cpu": Size((8, 384, 6), (8, 512, 8), 8192, 4096, 1, 1),
    "gpu": Size((24, 1024, 16), (24, 2048, 16), 32_768, 4096, 8, 2),
}


@dataclass(frozen=True)
class Document:
    """One isolated document of a packed row."""

    tokens: Tensor
    labels: Tensor
    """As transformers takes them: each token's own, not the next one's."""
    images: Tensor


def mm1_run(
    size: Size, overrides: Sequence[str], folder: Path
) -> Trainer.Config:
    depth, dim, heads = size.encoder
    on_cpu = ["precision=fp32", "compile=false"]
    config = synthetic_run(
        "pretrain_ablation_base",
        [
            f"loader.sequence_length={size.sequence_length}",
            f"loader.batch_size={size.batch_size}",
            f"loader.micro_batch_size={size.micro_batch_size}",
            "loader.workers=0",
            "activation_checkpointing=none",
            *([] if torch.cuda.is_available() else on_cpu),
            *overrides,
        ],
        folder=folder,
        vocab_size=size.vocab_size,
    )
    model = MM1.Config(
        encoder=ViT.Config(
            image_size=size.image_size,
            depth=depth,
            dim=dim,
            num_heads=heads,
            class_token=True,
            pre_norm=True,
            patch_bias=False,
        ),
        connector=MLPConnector.Config(),
        decoder=Decoder.Config(
            depth=size.decoder[0],
            dim=size.decoder[1],
            num_heads=size.decoder[2],
        ),
    )
    return replace(config, model=model)


def llava(run: Trainer.Config, vocab_size: int) -> Any:
    """LlavaForConditionalGeneration of a run's shapes, with random weights."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    model: Any = run.model
    e = model.encoder
    d = model.decoder
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=e.dim,
            intermediate_size=round(e.mlp_ratio * e.dim),
            num_hidden_layers=e.depth,
            num_attention_heads=e.num_heads,
            image_size=e.image_size,
            patch_size=e.patch_size,
            hidden_act=e.activation,
        ),
        text_config=LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=d.dim,
            intermediate_size=-(-8 * d.dim // (3 * 256)) * 256,
            num_hidden_layers=d.depth,
            num_attention_heads=d.num_heads,
            tie_word_embeddings=True,
            use_cache=False,
        ),
        image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    return LlavaForConditionalGeneration(config)


def documents_of(batch: PackedBatch) -> list[Document]:
    """The documents of a batch, without its padding."""
    ends = batch.cu_seqlens.tolist()
    owner = batch.slots[:, 0].tolist()
    found = []
    for start, stop in pairwise(ends):
        if int(batch.sources[start]) < 0:
            continue
        labels = torch.full((stop - start,), IGNORE)
        labels[1:] = batch.targets[start : stop - 1]
        own = [i for i, place in enumerate(owner) if start <= place < stop]
        found.append(
            Document(batch.tokens[start:stop], labels, batch.images[own])
        )
    return found


def padded_batches(
    documents: Iterable[Document], budget: int
) -> Iterator[dict[str, Any]]:
    """Batches of as many documents as fit `budget` tokens, padding included."""
    chosen: list[Document] = []
    for document in documents:
        longest = max(len(d.tokens) for d in [*chosen, document])
        if chosen and longest * (len(chosen) + 1) > budget:
            yield _padded(chosen)
            chosen = []
        chosen.append(document)
    if chosen:
        yield _padded(chosen)


def _padded(documents: list[Document]) -> dict[str, Any]:
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad([d.tokens for d in documents], batch_first=True),
        "labels": pad(
            [d.labels for d in documents],
            batch_first=True,
            padding_value=IGNORE,
        ),
        "attention_mask": pad(
            [torch.ones_like(d.tokens) for d in documents], batch_first=True
        ),
        "pixel_values": pixels(torch.cat([d.images for d in documents])),
    }


def dense_batch(batch: PackedBatch, num_rows: int) -> dict[str, Any]:
    """The packed rows as they are, with a mask of tokens x tokens."""
    rows = batch.tokens.view(num_rows, -1)
    lengths = batch.cu_seqlens.diff().long()
    numbers = torch.arange(len(lengths)).repeat_interleave(lengths)
    number = numbers.view(num_rows, -1)
    same = number[:, :, None] == number[:, None, :]
    labels = batch.targets.roll(1)
    labels[batch.cu_seqlens[:-1].long()] = IGNORE
    return {
        "input_ids": rows,
        "labels": labels.view(num_rows, -1),
        "position_ids": batch.positions.view(num_rows, -1),
        "attention_mask": same.tril()[:, None],
        "pixel_values": pixels(batch.images[: len(batch.slots)]),
    }


def pixels(images: Tensor) -> Tensor | None:
    """Normalised; None without images."""
    if not len(images):
        return None
    mean = torch.tensor(CLIP_MEAN)[:, None, None]
    std = torch.tensor(CLIP_STD)[:, None, None]
    return (images / 255 - mean) / std


class Peer:
    """Trains LLaVA in a plain loop."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model = model.to(device).train()
        self.device = device
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, fused=True
        )

    def step(self, batches: list[dict[str, Any]]) -> float:
        """One optimizer step, with torch's own choice among all attention kernels (a
        run of mm1 chooses for the process); the mean loss over all targets."""
        with sdpa_kernel(ALL_KERNELS):
            return self._step(batches)

    def _step(self, batches: list[dict[str, Any]]) -> float:
        num_targets = sum(
            int((b["labels"][:, 1:] != IGNORE).sum()) for b in batches
        )
        total = torch.zeros((), device=self.device)
        for batch in batches:
            with self._precision():
                loss = self.model(**batch, num_items_in_batch=num_targets).loss
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(total)

    def _precision(self) -> Any:
        if self.device.type == "cpu":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def move(self, batches: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                name: value.to(self.device)
                for name, value in batch.items()
                if value is not None
            }
            for batch in batches
        ]


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """On a CPU the process's own time, all threads together: other work on the machine
    hardly counts."""
    if device.type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


class Comparison:
    """The four ways, on the documents of one step after another."""

    def __init__(self, trainer: Trainer, peer: Peer, size: Size) -> None:
        self.trainer = trainer
        self.peer = peer
        self.size = size
        self.seconds: dict[str, list[float]] = {}
        self.computed: dict[str, int] = {}
        """Tokens that went through the model, padding included, in the last round."""
        self.losses: dict[str, float] = {}
        """LLaVA's, of the last round."""
        self.disagreement: float = 0.0
        """Largest relative difference of LLaVA's losses of the same documents."""

    def round(self, data: StepBatches, *, measured: bool) -> None:
        for name, batches in self._peer_batches(data).items():
            moved = self.peer.move(batches)

            def step(name: str = name, moved: list[Any] = moved) -> None:
                self.losses[name] = self.peer.step(moved)

            self._record(name, seconds_of(step, self.peer.device), measured)
            self.computed[name] = sum(b["input_ids"].numel() for b in batches)
        took = seconds_of(
            lambda: self.trainer.train_step(data), self.trainer.device
        )
        self._record("mm1", took, measured)
        self.computed["mm1"] = sum(len(b.tokens) for b in data.micro_batches)
        self.trainer.step += 1
        losses = self.losses.values()
        apart = (max(losses) - min(losses)) / max(losses)
        self.disagreement = max(self.disagreement, apart)

    def _peer_batches(
        self, data: StepBatches
    ) -> dict[str, list[dict[str, Any]]]:
        micro: Any = data.micro_batches
        documents = [d for batch in micro for d in documents_of(batch)]
        budget = self.size.micro_batch_size * self.size.sequence_length
        by_length = sorted(documents, key=lambda d: len(d.tokens))
        return {
            "padded": list(padded_batches(documents, budget)),
            "sorted": list(padded_batches(by_length, budget)),
            "dense": [
                dense_batch(batch, self.size.micro_batch_size)
                for batch in micro
            ],
        }

    def _record(self, name: str, seconds: float, measured: bool) -> None:
        dist.say(f"{name}: {seconds:.3f} s")
        if measured:
            self.seconds.setdefault(name, []).append(seconds)

    def table(self, tokens: float) -> str:
        """`tokens`: useful ones, of all measured rounds."""
        mm1 = self.seconds["mm1"]
        lines = []
        for name in ("mm1", "padded", "sorted", "dense"):
            seconds = self.seconds[name]
            ratios = [s / m for s, m in zip(seconds, mm1, strict=True)]
            lines.append(
                f"| {name} | {tokens / sum(seconds):,.0f} |"
                f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to"
                f" {max(ratios):.2f}) | {self.computed[name]:,} |"
            )
        head = (
            "| | useful tokens/s | times mm1's time: median of rounds | tokens"
            " computed, last round |\n|---|---|---|---|"
        )
        return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("overrides", nargs="*", help="of mm1's run")
    parser.add_argument(
        "--size", choices=SIZES, default="gpu" if cuda else "cpu"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=2 if cuda else 1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_intermixed_args()
    size = SIZES[arguments.size]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        config = mm1_run(size, arguments.overrides, Path(scratch))
        trainer = config.build(folder=Path(scratch) / "run")
        trainer.model.train()
        with trainer.device:
            model = llava(config, size.vocab_size)
        comparison = Comparison(trainer, Peer(model, trainer.device), size)
        steps = trainer.loader.steps(None, rank=0, world_size=1)
        tokens = 0
        for number in range(arguments.warmup + arguments.rounds):
            measured = number >= arguments.warmup
            data = next(steps)
            comparison.round(data, measured=measured)
            if measured:
                tokens += data.counts["unpadded_tokens"]
        text = report(trainer, comparison, tokens)
        dist.stop()
    print(text)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as note:
            note.write(text + "\n")
    if comparison.disagreement > AGREEMENT[trainer.device.type]:
        raise RuntimeError("LLaVA's losses of the same documents disagree")


def report(trainer: Trainer, comparison: Comparison, tokens: int) -> str:
    import transformers

    device = (
        torch.cuda.get_device_name()
        if trainer.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    own = sum(trainer.params.values()) / 1e6
    other = sum(p.numel() for p in comparison.peer.model.parameters()) / 1e6
    losses = ", ".join(f"{n} {v:.4f}" for n, v in comparison.losses.items())
    return "\n".join(
        [
            f"{time.strftime('%Y-%m-%d')}, {device}, torch {torch.__version__},"
            f" transformers {transformers.__version__}, Python"
            f" {platform.python_version()}; `python {' '.join(sys.argv)}`",
            "",
            f"Parameters: mm1 {own:,.1f}M, LLaVA {other:,.1f}M. {comparison.size}.",
            "",
            comparison.table(tokens),
            "",
            f"LLaVA's losses of the last round: {losses}; in all rounds at most"
            f" {comparison.disagreement:.0e} apart.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
