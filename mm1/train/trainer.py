"""One run: what is trained, on what, how, and what it is evaluated on. Every stage is a
`Trainer.Config`, and this is its loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, cast

import torch
from typing_extensions import TypeVar

from mm1 import dist
from mm1.config import Configurable
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.eval.evaluate import build_benchmarks, evaluate
from mm1.eval.evaluator import Evaluator
from mm1.folder_lock import FolderLock
from mm1.infer.trained_model import TrainedModel, make_renderer
from mm1.loader.loader import Loader, StepBatches
from mm1.loader.packed import PackedLoader
from mm1.lost_ranks import lost_ranks_named
from mm1.nn.mm1 import MM1
from mm1.nn.model import Model
from mm1.peers import TRAINING, WAITING_FOR_DATA
from mm1.progress import ProgressBar
from mm1.ranges import NonNegativeInt, PositiveFloat, PositiveInt, Seed, Share
from mm1.runs.description import write_config, write_summary, write_tokenizer
from mm1.runs.layout import resume_command
from mm1.runs.metrics_log import MetricsLog
from mm1.runs.trackers import TrackerName
from mm1.runs.weights_writer import write_weights
from mm1.train.accumulation import accumulate_gradients, count_targets
from mm1.train.activation_checkpointing import ActivationCheckpointing
from mm1.train.agreement import check_ranks_agree
from mm1.train.build_model import build_on_meta, fill_weights
from mm1.train.centering import center_features
from mm1.train.checkpoint import Checkpoints
from mm1.train.compilation import CompiledUnits
from mm1.train.cross_checks import check_together
from mm1.train.layout import ParallelLayout
from mm1.train.lora import Lora, plain_state
from mm1.train.metrics import peak_flops
from mm1.train.optimizers import Optimizer
from mm1.train.optimizers.adamw import AdamW
from mm1.train.origins import check_startable
from mm1.train.parallel import AttentionKernel, parallelize
from mm1.train.remote_checkpoints import checkpoint_files
from mm1.train.reporting import Reporter
from mm1.train.schedulers import Scheduler, WarmupCosine
from mm1.train.shutdown import GracefulShutdown, Interrupted, StopRequested
from mm1.train.start_report import say_start
from mm1.train.validation import validation_losses

# Covariant, so that a recipe's `Trainer.Config[MM1.Config, PackedLoader.Config]` goes
# wherever a `Trainer.Config` does.
ModelConfig = TypeVar(
    "ModelConfig", bound=Model.Config, default=Model.Config, covariant=True
)
LoaderConfig = TypeVar(
    "LoaderConfig", bound=Loader.Config, default=Loader.Config, covariant=True
)


class Trainer(Configurable):
    """Builds everything once, then `fit`s."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config, Generic[ModelConfig, LoaderConfig]):
        # Type checkers allow no default for a field whose type is a variable.
        model: ModelConfig = field(default_factory=cast(Any, MM1.Config))
        loader: LoaderConfig = field(
            default_factory=cast(Any, PackedLoader.Config)
        )
        optimizer: Optimizer.Config = field(default_factory=AdamW.Config)
        scheduler: Scheduler.Config = field(default_factory=WarmupCosine.Config)
        tokenizer: Tokenizer.Config = field(default_factory=Tokenizer.Config)
        benchmarks: dict[str, Evaluator.Config] = field(default_factory=dict)
        """Name -> what the finished run is evaluated on."""
        shots: tuple[NonNegativeInt, ...] = (0, 4, 8)
        """Numbers of demonstrations in the prompt with which benchmarks are run."""
        steps: NonNegativeInt = 200_000
        """0: the weights were imported, not trained."""
        seed: Seed = 0
        """Of the weights, the order of the data and what a step draws."""
        init: dict[str, str] = field(default_factory=dict)
        """Part -> the finished run whose weights it starts from: `{"encoder":
        "runs/clip"}`; "random", or no entry: from scratch."""
        frozen: tuple[str, ...] = ()
        """Parts that are not trained."""
        center_features: bool = False
        """Begin with features whose mean over the images of the first step is zero (see
        `mm1.train.centering`)."""
        lora: Lora.Config | None = None
        """Adapters that are trained in place of parts' weights: `lora=lora`."""
        precision: Literal["fp32", "bf16"] = "bf16"
        """Of the computation; weights, gradients and reductions are fp32."""
        float8: bool = False
        """Products of the decoder's linear maps in float8 while training, for Hopper
        GPUs and newer (`mm1.nn.float8`)."""
        attention_kernel: AttentionKernel = "flash"
        """Of attention over batches (images, captions) on CUDA."""
        activation_checkpointing: ActivationCheckpointing = "none"
        """What blocks and connector compute again in the backward pass: nothing, all
        but products, attention and convolutions ("selective"), everything ("full"), or
        as much as `activation_memory_budget` demands ("memory_budget")."""
        activation_memory_budget: Share = 0.5
        """Share of the activations that is kept; 1 keeps all that the compiler does."""
        sync_each_micro_batch: bool = True
        """Several ranks reduce gradients after each micro-batch, or only once a step:
        less traffic, for 6 bytes a parameter on every rank."""
        compile: bool = False
        """Compile the blocks (torch.compile)."""
        layout: ParallelLayout.Config = field(
            default_factory=ParallelLayout.Config
        )
        log_every: PositiveInt = 10
        """Steps between two lines of metrics.jsonl."""
        validate_every: NonNegativeInt = 0
        """Steps between losses on validation documents; 0: only at the end."""
        checkpoint_every: PositiveInt = 1000
        """Steps between two."""
        keep_checkpoints: PositiveInt = 2
        """The newest ones."""
        patience: PositiveFloat = dist.PATIENCE
        """Seconds that ranks wait for one another before the run ends: longer than the
        slowest step, and than reading or writing this rank's share of a checkpoint."""
        trackers: tuple[TrackerName, ...] = ()
        """Where metrics go in addition to metrics.jsonl."""

        def build(self, *, folder: Path, resume: bool = False) -> "Trainer":
            """The trainer, which holds the lock of its folder until it has fitted.

            Nothing is written to the folder before all of it is built."""
            check_together(self)
            dist.start(self.patience)
            lock = FolderLock(folder)
            return lock.keep_for(
                lambda: self.make(folder=folder, resume=resume, lock=lock)
            )

    def __init__(
        self, config: Config, *, folder: Path, resume: bool, lock: FolderLock
    ) -> None:
        self.config: Trainer.Config = config
        self.folder: Path = folder
        self.lock: FolderLock = lock
        self.device: torch.device = dist.start()
        self.layout = config.layout.build(self.device, config.model)
        self.checkpoints = Checkpoints(
            checkpoint_files(folder), keep=config.keep_checkpoints
        )
        check_ranks_agree(folder, config)
        check_startable(folder, config, resume=resume)
        saved_step = self.checkpoints.newest_whole() if resume else None
        self.tokenizer: Tokenizer = Tokenizer.Config(
            path=str(folder)
            if saved_step is not None
            else config.tokenizer.path or config.loader.tokenizer()
        ).build()
        self.lora: Lora | None = config.lora.build() if config.lora else None
        self.model: Model = build_on_meta(
            config.model,
            vocab_size=self.tokenizer.vocab_size,
            lora=self.lora,
            frozen=config.frozen,
        )
        self.params: dict[str, int] = self.model.num_params()
        self.renderer: Renderer = make_renderer(
            self.model, self.tokenizer, config.loader
        )
        self.loader: Loader = config.loader.build(
            renderer=self.renderer, seed=config.seed
        )
        self.benchmarks: dict[str, Evaluator] = build_benchmarks(
            config.benchmarks, self.model, config.shots
        )
        self.compiled: CompiledUnits | None = parallelize(
            self.model,
            self.layout,
            precision=config.precision,
            float8=config.float8,
            attention_kernel=config.attention_kernel,
            activation_checkpointing=config.activation_checkpointing,
            activation_memory_budget=config.activation_memory_budget,
            compile_units=config.compile,
        )
        fill_weights(
            self.model,
            device=self.device,
            seed=config.seed,
            init=config.init,
            tokenizer=self.tokenizer,
            lora=self.lora,
            resumed=saved_step is not None,
        )
        self.optimizer: Optimizer = config.optimizer.build(model=self.model)
        self.scheduler: Scheduler = config.scheduler.build(
            peak_lr=config.optimizer.peak_lr, steps=config.steps
        )
        self.step: int = 0
        self.loader_state: Any = None
        self.reporter = Reporter(
            self.device, peak_flops=peak_flops(self.device, config.precision)
        )
        self.shutdown = GracefulShutdown()
        num_lines = (
            None if saved_step is None else self._load_checkpoint(saved_step)
        )
        self._write_config()
        self.log = MetricsLog(
            folder, config, resume_step=self.step, num_lines=num_lines
        )
        self._write_summary(finished=False)

    def _load_checkpoint(self, step: int) -> int | None:
        """Returns how many lines of metrics were written before it."""
        progress = self.checkpoints.load(step, self.model, self.optimizer)
        self.step = progress["step"]
        self.loader_state = progress["loader"]
        self.reporter.restore(progress)
        return progress.get("metrics_lines")

    def _write_config(self) -> None:
        """The first thing that is written: nothing is left that may be refused."""
        self._steps()
        dist.barrier()
        dist.on_rank_zero(lambda: write_config(self.folder, self.config))

    def _steps(self) -> Iterator[StepBatches]:
        """Raises ConfigError for a batch size or data that do not fit."""
        return self.loader.steps(
            self.loader_state,
            rank=dist.data_rank(),
            world_size=dist.data_size(),
        )

    def fit(self, *, shutdown_timeout: float | None = None) -> None:
        """Trains to the last step, from wherever the run stands.

        `shutdown_timeout` is in seconds (see `GracefulShutdown`).

        Raises:
            Interrupted: a signal of `mm1.stop_signals` came; a checkpoint of the last
                step has been saved.
            Diverged: the gradient stayed non-finite (see `DivergenceCheck`).
            FolderInUse: another process has taken over the folder.
            LostRank: another rank is gone, or hangs.
        """
        steps = self._steps()
        say_start(
            self.model,
            self.layout,
            self.optimizer,
            self.config,
            folder=self.folder,
            step=self.step,
            data=self.loader.describe(),
        )
        self.model.train()
        self.reporter.throughput.clear()
        self.shutdown = GracefulShutdown(shutdown_timeout)
        with self.lock, self.checkpoints:
            with (
                ProgressBar(
                    self.folder.name,
                    self.config.steps,
                    completed=self.step,
                    transient=False,
                ) as bar,
                self.shutdown,
                lost_ranks_named(),
            ):
                try:
                    while self.step < self.config.steps:
                        self._fit_step(steps, bar)
                    self.shutdown.check_any_rank()
                except StopRequested:
                    self.checkpoints.ensure(self.step, self._save_checkpoint)
                    raise Interrupted(
                        f"saved at step {self.step} of {self.config.steps}; go on"
                        f" with `{resume_command(self.folder)}`"
                    ) from None
            self._finish()

    def _fit_step(self, steps: Iterator[StepBatches], bar: ProgressBar) -> None:
        """One step, and what is due after it."""
        c = self.config
        dist.at(self.step, WAITING_FOR_DATA)
        with self.reporter.throughput.waiting_for_data():
            data = next(steps)
        dist.at(self.step, TRAINING)
        self.train_step(data)
        self.step = self.step + 1
        self.loader_state = data.state
        is_last = self.step == c.steps
        if is_last or self.step % c.log_every == 0:
            self.lock.check()
            self.reporter.report(
                self.step,
                self.log,
                bar,
                log_every=c.log_every,
                lr=self.scheduler.learning_rate(self.step - 1),
                gauges=data.gauges,
            )
            self.checkpoints.settle()
        if is_last or (c.validate_every and self.step % c.validate_every == 0):
            dist.at(self.step, "validating")
            self.log.write_metrics(
                self.step,
                validation_losses(self.model, self.loader, self.device),
            )
            self.reporter.throughput.clear()
        if is_last or self.step % c.checkpoint_every == 0:
            self._save_checkpoint()

    def train_step(self, data: StepBatches) -> None:
        """One optimizer step, with gradient accumulation over the micro-batches: every
        target weighs the same, whatever micro-batch or rank it is in.

        Raises:
            StopRequested: a signal has reached some rank; nothing is done.
        """
        with self.reporter.throughput.waiting_for_ranks():
            num_targets = count_targets(data.micro_batches, self.shutdown)
        if self.step == 0 and self.config.center_features:
            center_features(self.model, data.micro_batches, self.device)
        # What a step draws at random depends on (seed, step, data rank) alone: there is
        # no random state to save.
        torch.manual_seed(
            (self.config.seed * 1_000_003 + self.step) * 4099 + dist.data_rank()
        )
        for batch, losses in accumulate_gradients(
            self.model,
            data.micro_batches,
            self.device,
            num_targets=num_targets,
            sync_each_micro_batch=self.config.sync_each_micro_batch,
        ):
            self.reporter.meter.add(losses.means)
            self.reporter.throughput.flops += (
                sum(self.model.flops(batch).values()) // self.layout.tensor
            )
        self.reporter.add_update(
            *self.optimizer.step(self.scheduler.learning_rate(self.step)),
            data.counts,
        )
        if self.compiled is not None:
            self.compiled.warn_once()

    def _save_checkpoint(self) -> None:
        dist.at(self.step, "saving a checkpoint")
        self.lock.check()
        self.checkpoints.save(
            self.step,
            self.model,
            self.optimizer,
            {
                "step": self.step,
                "loader": self.loader_state,
                "metrics_lines": self.log.num_lines,
                **self.reporter.state(),
            },
        )

    def _finish(self) -> None:
        """Writes the weights, runs the benchmarks, and marks the run as finished."""
        dist.at(self.step, "finishing")
        self.lock.check()
        self.checkpoints.finish(may_fail=True)
        dist.on_rank_zero(self.log.finish)
        fingerprint = write_weights(
            self.folder, plain_state(self.model, self.lora)
        )
        if self.config.benchmarks:
            evaluate(
                TrainedModel(self.model.eval(), self.renderer, self.device),
                self.benchmarks,
                self.config.shots,
                self.folder,
                version=fingerprint,
            )
        self._write_summary(finished=True)

    def _write_summary(self, *, finished: bool) -> None:
        if dist.rank() == 0:
            write_tokenizer(
                self.folder, self.tokenizer.text, self.tokenizer.special_tokens
            )
            write_summary(
                self.folder,
                self.config,
                params=self.params,
                data=self.loader.describe(),
                device=self.device,
                finished=finished,
            )
