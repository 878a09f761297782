"""What a run says about itself while it trains: lines of metrics and of speed, and the
bar. Everything is summed up since the line before."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mm1.progress import ProgressBar
from mm1.runs.metrics_log import MetricsLog
from mm1.train.divergence import DivergenceCheck
from mm1.train.metrics import Meter, Throughput


class Reporter:
    """Sums since the last line."""

    def __init__(self, device: torch.device, *, peak_flops: float) -> None:
        self.meter = Meter(device)
        self.throughput = Throughput(device, peak_flops)
        self.counts: Counter[str] = Counter()
        """Of data, over all ranks."""
        self.divergence = DivergenceCheck()

    def add_update(
        self, norm: Tensor, skipped: Tensor, counts: Mapping[str, Any]
    ) -> None:
        """One update: the norm of its gradient, whether it was skipped, its data."""
        self.meter.add_values(grad_norm=norm, skipped_updates=skipped)
        self.counts.update(counts)
        self.throughput.add(counts)

    def state(self) -> dict[str, Any]:
        """For a checkpoint; every rank must call this."""
        return {"means": self.meter.state(), "counts": self.counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.meter.restore(state["means"])
        self.counts.update(state["counts"])

    def report(
        self,
        step: int,
        log: MetricsLog,
        bar: ProgressBar,
        *,
        log_every: int,
        lr: float,
        gauges: Mapping[str, float],
    ) -> None:
        """Writes and shows what has been summed up; every rank must call this.

        Raises:
            Diverged: the gradient has been non-finite for too long.
        """
        metrics = self.meter.read()
        self.divergence.update(step, log_every, metrics["skipped_updates"])
        log.write_metrics(step, {**metrics, "lr": lr, **self.counts, **gauges})
        self.counts.clear()
        speed = self.throughput.read()
        log.write_speed(step, speed)
        rates = "".join(
            f"  {rate:,.0f} {work}/s"
            for work in ("tokens", "images")
            if (rate := speed[f"{work}_per_second"])
        )
        bar.update(
            step,
            f"step {step}/{bar.total}  loss {metrics['loss']:.3f}{rates}",
            at_once=step == bar.total,
        )
