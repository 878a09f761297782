"""How much GPU memory a run will take, without a GPU: the model is run on fake tensors,
which have shapes but no values, and what it keeps for its backward pass is summed up.

It counts what torch allocates. CUDA itself, NCCL and fragments come on top: leave 5
GiB.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
)
from torch.utils._pytree import tree_leaves

from mm1.batch import PackedBatch
from mm1.config import ConfigError
from mm1.loader.packed import PackedLoader
from mm1.nn import attention, experts
from mm1.nn.grouping import Grouping
from mm1.nn.model import Model
from mm1.train.optimizers.adamw import AdamW
from mm1.train.parallel import prepare_units
from mm1.train.trainer import Trainer

DOCUMENTS_PER_SEQUENCE = 24
"""Their number hardly matters: attention keeps nothing for each."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on each rank, at the peak of a step."""

    parameters: int
    """In fp32, and those that are gathered in the precision of the computation."""
    gradients: int
    optimizer: int
    activations: int
    """What a micro-batch keeps for its backward pass."""
    workspace: int
    """What forward and backward hold for a moment, beyond the activations."""

    @property
    def total(self) -> int:
        return (
            self.parameters
            + self.gradients
            + self.optimizer
            + self.activations
            + self.workspace
        )


def estimate_memory(
    config: Trainer.Config,
    *,
    vocab_size: int,
    images_per_sequence: float | None = None,
    world_size: int = 1,
) -> MemoryEstimate:
    """The memory of one rank of a packed run (language model or multimodal), by its
    config.

    `images_per_sequence` None: as many as fit, `loader.max_images`. Frozen parts are
    taken as trained. It takes some ten seconds, most of them to compile, and forgets
    what this process has compiled.

    Raises:
        ConfigError: a run without packed sequences, or with an optimizer other than
            AdamW.
    """
    if not isinstance(config.loader, PackedLoader.Config) or not isinstance(
        config.optimizer, AdamW.Config
    ):
        raise ConfigError(
            "memory is estimated for packed sequences trained with AdamW"
        )
    with torch.device("meta"):
        model = config.model.build(vocab_size=vocab_size)
    num_params = sum(p.numel() for p in model.parameters())
    unit = max(_num_params(unit) for unit in model.units())
    apart = num_params - sum(_num_params(unit) for unit in model.units())
    several = world_size > 1
    width = 2 if config.precision == "bf16" else 4
    # One rank keeps everything gathered; several gather the unit at work, the next one
    # and what is in no unit.
    gathered = apart + 2 * unit if several else num_params
    whole = several and config.sync_each_micro_batch
    gradients = num_params // world_size if whole else num_params
    activations = activation_memory(
        config, vocab_size=vocab_size, images_per_sequence=images_per_sequence
    )
    return MemoryEstimate(
        parameters=4 * num_params // world_size + width * gathered,
        gradients=4 * gradients,
        optimizer=8 * num_params // world_size,
        activations=activations.kept,
        # A unit's gradients, copied for the reduction and reduced.
        workspace=activations.beside + (width + 8) * unit,
    )


def _num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class BackwardMemory(NamedTuple):
    """Bytes held in the backward pass of one unit, the gradients of its weights among
    them."""

    peak: int
    complete: int
    """When all gradients are there."""


class ActivationMemory(NamedTuple):
    """Bytes of one micro-batch, beside weights and gradients of other units."""

    kept: int
    """For its backward pass, when that begins."""
    forward: int
    """At the peak of forward and loss."""
    backward: tuple[BackwardMemory, ...]
    """By unit, in the order of execution."""

    @property
    def beside(self) -> int:
        """The most that is held beside what is kept."""
        peak = max(unit.peak for unit in self.backward)
        return max(0, self.forward - self.kept, peak - self.kept)


def activation_memory(
    config: Trainer.Config,
    *,
    vocab_size: int,
    images_per_sequence: float | None = None,
    documents: Sequence[int] | None = None,
) -> ActivationMemory:
    """What forward and backward of a micro-batch hold, on one rank that computes all of
    it: a GPU, or, where the lengths of its `documents` are given, the CPU, whose
    attention takes documents in groups.

    It takes some ten seconds, most of them to compile, and forgets what this process
    has compiled.
    """
    import torch._dynamo
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch._dynamo.reset()  # graphs of an earlier estimate
    with torch.device("meta"):
        model = config.model.build(vocab_size=vocab_size)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        _as_on_a_gpu() if documents is None else _as_on_the_cpu(documents),
        _grouped_products_of(dtype),
    ):
        _materialise(model, dtype)
        batch = _batch(config, model, images_per_sequence)
        prepare_units(
            model,
            activation_checkpointing=config.activation_checkpointing,
            activation_memory_budget=config.activation_memory_budget,
            compile_units=config.compile,
            compile_backend="aot_eager",
            # As `mm1.train.parallel` has it on a GPU, and on the CPU.
            fullgraph=documents is None and dtype == torch.bfloat16,
        )
        model(batch).objective.backward()  # compiles
        model.zero_grad()
        kept = _Kept(model)
        with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            model(batch)
        with LiveBytes() as live:
            units = [
                _DroppedGradients(list(unit.parameters()), live)
                for unit in model.units()
            ]
            _drop_others(model, live)
            objective = model(batch).objective
            forward = live.peak
            live.peak = live.now
            objective.backward()
    return ActivationMemory(
        kept=kept.total,
        forward=max(forward, kept.total),
        backward=tuple(unit.memory for unit in units),
    )


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Packed attention takes the kernel for CUDA, of which only shapes are asked."""
    real = attention.has_varlen_kernel
    attention.has_varlen_kernel = lambda x: True
    try:
        yield
    finally:
        attention.has_varlen_kernel = real


@contextmanager
def _as_on_the_cpu(documents: Sequence[int]) -> Iterator[None]:
    """Packed attention takes documents of these lengths in groups."""
    real = attention.Grouping

    def grouping(cu_seqlens: Tensor, **heads: int) -> Grouping:
        # Its shapes depend on the lengths, which fake tensors have not.
        with _disable_current_modes():
            return real(torch.tensor([0, *documents]).cumsum(0), **heads)

    attention.Grouping = grouping  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        attention.Grouping = real  # type: ignore[misc]


@contextmanager
def _grouped_products_of(dtype: torch.dtype) -> Iterator[None]:
    """Fake grouped products are for bf16 alone: in fp32 all rows take one expert's
    weights, which keeps tensors of the same shapes."""
    real = experts._uncompiled
    if dtype == torch.float32:
        experts._uncompiled = lambda rows, weight, ends: rows @ weight[0]
    try:
        yield
    finally:
        experts._uncompiled = real


def _materialise(model: Model, dtype: torch.dtype) -> None:
    """Fake parameters in the precision of the computation in place of meta ones."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(
                    torch.empty(parameter.shape, dtype=dtype)
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=dtype)


def _batch(
    config: Trainer.Config, model: Model, images_per_sequence: float | None
) -> PackedBatch:
    loader: Any = config.loader
    rows = loader.micro_batch_size
    num_tokens = rows * loader.sequence_length
    num_images = 0
    if model.image_input is not None:
        each = loader.max_images
        if images_per_sequence is not None:
            each = images_per_sequence
        # Of a mean that was a whole number before it was divided.
        num_images = math.ceil(rows * each - 1e-6)
    multiple = loader.image_multiple
    padded = max(1, math.ceil(num_images / multiple)) * multiple
    size = model.image_input.size if model.image_input else (1, 1)
    slots = num_images * model.tokens_per_image
    if slots >= num_tokens:
        raise ConfigError(
            f"{num_images} images take {slots} of the {num_tokens} tokens of a"
            " micro-batch: lower loader.max_images"
        )
    numbers = torch.zeros(num_tokens, dtype=torch.int64)
    ends = rows * DOCUMENTS_PER_SEQUENCE + 1
    return PackedBatch(
        tokens=numbers,
        targets=numbers,
        positions=numbers,
        sources=numbers,
        cu_seqlens=torch.zeros(ends, dtype=torch.int32),
        images=torch.zeros(padded, 3, *size, dtype=torch.uint8),
        slots=torch.zeros(
            num_images, model.tokens_per_image, dtype=torch.int64
        ),
        max_seqlen=loader.sequence_length,
        num_targets=num_tokens - slots,
        num_padding=0,
        num_pairs=0,
        source_names=("data",),
    )


class _DroppedGradients:
    """Drops the gradients of a unit when all are there, as FSDP2 reduces them, or adds
    them to those in fp32, which are counted apart."""

    def __init__(self, parameters: Sequence[Tensor], live: "LiveBytes") -> None:
        self.parameters = parameters
        self.live = live
        self.memory = BackwardMemory(0, 0)
        """Since the unit before was complete."""
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._added)

    def _added(self, parameter: Tensor) -> None:
        if all(p.grad is not None for p in self.parameters):
            self.memory = BackwardMemory(self.live.peak, self.live.now)
            for each in self.parameters:
                each.grad = None
            self.live.peak = self.live.now


def _drop_others(model: Model, live: "LiveBytes") -> None:
    """The gradients of what is in no unit, one by one."""
    inside = {id(p) for unit in model.units() for p in unit.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in inside:
            _DroppedGradients([parameter], live)


class _Kept:
    """Bytes that autograd saves, without the parameters."""

    def __init__(self, model: Model) -> None:
        self.tensors: list[Tensor] = []
        self.seen = {p.untyped_storage()._cdata: 0 for p in model.parameters()}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.seen.setdefault(storage._cdata, storage.nbytes())
        self.tensors.append(tensor)  # so that no other storage takes its number
        return tensor

    @property
    def total(self) -> int:
        return sum(self.seen.values())


class LiveBytes(TorchDispatchMode):
    """The most bytes of storages that live at once, of those made since it began."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.now: int = 0
        self.peak: int = 0
        self.living: set[int] = set()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled graphs run under it, too."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            x.untyped_storage()._cdata
            for x in tree_leaves((args, kwargs))
            if isinstance(x, Tensor)
        }
        for tensor in tree_leaves(out):
            if isinstance(tensor, DTensor):
                tensor = (
                    tensor._local_tensor
                )  # its own storage is as if it were whole
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), given)
        return out

    def _add(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        number = storage._cdata
        if number in given or number in self.living:
            return
        size = storage.nbytes()
        self.living.add(number)
        self.now = self.now + size
        self.peak = max(self.peak, self.now)
        finalize(storage, self._remove, number, size)

    def _remove(self, number: int, size: int) -> None:
        self.living.discard(number)
        self.now = self.now - size
