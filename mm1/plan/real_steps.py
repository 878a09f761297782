"""Real training steps of a run on synthetic rows, on the ranks that are here."""

import time
from collections.abc import Callable

import torch

from mm1 import dist
from mm1.batch import PackedBatch
from mm1.nn.initialization import initialize_buffers
from mm1.nn.model import Model
from mm1.nn.shards import own_part
from mm1.train.accumulation import accumulate_gradients, count_targets
from mm1.train.build_model import build_on_meta
from mm1.train.layout import ParallelLayout
from mm1.train.optimizers import Optimizer
from mm1.train.parallel import parallelize
from mm1.train.shutdown import GracefulShutdown
from mm1.train.trainer import Trainer


class RealSteps:
    """The model, the optimizer and the step of `Trainer`, from random weights; without
    its loader, log and checkpoints."""

    def __init__(
        self,
        config: Trainer.Config,
        layout: ParallelLayout,
        micro_batches: list[PackedBatch],
        *,
        vocab_size: int,
    ) -> None:
        self.config = config
        self.device = layout.device
        self.micro_batches = micro_batches
        self.lora = config.lora.build() if config.lora else None
        self.model = build_on_meta(
            config.model,
            vocab_size=vocab_size,
            lora=self.lora,
            frozen=config.frozen,
        )
        parallelize(
            self.model,
            layout,
            precision=config.precision,
            float8=config.float8,
            attention_kernel=config.attention_kernel,
            activation_checkpointing=config.activation_checkpointing,
            activation_memory_budget=config.activation_memory_budget,
            compile_units=config.compile,
        )
        fill_with_noise(self.model, self.device)
        self.optimizer: Optimizer = config.optimizer.build(model=self.model)
        self.shutdown = GracefulShutdown()
        self.model.train()

    def step(self) -> None:
        """As `Trainer.train_step`, which also adds up metrics."""
        num_targets = count_targets(self.micro_batches, self.shutdown)
        for _ in accumulate_gradients(
            self.model,
            self.micro_batches,
            self.device,
            num_targets=num_targets,
            sync_each_micro_batch=self.config.sync_each_micro_batch,
        ):
            pass
        self.optimizer.step(self.config.optimizer.peak_lr)

    def timed(self, clock: Callable[[], float] = time.perf_counter) -> float:
        """Seconds of one step by a clock."""
        self._wait()
        start = clock()
        self.step()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        dist.barrier()

    def state_memory(self) -> dict[str, int]:
        """Bytes of what stays from step to step, by what it is."""
        states = [
            x
            for each in self.optimizer.optimizers
            for state in each.state.values()
            for x in state.values()
            if isinstance(x, torch.Tensor)
        ]
        return {
            "weights": sum(own_part(p).nbytes for p in self.model.parameters()),
            "optimizer": sum(own_part(x).nbytes for x in states),
        }


@torch.no_grad()
def fill_with_noise(model: Model, device: torch.device) -> None:
    """Weights for which a step takes as long as for any others; those of a run are
    drawn on the CPU, which takes a minute for 3 billion."""
    model.to_empty(device=device)
    for parameter in model.parameters():
        own = own_part(parameter)
        if parameter.ndim > 1:
            own.normal_(std=0.02)
        else:
            own.fill_(1.0)
    initialize_buffers(model)
