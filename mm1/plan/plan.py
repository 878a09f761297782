"""A plan of a run: its memory, the time of a step and of the whole, cost and disk, and
what would be faster or fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mm1.config import ConfigError
from mm1.loader.packed import PackedLoader
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.model import Model
from mm1.plan.accelerator import Accelerator
from mm1.plan.calibration import Calibration
from mm1.plan.rank_memory import RankMemory
from mm1.plan.roofline import MicroBatchWork
from mm1.plan.step_time import RunSetting, Shape, StepTime, UnitTime
from mm1.train.layout import data_axes, largest_expert_axis
from mm1.train.optimizers.adamw import AdamW
from mm1.train.trainer import Trainer

GIB = 2**30
IMAGE_FILL = 0.93
"""Images of a sequence over those allowed (14.9 of 16: benchmarks/packing.md)."""
DOCUMENT_TOKENS = 512
"""Tokens of a document: decides the attention's share, some percent."""
DECODE_SECONDS = 3.2e-3
"""Of a core for a photograph of at most 384 pixels, to 378 (benchmarks/loader.md)."""
IMAGE_BYTES = 40e3
"""Of such a photograph as JPEG."""
TOKEN_BYTES = 6
"""Of a token and its text in a shard."""
CHECKPOINT_BYTES = 12
"""A parameter: fp32 weight and AdamW's two moments."""
MODES = ("selective", "full")


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumptions:
    """What a config does not say."""

    vocab_size: int = 32_768
    images_per_sequence: float | None = None
    """None: `IMAGE_FILL` of those allowed."""
    document_tokens: int = DOCUMENT_TOKENS
    price: float | None = None
    """Of a GPU and hour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a setting takes."""

    setting: RunSetting
    units: list[UnitTime]
    """Of one micro-batch."""
    num_micro_batches: int
    """Of one rank in a step."""
    update_seconds: float
    straggling: float
    save_seconds: float
    """That steps wait for checkpoints, spread over all steps."""
    memory: dict[str, int]
    """Bytes on each rank, by what they hold, at the peak of a step; empty: not
    asked."""

    @property
    def total_memory(self) -> int:
        return sum(self.memory.values())

    @property
    def step_seconds(self) -> float:
        micro = sum(unit.total for unit in self.units)
        return (
            micro * self.num_micro_batches * self.straggling
            + self.update_seconds
            + self.save_seconds
        )

    @property
    def even_step_seconds(self) -> float:
        """Of a step that waits for no slower rank and no checkpoint."""
        micro = sum(unit.total for unit in self.units)
        return micro * self.num_micro_batches + self.update_seconds


class Planner:
    """Plans one config on one kind of cluster."""

    def __init__(
        self,
        config: Trainer.Config,
        gpu: Accelerator,
        *,
        nodes: int,
        gpus_per_node: int,
        assumptions: Assumptions,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Raises ConfigError for what cannot be planned: no packed sequences, or an
        optimizer other than AdamW."""
        if not isinstance(config.loader, PackedLoader.Config):
            raise ConfigError(
                "a plan is made for packed sequences: language models, pre-training and"
                " fine-tuning, not for contrastive or reconstructive encoders"
            )
        if not isinstance(config.optimizer, AdamW.Config):
            raise ConfigError(
                "a plan is made for AdamW, whose moments it counts: set optimizer=adamw"
            )
        self.config = config
        self.gpu = gpu
        self.nodes = nodes
        self.gpus_per_node = gpus_per_node
        self.assumptions = assumptions
        self.calibration: Calibration | None = None
        """What units take here; None: what the GPU's rates say."""
        with torch.device("meta"):
            self.model: Model = config.model.build(
                vocab_size=assumptions.vocab_size
            )
        self.num_params: int = sum(p.numel() for p in self.model.parameters())
        self.memory = RankMemory(
            config,
            self.model,
            vocab_size=assumptions.vocab_size,
            work=self.work,
            on_gpu=gpu.device == "cuda",
            say=say,
        )

    @property
    def num_ranks(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def images_per_sequence(self) -> float:
        loader: Any = self.config.loader
        if self.model.image_input is None:
            return 0.0
        given = self.assumptions.images_per_sequence
        return loader.max_images * IMAGE_FILL if given is None else given

    @property
    def memory_limit(self) -> int:
        return int((self.gpu.memory_gib - self.gpu.reserved_gib) * GIB)

    def as_configured(self) -> RunSetting:
        """The recipe's own.

        Raises:
            ConfigError: its layout does not fit the number of ranks.
        """
        layout = self.config.layout
        replicate, shard = data_axes(layout, self.num_ranks)
        experts = largest_expert_axis(
            layout.experts, shard=shard, data_size=replicate * shard
        )
        loader: Any = self.config.loader
        return RunSetting(
            shape=Shape(
                replicate=replicate,
                shard=shard,
                tensor=layout.tensor,
                experts=experts,
                per_node=self.gpus_per_node,
            ),
            micro_batch_size=loader.micro_batch_size,
            activation_checkpointing=self.config.activation_checkpointing,
        )

    def outcome(
        self, setting: RunSetting, *, batch_size: int | None = None
    ) -> Outcome:
        """`batch_size` None: the recipe's.

        Raises:
            ConfigError: the batch does not divide over the ranks.
        """
        timed = self.timed(setting, batch_size=batch_size)
        memory = self.memory.parts(
            setting, num_micro_batches=timed.num_micro_batches
        )
        return replace(timed, memory=memory)

    def timed(
        self, setting: RunSetting, *, batch_size: int | None = None
    ) -> Outcome:
        """Without its memory, which takes longer to find."""
        shape = setting.shape
        step = StepTime(
            self.model,
            self.gpu,
            shape,
            compiled=self.config.compile,
            recomputed=setting.activation_checkpointing == "full",
            sync_each_micro_batch=self.config.sync_each_micro_batch,
            calibration=self.calibration,
        )
        micro = setting.micro_batch_size
        loader: Any = self.config.loader
        batch: int = batch_size or loader.batch_size
        num, rest = divmod(batch, shape.data_size * micro)
        if rest or not num:
            raise ConfigError(
                f"loader.batch_size={batch} does not divide over {shape.data_size} data"
                f" ranks with loader.micro_batch_size={micro}: make it a multiple of"
                f" {shape.data_size * micro}"
            )
        every = self.config.checkpoint_every
        return Outcome(
            setting=setting,
            memory={},
            units=step.micro_batch(self.work(micro), num_micro_batches=num),
            num_micro_batches=num,
            update_seconds=step.update(),
            straggling=step.straggling(micro),
            save_seconds=step.save_stall(self.num_params) / every,
        )

    def work(self, micro_batch_size: int) -> MicroBatchWork:
        """Of a micro-batch, as assumed."""
        loader: Any = self.config.loader
        tokens = micro_batch_size * loader.sequence_length
        images = round(micro_batch_size * self.images_per_sequence)
        length = min(self.assumptions.document_tokens, loader.sequence_length)
        whole, rest = divmod(tokens, length)
        encoded = 0
        if self.model.image_input is not None:
            multiple = loader.image_multiple
            encoded = -(-max(1, images) // multiple) * multiple
        return MicroBatchWork(
            documents=(length,) * whole + (rest,) * (rest > 0),
            num_targets=tokens - images * self.model.tokens_per_image,
            num_images=images,
            num_blank=encoded - images,
        )

    def fastest(self) -> Outcome | None:
        """The fastest setting that fits; None: none does."""
        timed = sorted(
            map(self.timed, self.settings()),
            key=lambda each: each.step_seconds,
        )
        for each in timed:
            outcome = self.outcome(each.setting)
            if outcome.total_memory <= self.memory_limit:
                return outcome
        return None

    def settings(self) -> Iterator[RunSetting]:
        """All that divide the batch, the model and the ranks."""
        batch: int = getattr(self.config.loader, "batch_size", 0)
        for shape in self._shapes():
            for micro in (1, 2, 4, 8):
                if batch % (shape.data_size * micro) == 0:
                    for mode in MODES:
                        yield RunSetting(
                            shape=shape,
                            micro_batch_size=micro,
                            activation_checkpointing=mode,
                        )

    def _shapes(self) -> Iterator[Shape]:
        per_node = self.gpus_per_node
        num_experts = self._num_experts()
        for tensor in (1, 2, 4, 8):
            if not self._tensor_fits(tensor):
                continue
            data = self.num_ranks // tensor
            inside = max(1, per_node // tensor)
            for shard in sorted({data, inside} if self.nodes > 1 else {data}):
                sizes = {1}
                if num_experts and tensor == 1:
                    sizes |= {
                        largest_expert_axis(n, shard=shard, data_size=data)
                        for n in (per_node, num_experts)
                        if num_experts % n == 0
                    }
                for experts in sorted(sizes):
                    yield Shape(
                        replicate=data // shard,
                        shard=shard,
                        tensor=tensor,
                        experts=experts,
                        per_node=per_node,
                    )

    def _tensor_fits(self, size: int) -> bool:
        if size == 1:
            return True
        decoder = self.model.parts()["decoder"]
        assert isinstance(decoder, Decoder)
        c = decoder.config
        return (
            c.experts is None
            and self.gpus_per_node % size == 0
            and all(
                n % size == 0 for n in (c.num_heads, c.num_kv_heads or size)
            )
        )

    def _num_experts(self) -> int:
        return max(
            (
                m.config.num_experts
                for m in self.model.modules()
                if isinstance(m, MoE)
            ),
            default=0,
        )


def worth_a_change(planner: Planner, outcome: Outcome, other: Outcome) -> bool:
    """Is the other worth a change? The plan is not exact enough for less than 1%."""
    fits = outcome.total_memory <= planner.memory_limit
    return not fits or other.step_seconds < 0.99 * outcome.step_seconds


def needed(outcome: Outcome, planner: Planner) -> Sequence[str]:
    """How much a plan lacks, and which settings would fit; nothing: it fits."""
    lacking = outcome.total_memory - planner.memory_limit
    if lacking <= 0:
        return []
    lines = [
        f"it does not fit: {lacking / GIB:.1f} GiB too much on each"
        f" {planner.gpu.name}"
    ]
    best = planner.fastest()
    if best is not None:
        return [*lines, f"it would with {best.setting.overrides()}"]
    return [
        *lines,
        "no setting tried does on these nodes: take more of them, or larger GPUs",
    ]
