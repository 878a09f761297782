"""What a step reports: means of metrics, and throughput.

Figures stay on the device until they are logged, so that a step never waits for it.
"""

import functools
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from mm1 import dist
from mm1.nn.model import MeanMetric


class Meter:
    """Sums of metrics since the last line, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[tuple[str, ...], Tensor] = {}
        """Names that came together -> their totals and counts: one addition for
        hundreds of metrics."""

    def add(self, means: dict[str, MeanMetric]) -> None:
        names = tuple(means)
        columns = (
            [getattr(mean, field).detach() for mean in means.values()]
            for field in ("total", "count")
        )
        table = torch.stack([torch.stack(column) for column in columns], 1).to(
            self.device, torch.float64
        )
        self.sums[names] = (
            self.sums[names] + table if names in self.sums else table
        )

    def add_values(self, **values: Tensor) -> None:
        """Figures of a step, of which the mean over steps is reported."""
        self.add(
            {
                name: MeanMetric(value, torch.ones_like(value))
                for name, value in values.items()
            }
        )

    def state(self) -> dict[str, list[float]]:
        """Sums over all ranks, for a checkpoint; every rank must call this."""
        own: dict[str, Tensor] = defaultdict(
            lambda: torch.zeros(2, device=self.device, dtype=torch.float64)
        )
        for known, sums in self.sums.items():
            for name, pair in zip(known, sums.unbind(), strict=True):
                own[name] = own[name] + pair
        names = _names_of_all_ranks(sorted(own))
        if not names:
            return {}
        table = dist.sum_over_data_ranks(
            torch.stack([own[name] for name in names])
        )
        return dict(zip(names, table.tolist(), strict=True))

    def restore(self, state: dict[str, list[float]]) -> None:
        for name, sums in state.items() if dist.rank() == 0 else ():
            self.sums[(name,)] = torch.tensor(
                [sums], device=self.device, dtype=torch.float64
            )

    def read(self) -> dict[str, float]:
        """Means over all ranks since the last call; every rank must call this."""
        state = self.state()
        self.sums.clear()
        return {
            name: total / count
            for name, (total, count) in state.items()
            if count > 0
        }


def peak_process_memory() -> int:
    """Bytes that this process has had in memory at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _names_of_all_ranks(names: list[str]) -> list[str]:
    """The names of all ranks, in one order: a rank may have had no document of some
    source."""
    if dist.world_size() == 1:
        return names
    gathered: list[Any] = [None] * dist.world_size()
    torch.distributed.all_gather_object(gathered, names)
    return sorted({name for each in gathered for name in each})


class Throughput:
    """Time and work since the last line."""

    def __init__(self, device: torch.device, peak_flops: float) -> None:
        self.device = device
        self.peak_flops = peak_flops
        self.clear()

    def clear(self) -> None:
        self.start: float = time.perf_counter()
        self.data_seconds: float = 0.0
        """Time the training waited for data."""
        self.idle_seconds: float = 0.0
        """Time it waited for other ranks to begin a step."""
        self.steps: int = 0
        self.flops: int = 0
        """Of this rank."""
        self.tokens: float = 0.0
        """Of all ranks, without padding."""
        self.images: float = 0.0
        """Of all ranks."""

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.data_seconds += time.perf_counter() - start

    @contextmanager
    def waiting_for_ranks(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.idle_seconds += time.perf_counter() - start

    def add(self, counts: Mapping[str, int | float]) -> None:
        """The work of a step of all ranks, as the loader counts it."""
        self.steps += 1
        self.tokens += counts.get("unpadded_tokens", 0)
        self.images += counts.get("images", 0)

    def read(self) -> dict[str, float]:
        """Rates since the last call; `mfu` is model FLOPs (with the encoder's, without
        recomputation) over those of a large matrix product. Every rank must call this.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            memory = torch.cuda.max_memory_allocated(self.device) / 2**30
        else:
            memory = peak_process_memory() / 2**30
        seconds = max(1e-9, time.perf_counter() - self.start)
        line = {
            "seconds": seconds,
            "tokens_per_second": self.tokens / seconds,
            "images_per_second": self.images / seconds,
            "data_loading_fraction": self.data_seconds / seconds,
            "max_memory_gib": memory,
            "mfu": self.flops / seconds / self.peak_flops,
            **self._by_rank(seconds),
        }
        self.clear()
        return {name: float(f"{value:.4g}") for name, value in line.items()}

    def _by_rank(self, seconds: float) -> dict[str, float]:
        """What tells a straggler: seconds a step that ranks work and wait for data, and
        the rank that the others wait for most. Empty for a single rank.

        All end a step together. What a rank spends on it is the time until that, less
        what it waits for the others to begin it.
        """
        if dist.world_size() == 1:
            return {}
        own = [seconds - self.idle_seconds, self.data_seconds]
        ranks = dist.all_gather(torch.tensor([own])) / max(1, self.steps)
        work, data = ranks.unbind(1)
        return {
            "step_seconds_mean": float(work.mean()),
            "step_seconds_max": float(work.max()),
            "data_seconds_max": float(data.max()),
            "slowest_rank": float(work.argmax()),
        }


def peak_flops(
    device: torch.device, precision: Literal["fp32", "bf16"]
) -> float:
    """FLOP/s of a large matrix product in this precision, as measured here."""
    if precision == "fp32":
        return matmul_flops(device, torch.float32)
    peak = matmul_flops(device, torch.bfloat16)
    if device.type == "cpu" and peak < matmul_flops(device, torch.float32):
        dist.say("this CPU only emulates bf16: precision=fp32 is faster here")
    return peak


@functools.cache
def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product on this device: the best of some, measured by
    the first call of a process."""
    cuda = device.type == "cuda"
    size = 8192 if cuda else 512
    draws = torch.Generator(device)
    a, b = (
        torch.randn(size, size, generator=draws, device=device).to(dtype)
        for _ in range(2)
    )
    best = float("inf")
    deadline = time.perf_counter() + (1.0 if cuda else 0.2)
    while time.perf_counter() < deadline or best == float("inf"):
        start = time.perf_counter()
        torch.mm(a, b)
        if cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
