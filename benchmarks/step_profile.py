"""Where the time of a training step goes, by kind of kernel.

    python benchmarks/step_profile.py pretrain_ablation_base loader.batch_size=4
    loader.micro_batch_size=4 [--workers 8] [--out note.md]

One micro-batch and one update run under torch's profiler, after warm-up. Each kernel
(on a CPU: each operation) belongs to a group by its name and, for products, by the
widths of its operands. What is left of the step's time is idle: the device waited for
the host.
"""

import argparse
import re
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from synthetic import synthetic_run
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mm1 import dist
from mm1.loader.loader import StepBatches
from mm1.train.trainer import Trainer

GROUPS = (
    ("attention", r"flash|fmha|sdpa|attention|attn"),
    ("convolution", r"conv|dgrad2d|wgrad2d"),
    ("product", r"gemm|nvjet|cutlass|xmma|splitk|matmul|\bmm\b|addmm|bmm"),
    ("optimizer", r"multi_tensor|fused_adam|_foreach"),
    ("compiled elementwise", r"^triton"),
    ("copy", r"memcpy|memset|copy_"),
)
"""The first that matches a kernel's name, or the operation that launched it."""
OTHER = "elementwise"
MOST_KERNELS = 15
NAME = 60
"""Characters of a kernel's name that are shown."""


class Kernel(NamedTuple):
    """One launch; on a CPU one operation."""

    name: str
    operation: str
    shapes: tuple[Any, ...]
    seconds: float

    def group(self, encoder_widths: set[int]) -> str:
        for group, pattern in GROUPS:
            names = f"{self.name} {self.operation}"
            if re.search(pattern, names, re.IGNORECASE):
                if group != "product":
                    return group
                widths = {
                    n
                    for shape in self.shapes
                    for n in shape
                    if isinstance(n, int)
                }
                part = "encoder" if widths & encoder_widths else "decoder"
                return f"{part} products"
        return OTHER


def kernels(profiler: profile, *, cuda: bool) -> list[Kernel]:
    """What ran, with the operations that launched it."""
    events = profiler.events() or []
    if not cuda:
        return [
            Kernel(
                event.name,
                event.name,
                tuple(event.input_shapes or ()),
                event.self_cpu_time_total / 1e6,
            )
            for event in events
        ]
    # Named ranges (FSDP's, the optimizer's) span kernels and are none themselves.
    ranges = {event.name for event in events if event.is_user_annotation}
    found = [
        Kernel(
            each.name,
            event.name,
            tuple(event.input_shapes or ()),
            each.duration / 1e6,
        )
        for event in events
        if event.device_type == DeviceType.CPU
        for each in event.kernels
        if each.name not in ranges
    ]
    busy = sum(
        event.time_range.elapsed_us() / 1e6
        for event in events
        if event.device_type == DeviceType.CUDA and event.name not in ranges
    )
    rest = busy - sum(kernel.seconds for kernel in found)
    return [*found, Kernel("without an operation", "", (), rest)]


def widths_of(part: nn.Module | None) -> set[int]:
    """All sizes of a part's weights."""
    if part is None:
        return set()
    return {n for p in part.parameters() if p.ndim > 1 for n in p.shape}


def profile_step(trainer: Trainer, data: StepBatches) -> str:
    """A profile of the first micro-batch of a step and the update, in Markdown; the run
    must have been warmed up."""
    cuda = trainer.device.type == "cuda"
    data = replace(data, micro_batches=data.micro_batches[:1])
    activities = [ProfilerActivity.CPU]
    if cuda:
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities, record_shapes=True) as profiler:
        start = time.perf_counter()
        trainer.train_step(data)
        if cuda:
            torch.cuda.synchronize()
        took = time.perf_counter() - start
    parts = trainer.model.parts()
    encoder = widths_of(parts.get("encoder")) - widths_of(parts.get("decoder"))
    return tables(kernels(profiler, cuda=cuda), took, encoder)


def tables(launched: list[Kernel], took: float, encoder: set[int]) -> str:
    """By group, and the kernels that take most."""
    groups: dict[str, list[float]] = defaultdict(list)
    names: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel in launched:
        group = kernel.group(encoder)
        groups[group].append(kernel.seconds)
        names[group, kernel.name[:NAME]].append(kernel.seconds)
    lines = [
        f"| {group} | {1e3 * sum(each):.1f} | {sum(each) / took:.1%} | {len(each)} |"
        for group, each in sorted(groups.items(), key=lambda g: -sum(g[1]))
    ]
    idle = took - sum(sum(each) for each in groups.values())
    dearest = sorted(names.items(), key=lambda n: -sum(n[1]))[:MOST_KERNELS]
    return "\n".join(
        [
            f"One micro-batch and an update under the profiler: {1e3 * took:.1f} ms.",
            "",
            "| group | ms | of it | launches |\n|---|---|---|---|",
            *lines,
            f"| idle | {1e3 * idle:.1f} | {idle / took:.1%} | |",
            "",
            "| kernel | group | ms | launches |\n|---|---|---|---|",
            *(
                f"| `{name}` | {group} | {1e3 * sum(each):.1f} | {len(each)} |"
                for (group, name), each in dearest
            ),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        trainer = synthetic_run(
            arguments.recipe,
            [f"loader.workers={arguments.workers}", *arguments.overrides],
            folder=Path(scratch),
            vocab_size=arguments.vocab_size,
        ).build(folder=Path(scratch) / "run")
        steps = trainer.loader.steps(None, rank=0, world_size=1)
        trainer.model.train()
        for _ in range(arguments.warmup):
            trainer.train_step(next(steps))
        text = profile_step(trainer, next(steps))
        dist.stop()
    print(text)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as note:
            note.write(text + "\n")


if __name__ == "__main__":
    main()
