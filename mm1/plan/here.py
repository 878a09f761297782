"""A plan of what is here beside some real steps of it: memory and time."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from mm1 import dist
from mm1.batch import PackedBatch
from mm1.config import UserError
from mm1.plan.accelerator import GPUS, Accelerator, accelerator
from mm1.plan.calibration import Calibrator, Clock
from mm1.plan.plan import GIB, Assumptions, Outcome, Planner
from mm1.plan.process_memory import (
    PeakMemory,
    available_memory,
    give_back_freed_memory,
)
from mm1.plan.real_steps import RealSteps
from mm1.plan.synthetic_rows import synthetic_rows
from mm1.train.cross_checks import check_together
from mm1.train.layout import ParallelLayout
from mm1.train.metrics import peak_flops
from mm1.train.trainer import Trainer

ROUNDS = 5
WARMUP = 2
MICRO_BATCHES = 4
"""Of a measured step, at most: a recipe's may have hundreds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """Of real steps on the slowest rank, and the plan that they are compared with."""

    planner: Planner
    """By single units timed here."""
    outcome: Outcome
    data_sheet: Outcome | None
    """By the rates of the GPU's file; None: there is none for what is here."""
    memory: int | None
    """Bytes at the peak; None: the system does not tell."""
    state: dict[str, int]
    """Bytes that stay from step to step, by what they are."""
    seconds: list[float]
    """Of each step."""

    @property
    def step_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def time_ratio(self) -> float:
        """Measured over planned."""
        return self.step_seconds / self.outcome.even_step_seconds

    @property
    def memory_ratio(self) -> float | None:
        if self.memory is None:
            return None
        return self.memory / self.outcome.total_memory


def measure_here(
    config: Trainer.Config,
    assumptions: Assumptions,
    *,
    gpu: str | None = None,
    rounds: int = ROUNDS,
    clock: Clock = time.perf_counter,
    say: Callable[[str], None] = lambda line: None,
) -> Measurement:
    """Plans the run on the ranks that are here, times its units one by one and then, in
    turns with that, whole steps of it. A collective: all ranks must call it, once in a
    process, whose memory is measured.

    Raises:
        ConfigError: the config cannot be planned, or trained, so.
        UserError: it does not fit what is free here; nothing has been allocated.
    """
    check_together(config)
    rates = None if gpu is None else accelerator(gpu)
    device = dist.start(config.patience)
    rates = rates or _known_gpu(device)
    planner = _planner(config, _machine(device, config), assumptions, say)
    setting = planner.as_configured()
    per_micro_batch = setting.shape.data_size * setting.micro_batch_size
    loader: Any = config.loader
    batch_size = min(loader.batch_size, MICRO_BATCHES * per_micro_batch)
    outcome = planner.outcome(setting, batch_size=batch_size)
    _check_fits(outcome, device)
    # From the start: glibc takes new blocks from old free ones, which stay resident.
    give_back_freed_memory(at_once=True)
    layout = config.layout.build(device, config.model)
    batches = [
        synthetic_rows(
            planner.work(setting.micro_batch_size),
            planner.model,
            vocab_size=assumptions.vocab_size,
            max_seqlen=loader.sequence_length,
            seed=number * dist.world_size() + dist.rank(),
        )
        for number in range(outcome.num_micro_batches)
    ]
    say("timing units one by one")
    calibrator = Calibrator(
        config,
        batches[0],
        layout,
        vocab_size=assumptions.vocab_size,
        clock=clock,
    )
    calibrator.round()
    say(f"taking steps of {outcome.num_micro_batches} micro-batches")
    steps, memory = _real_steps(config, layout, batches, assumptions)
    seconds = []
    for _ in range(rounds):
        calibrator.round()
        seconds.append(max(dist.all_gather_objects(steps.timed(clock))))
    planner.calibration = calibrator.result()
    timed = planner.timed(setting, batch_size=batch_size)
    return Measurement(
        planner=planner,
        outcome=replace(timed, memory=outcome.memory),
        data_sheet=None
        if rates is None
        else _planner(config, rates, assumptions, say).timed(
            setting, batch_size=batch_size
        ),
        memory=memory,
        state=steps.state_memory(),
        seconds=seconds,
    )


def _real_steps(
    config: Trainer.Config,
    layout: ParallelLayout,
    batches: list[PackedBatch],
    assumptions: Assumptions,
) -> tuple[RealSteps, int | None]:
    """Steps that have warmed up, and the most memory that they took on any rank."""
    peak = PeakMemory(layout.device)
    steps = RealSteps(
        config, layout, batches, vocab_size=assumptions.vocab_size
    )
    for _ in range(WARMUP):
        steps.step()
    memories = dist.all_gather_objects(peak.read())
    give_back_freed_memory(at_once=False)
    steps.step()
    known = [memory for memory in memories if memory is not None]
    return steps, max(known, default=None)


def _planner(
    config: Trainer.Config,
    gpu: Accelerator,
    assumptions: Assumptions,
    say: Callable[[str], None],
) -> Planner:
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Planner(
        config,
        gpu,
        nodes=dist.world_size() // local,
        gpus_per_node=local,
        assumptions=assumptions,
        say=say,
    )


def _machine(device: torch.device, config: Trainer.Config) -> Accelerator:
    """What is here. Its rates stand for nothing: units are timed instead."""
    flops = peak_flops(device, config.precision)
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU (threads of a rank: {torch.get_num_threads()})"
    )
    return Accelerator(
        name=name,
        memory_gib=available_memory(device) / GIB,
        peak_flops=flops,
        memory_bandwidth=flops,
        gpu_link=flops,
        node_link=flops,
        reserved_gib=0.0,
        device=device.type,
        source="timed here, unit by unit",
    )


def _known_gpu(device: torch.device) -> Accelerator | None:
    """What is here, if there is a file of it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    known = sorted(path.stem for path in GPUS.glob("*.json"))
    return next((accelerator(each) for each in known if each in name), None)


def _check_fits(outcome: Outcome, device: torch.device) -> None:
    """Raises UserError on all ranks if it does not fit one of them."""
    free = min(dist.all_gather_objects(available_memory(device)))
    lacking = outcome.total_memory - free
    if lacking > 0:
        raise UserError(
            f"--measure takes {outcome.total_memory / GIB:.1f} GiB on each rank, and"
            f" {free / GIB:.1f} are free here: {lacking / GIB:.1f} GiB too little."
            " Lower loader.micro_batch_size or the model's depth, or omit --measure"
        )
