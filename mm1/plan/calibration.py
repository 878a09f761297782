"""What units of each kind take on this machine, timed one by one: forward and backward
of a single block, what is in no block, moving weights and gradients between ranks, and
the optimizer. A whole step is never timed here.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mm1 import dist
from mm1.batch import PackedBatch, move
from mm1.config import ConfigError
from mm1.nn.float8 import use_float8
from mm1.nn.model import Model
from mm1.nn.shards import own_part
from mm1.plan.carrier import Carrier, carry
from mm1.plan.real_steps import fill_with_noise
from mm1.plan.unit_kinds import REST, unit_kinds
from mm1.train.build_model import build_on_meta
from mm1.train.layout import ParallelLayout
from mm1.train.parallel import prepare_units, shard
from mm1.train.trainer import Trainer

Clock = Callable[[], float]
AT_LEAST = 0.02
"""Seconds: what is shorter is repeated, and its mean taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Seconds on this machine, in one micro-batch or step."""

    computes: dict[str, float]
    """Forward and backward of one unit of each kind, and of `REST`."""
    starts: float
    """For each group of weights that is gathered and reduced, however small."""
    moves: float
    """For each parameter: gathered, and its gradient reduced."""
    adds: float
    """For each parameter: its gradient is added to an earlier one, and not reduced."""
    updates: float
    """For each parameter of the whole model, by the optimizer."""
    overlaps: bool
    """Do weights move while units compute? Not on the CPU, which does both."""


class Calibrator:
    """Times everything once a round, so that rounds can alternate with what they are
    compared with."""

    def __init__(
        self,
        config: Trainer.Config,
        batch: PackedBatch,
        layout: ParallelLayout,
        *,
        vocab_size: int,
        clock: Clock = time.perf_counter,
    ) -> None:
        """`batch` is a micro-batch of the run.

        Raises:
            ConfigError: tensor or expert parallelism, of which single units say
                nothing.
        """
        if layout.tensor > 1 or layout.experts > 1:
            raise ConfigError(
                "units are timed on one rank: set layout.tensor=1 layout.experts=1, or"
                " name a GPU to plan by (--gpu)"
            )
        self.clock = clock
        self.device = layout.device
        self.batch = move(batch, layout.device)
        self.model = _small_model(config, layout.device, vocab_size)
        self.units = {
            name: units[0] for name, units in unit_kinds(self.model).items()
        }
        self.calls = self._calls()
        self.by_unit = dist.world_size() > 1 or layout.device.type == "cuda"
        self.carrier = self._carrier(layout, config.precision, whole=True)
        self.empty = self._carrier(layout, config.precision, whole=False)
        self.num_carried = sum(p.numel() for p in self.model.parameters())
        self.num_groups = 1 + self.by_unit * len(self.model.units())
        optimizer = replace(config.optimizer, lr_factors={})
        self.optimizer = optimizer.build(model=self.carrier)
        self.repeats: dict[str, int] = {}
        self.seconds: dict[str, list[float]] = {}

    def _carrier(
        self, layout: ParallelLayout, precision: Any, *, whole: bool
    ) -> Carrier:
        carrier = Carrier(self.model, whole=whole)
        shard(carrier, layout, precision=precision, by_unit=self.by_unit)
        fill_with_noise(carrier, layout.device)
        return carrier

    def _calls(self) -> dict[str, "_Call"]:
        """What each kind of unit is given, and gives, in the model."""
        calls: dict[str, _Call] = {}
        hooks = [
            unit.register_forward_hook(
                lambda _, args, kwargs, out, name=name: calls.update(
                    {name: _Call(args, kwargs, out)}
                ),
                with_kwargs=True,
            )
            for name, unit in self.units.items()
        ]
        self.model(self.batch)
        for hook in hooks:
            hook.remove()
        return calls

    def round(self) -> None:
        """Times everything once; what is short, often enough."""
        for name, unit in self.units.items():
            self._time(name, self.calls[name].runs(unit, self.model))
        with _skipped(self.model, self.calls):
            self._time(REST, self._rest)
        self._time("starts", lambda: carry(self.empty, 1))
        self._time("moves", lambda: carry(self.carrier, 1))
        self._time("moves and adds", lambda: carry(self.carrier, 2))
        carry(self.carrier, 1)
        for parameter in self.carrier.parameters():
            if parameter.grad is not None:
                own_part(parameter.grad).fill_(1e-3)
        self._time("updates", self._update)

    def result(self) -> Calibration:
        """Medians of all rounds but the first."""
        seconds = {
            name: statistics.median(values[1:] or values)
            for name, values in self.seconds.items()
        }
        moves = seconds["moves"]
        starts = min(seconds["starts"], moves)
        return Calibration(
            computes={n: seconds[n] for n in (*self.units, REST)},
            starts=starts / self.num_groups,
            moves=(moves - starts) / self.num_carried,
            adds=max(0.0, seconds["moves and adds"] - moves) / self.num_carried,
            updates=seconds["updates"] / self.num_carried,
            overlaps=self.device.type == "cuda",
        )

    def _time(self, name: str, run: Callable[[], None]) -> None:
        repeats = self.repeats.get(name, 1)
        self._wait()
        start = self.clock()
        for _ in range(repeats):
            run()
        self._wait()
        seconds = (self.clock() - start) / repeats
        if name not in self.repeats:
            # All ranks alike: they wait for one another in collectives.
            wanted = 1 + int(AT_LEAST / max(seconds, 1e-6))
            self.repeats[name] = dist.from_first_rank(wanted)
        self.seconds.setdefault(name, []).append(seconds)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _rest(self) -> None:
        self.model(self.batch).objective.backward()
        self.model.zero_grad()

    def _update(self) -> None:
        gradients = [p.grad for p in self.carrier.parameters()]
        self.optimizer.step(1e-6)
        for p, gradient in zip(
            self.carrier.parameters(), gradients, strict=True
        ):
            p.grad = gradient


def _small_model(
    config: Trainer.Config, device: torch.device, vocab_size: int
) -> Model:
    """With as few blocks as show each kind, prepared as for training, in the precision
    of the computation."""
    small: Any = copy.deepcopy(config.model)
    experts = small.decoder.experts
    small.decoder.depth = 1 if experts is None else experts.every
    if hasattr(small, "encoder"):
        small.encoder.depth = 1
    lora = config.lora.build() if config.lora else None
    model = build_on_meta(
        small, vocab_size=vocab_size, lora=lora, frozen=config.frozen
    )
    if config.float8:
        use_float8(model, device)
    prepare_units(
        model,
        activation_checkpointing=config.activation_checkpointing,
        activation_memory_budget=config.activation_memory_budget,
        compile_units=config.compile,
        fullgraph=device.type == "cuda" and config.precision == "bf16",
    )
    fill_with_noise(model, device)
    if config.precision == "bf16":
        model.to(torch.bfloat16)
    return model.train()


class _Call:
    """What a unit was given, and gave."""

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        self.args = tree_map(_leaf, args)
        self.kwargs = kwargs
        self.out = tree_map(_leaf, out)
        self.gradient = torch.zeros_like(self.args[0])

    def runs(self, unit: nn.Module, model: Model) -> Callable[[], None]:
        """Forward and backward."""

        def run() -> None:
            out = unit(*self.args, **self.kwargs)
            ends = [x for x in tree_leaves(out) if _learns(x)]
            torch.autograd.backward(
                ends, [torch.full_like(x, 1e-3) for x in ends]
            )
            model.zero_grad()
            self.args[0].grad = None

        return run


def _leaf(x: Any) -> Any:
    """A tensor with a gradient of its own."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.detach().requires_grad_(x.requires_grad)
    return x


def _learns(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


@contextmanager
def _skipped(model: Model, calls: dict[str, _Call]) -> Iterator[None]:
    """Units give at once what they gave before, to time what is in none."""
    kinds = unit_kinds(model)
    real = [
        (unit, unit.__dict__.get("forward"), _given(calls[name]))
        for name, units in kinds.items()
        for unit in units
    ]
    for unit, _, given in real:
        unit.forward = given
    try:
        yield
    finally:
        for unit, forward, _ in real:
            del unit.__dict__["forward"]
            if forward is not None:
                unit.__dict__["forward"] = forward


def _given(call: _Call) -> Callable[..., Any]:
    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(call.out, Tensor):
            return _Given.apply(x, call.out, call.gradient)
        first, *others = call.out
        return _Given.apply(x, first, call.gradient), *others

    return forward


class _Given(torch.autograd.Function):
    """`out`, whose gradient with respect to x is `gradient`."""

    @staticmethod
    def forward(ctx, x, out, gradient):
        ctx.gradient = gradient
        return out.detach().view_as(out)

    @staticmethod
    def backward(ctx, *grad_outputs):
        return ctx.gradient, None, None
