"""What a run writes down while it trains.

    metrics.jsonl   what was learnt: losses, norms, rates, data seen. Reproducible to the byte.
    speed.jsonl     what it cost: tokens and images per second, data wait, memory, FLOP utilisation.

Figures stay on the device until a line is logged, so that a step never waits for the
host.
"""

import resource
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm1 import dist
from mm1.files import append_jsonl, read_jsonl, write_jsonl
from mm1.nn.model import MeanMetric
from mm1.runs.layout import METRICS, SPEED


class Meter:
    """Sums of what happened since the last line, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[tuple[str, ...], Tensor] = {}
        """Figures that came together, and their totals and counts: one sum for hundreds
        of them."""

    def add(self, means: dict[str, MeanMetric]) -> None:
        names = tuple(means)
        columns = (
            [getattr(mean, side).detach() for mean in means.values()]
            for side in ("total", "count")
        )
        table = torch.stack([torch.stack(column) for column in columns], 1).to(
            self.device, torch.float64
        )
        self.sums[names] = self.sums[names] + table if names in self.sums else table

    def state(self) -> dict[str, list[float]]:
        """The sums over all ranks, for a checkpoint. Every rank must call it."""
        own: dict[str, Tensor] = defaultdict(
            lambda: torch.zeros(2, device=self.device, dtype=torch.float64)
        )
        for known, sums in self.sums.items():
            for name, pair in zip(known, sums.unbind(), strict=True):
                own[name] = own[name] + pair
        names = _names_of_all_ranks(sorted(own))
        if not names:
            return {}
        table = dist.sum_over_ranks(torch.stack([own[name] for name in names]))
        return dict(zip(names, table.tolist(), strict=True))

    def restore(self, state: dict[str, list[float]]) -> None:
        for name, sums in state.items() if dist.rank() == 0 else ():
            self.sums[(name,)] = torch.tensor(
                [sums], device=self.device, dtype=torch.float64
            )

    def read(self) -> dict[str, float]:
        """Means over all ranks since the last reading; clears the meter. Every rank
        must call it."""
        state = self.state()
        self.sums.clear()
        return {
            name: total / count for name, (total, count) in state.items() if count > 0
        }


def _names_of_all_ranks(names: list[str]) -> list[str]:
    """All ranks' names, in one order: a rank may have met no document of some
    source."""
    if dist.world_size() == 1:
        return names
    gathered: list[Any] = [None] * dist.world_size()
    torch.distributed.all_gather_object(gathered, names)
    return sorted({name for each in gathered for name in each})


class Speed:
    """Wall time and work since the last line."""

    def __init__(self, device: torch.device, ceiling: float) -> None:
        self.device = device
        self.ceiling = ceiling
        self.clear()

    def clear(self) -> None:
        self.since = time.perf_counter()
        self.wait = 0.0
        self.flops = 0
        self.useful = 0.0
        self.images = 0.0

    def read(self) -> dict[str, float]:
        """Rates over all ranks; utilisation is model FLOPs (encoder counted,
        recomputation not) over the ceiling."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            memory = torch.cuda.max_memory_allocated(self.device) / 2**30
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        seconds = max(1e-9, time.perf_counter() - self.since)
        line = {
            "seconds": seconds,
            "tokens_per_second": self.useful / seconds,
            "images_per_second": self.images / seconds,
            "data_wait": self.wait / seconds,
            "memory_gb": memory,
            "mfu": self.flops / seconds / self.ceiling,
        }
        self.clear()
        return {name: float(f"{value:.4g}") for name, value in line.items()}


def matmul_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product on this device, measured now: the ceiling that
    utilisation is a share of."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 512
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    deadline = time.perf_counter() + (1.0 if cuda else 0.2)
    while time.perf_counter() < deadline or best == float("inf"):
        start = time.perf_counter()
        torch.mm(a, b)
        if cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Log:
    """The two files of a run, and the trackers that were asked for; rank 0 writes."""

    def __init__(
        self, folder: Path, *, keep_until: int, trackers: tuple[str, ...], name: str
    ) -> None:
        """Lines after step `keep_until` are dropped: they belong to steps that will be
        done again."""
        self.folder = folder
        self.writes = dist.rank() == 0
        self.trackers: list[Any] = []
        if not self.writes:
            return
        for file in (METRICS, SPEED):
            _truncate(folder / file, keep_until)
        if "tensorboard" in trackers:
            from torch.utils.tensorboard import SummaryWriter

            board = SummaryWriter(str(folder / "tensorboard"))
            self.trackers.append(
                lambda step, values: [
                    board.add_scalar(k, v, step) for k, v in values.items()
                ]
            )
        if "wandb" in trackers:
            import wandb  # type: ignore[import-not-found]

            run = wandb.init(
                project="mm1",
                name=name,
                dir=str(folder),
                resume="allow",
                id=name.replace("/", "-"),
            )
            self.trackers.append(lambda step, values: run.log(values, step=step))

    def write(self, file: str, step: int, values: dict[str, float]) -> None:
        if not self.writes:
            return
        append_jsonl(self.folder / file, {"step": step} | values)
        for track in self.trackers:
            track(step, values)


def _truncate(path: Path, keep_until: int) -> None:
    if path.exists():
        lines = read_jsonl(path)
        write_jsonl(path, (line for line in lines if line["step"] <= keep_until))
