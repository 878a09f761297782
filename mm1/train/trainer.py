"""One run: what is trained, on what, how, and what it is measured by. Every stage is a
`Run`, and this is its loop."""

import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, cast

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
)
from typing_extensions import TypeVar

from mm1 import config as configs
from mm1 import dist
from mm1.batch import move
from mm1.config import Configurable, UserError
from mm1.data.tokenizer import Tokenizer
from mm1.eval.evaluate import evaluate
from mm1.eval.evaluator import Evaluator
from mm1.files import write_json
from mm1.infer.trained_model import TrainedModel, make_renderer
from mm1.loader.loader import Loader, StepBatches
from mm1.loader.packed import PackedLoader
from mm1.nn.mm1 import MM1
from mm1.nn.model import MeanMetric, Model
from mm1.progress import ProgressBar
from mm1.runs.description import write_config
from mm1.runs.layout import CONFIG, METRICS, SPEED, SUMMARY
from mm1.runs.weights import start_part, version, write_weights
from mm1.train.checkpoint import Checkpoints
from mm1.train.lora import Lora
from mm1.train.metrics import Log, Meter, Speed, matmul_ceiling
from mm1.train.optimizers import Optimizer
from mm1.train.optimizers.adamw import AdamW
from mm1.train.origins import check_kept
from mm1.train.parallel import (
    ActivationCheckpointing,
    checkpoint_activations,
    freeze,
    shard,
)
from mm1.train.schedulers import Scheduler, WarmupCosine

PATIENCE = 20
"""Updates in a row with a gradient that is not finite, after which the run stops."""


# Covariant, so that a recipe's `Trainer.Config[MM1.Config, PackedLoader.Config]` goes
# wherever a `Trainer.Config` does.
ModelConfig = TypeVar(
    "ModelConfig", bound=Model.Config, default=Model.Config, covariant=True
)
LoaderConfig = TypeVar(
    "LoaderConfig", bound=Loader.Config, default=Loader.Config, covariant=True
)


class Interrupted(UserError):
    """The run was told to stop; it has saved a checkpoint and goes on from there with
    `--resume`."""


class Diverged(UserError):
    """The gradient stayed not finite."""


class Trainer(Configurable):
    """Builds everything once, then `fit`s."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config, Generic[ModelConfig, LoaderConfig]):
        # Type checkers allow no default for a field whose type is a variable.
        model: ModelConfig = field(default_factory=cast(Any, MM1.Config))
        loader: LoaderConfig = field(default_factory=cast(Any, PackedLoader.Config))
        optimizer: Optimizer.Config = field(default_factory=AdamW.Config)
        scheduler: Scheduler.Config = field(default_factory=WarmupCosine.Config)
        tokenizer: Tokenizer.Config = field(default_factory=Tokenizer.Config)
        benchmarks: dict[str, Evaluator.Config] = field(default_factory=dict)
        shots: tuple[int, ...] = (0, 4, 8)
        """Demonstrations in the prompt at which the benchmarks are asked."""
        steps: int = 200_000
        seed: int = 0
        init: dict[str, str] = field(default_factory=dict)
        """Part -> the folder of a finished run that it starts from: `{"encoder":
        "runs/clip"}`."""
        frozen: tuple[str, ...] = ()
        """Parts that do not learn."""
        lora: Lora.Config | None = None
        """Adapters that are trained in place of parts' own weights: `lora=lora`."""
        precision: Literal["fp32", "bf16"] = "bf16"
        """What is computed in; weights, gradients and sums over ranks are fp32."""
        activation_checkpointing: ActivationCheckpointing = "none"
        """Which blocks keep only their input and compute the rest again in the backward
        pass: none of them, every second one ("selective") or all ("full")."""
        compile: bool = False
        log_every: int = 10
        validate_every: int = 0
        """Steps between losses on held-out documents; 0: at the end alone."""
        checkpoint_every: int = 1000
        keep_checkpoints: int = 2
        trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
        """Where metrics go besides metrics.jsonl."""

        def build(self, *, folder: Path, resume: bool = False) -> "Trainer":
            return self.make(folder=folder, resume=resume)

    def __init__(self, config: Config, *, folder: Path, resume: bool) -> None:
        self.config = config
        self.folder = folder
        self.device = dist.start()
        self.checkpoints = Checkpoints(folder, keep=config.keep_checkpoints)
        self._claim(resume)
        saved = self.checkpoints.steps() if resume else []
        given = (
            str(folder) if saved else config.tokenizer.path or config.loader.tokenizer()
        )
        self.tokenizer = Tokenizer.Config(path=given).build()
        torch.manual_seed(config.seed)
        with self.device:
            self.model: Model = config.model.build(vocab_size=self.tokenizer.vocab_size)
        for part, origin in config.init.items() if not saved else ():
            start_part(self.model, part, Path(origin), tokenizer=self.tokenizer)
        self.lora = config.lora.build() if config.lora else None
        if self.lora:
            self.lora.inject(self.model)
        self.renderer = make_renderer(self.model, self.tokenizer, config.loader)
        self.loader = config.loader.build(renderer=self.renderer, seed=config.seed)
        # Built, and their questions read, before training: a missing file must not show
        # after it.
        self.benchmarks = {
            name: benchmark.build() for name, benchmark in config.benchmarks.items()
        }
        for benchmark in self.benchmarks.values():
            benchmark.check(self.model)
            benchmark.load_records(config.shots)
        self._lay_out()
        self.optimizer = config.optimizer.build(model=self.model)
        self.scheduler = config.scheduler.build(
            peak_lr=config.optimizer.peak_lr, steps=config.steps
        )
        self.step = 0
        self.loader_state = None
        self.bad_updates = 0
        self.meter = Meter(self.device)
        self.counts = Counter()
        if saved:
            progress = self.checkpoints.load(saved[-1], self.model, self.optimizer)
            self.step = progress["step"]
            self.loader_state = progress["loader"]
            self.meter.restore(progress["means"])
            self.counts.update(progress["counts"])
        self._describe(finished=False)

    def _claim(self, resume: bool) -> None:
        """A folder holds one run: starting another in it is refused."""
        if not resume and (self.folder / CONFIG).exists():
            raise FileExistsError(
                f"{self.folder} holds a run already; go on with --resume, or choose"
                " another folder"
            )
        if resume and self.checkpoints.steps():
            check_kept(self.folder, self.config)
        dist.barrier()
        if dist.rank() == 0:
            write_config(self.folder, self.config)

    def _lay_out(self) -> None:
        freeze(self.model, self.config.frozen)
        checkpoint_activations(self.model.units(), self.config.activation_checkpointing)
        if self.config.compile:
            for unit in self.model.units():
                unit.compile()
        self.params = {
            name: sum(p.numel() for p in part.parameters())
            for name, part in self.model.parts().items()
        }
        shard(self.model, device=self.device, precision=self.config.precision)

    def fit(self) -> None:
        """Trains to the last step, from wherever the run stands.

        Raises:
            Interrupted: SIGINT or SIGTERM came; a checkpoint of the last whole step has
                been saved.
            Diverged: the gradient stayed not finite for `PATIENCE` updates.
        """
        c = self.config
        steps = self.loader.steps(
            self.loader_state, rank=dist.rank(), world_size=dist.world_size()
        )
        log = Log(
            self.folder,
            keep_until=self.step,
            trackers=c.trackers,
            name=str(self.folder),
        )
        speed = Speed(self.device, self._ceiling())
        self.model.train()
        with (
            ProgressBar(
                self.folder.name, c.steps, completed=self.step, transient=False
            ) as bar,
            _told_to_stop() as told,
        ):
            while self.step < c.steps:
                before = time.perf_counter()
                data = next(steps)
                speed.wait += time.perf_counter() - before
                self._update(data, speed)
                self.step = self.step + 1
                self.loader_state = data.state
                last = self.step == c.steps
                logs = last or self.step % c.log_every == 0
                if logs:
                    self._log(data, log, speed, bar)
                    self.checkpoints.settle()
                if last or (c.validate_every and self.step % c.validate_every == 0):
                    log.write(METRICS, self.step, self.validation())
                    speed.clear()
                stop = (
                    bool(told)
                    if dist.world_size() == 1
                    else logs and not dist.all_true(not told)
                )
                if last or stop or self.step % c.checkpoint_every == 0:
                    self._save()
                if stop:
                    self.checkpoints.finish()
                    words = f"stopped after step {self.step} of {c.steps}"
                    raise Interrupted(
                        f"{words}; run it again to go on (`mm1 train` with --resume)"
                    )
        self._finish()

    def _update(self, data: StepBatches, speed: Speed) -> None:
        """One optimiser step. Every target of the step weighs the same, whatever
        micro-batch or rank it lies on."""
        # What a step draws at random depends on (seed, step, rank) alone, so nothing of
        # it needs saving.
        torch.manual_seed(
            (self.config.seed * 1_000_003 + self.step) * 4099 + dist.rank()
        )
        count = dist.sum_over_ranks(
            torch.tensor(float(sum(b.num_targets for b in data.micro_batches)))
        )
        scale = dist.world_size() / count.clamp(
            min=1.0
        )  # FSDP2 averages gradients over ranks
        for batch in data.micro_batches:
            losses = self.model(move(batch, self.device, non_blocking=True))
            (losses.objective * scale.to(self.device, non_blocking=True)).backward()
            self.meter.add(losses.means)
            speed.flops += sum(self.model.flops(batch).values())
        norm, skipped = self.optimizer.step(self.scheduler.learning_rate(self.step))
        one = torch.ones_like(norm)
        self.meter.add(
            {"grad_norm": MeanMetric(norm, one), "skipped": MeanMetric(skipped, one)}
        )
        self.counts.update(data.counts)
        speed.useful += data.counts.get("useful", 0)
        speed.images += data.counts.get("images", 0)

    def _log(self, data: StepBatches, log: Log, speed: Speed, bar: ProgressBar) -> None:
        """One line of what was learnt since the last line, of the data that it took and
        of the time."""
        learnt = self.meter.read()
        self.bad_updates = (
            self.bad_updates + self.config.log_every if learnt["skipped"] == 1.0 else 0
        )
        if self.bad_updates >= PATIENCE:
            raise Diverged(
                f"step {self.step}: no finite gradient for {self.bad_updates} steps;"
                " lower optimizer.peak_lr"
            )
        lr = self.scheduler.learning_rate(self.step - 1)
        log.write(METRICS, self.step, learnt | {"lr": lr} | self.counts | data.gauges)
        self.counts.clear()
        costs = speed.read()
        log.write(SPEED, self.step, costs)
        details = f"step {self.step}/{self.config.steps}  loss {learnt['loss']:.3f}"
        for work in ("tokens", "images"):
            if rate := costs[f"{work}_per_second"]:
                details += f"  {rate:,.0f} {work}/s"
        bar.update(self.step, details, at_once=self.step == self.config.steps)

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        """Losses on documents that are never trained on: `validation/<source>`, and
        `validation` over all of them."""
        self.model.eval()
        meter = Meter(self.device)
        for batch in self.loader.validation(
            rank=dist.rank(), world_size=dist.world_size()
        ):
            meter.add(self.model(move(batch, self.device)).means)
        self.model.train()
        means = meter.read()
        return {
            n.replace("loss", "validation", 1): v
            for n, v in means.items()
            if n == "loss" or n.startswith("loss/")
        }

    def _save(self) -> None:
        progress = {
            "step": self.step,
            "loader": self.loader_state,
            "means": self.meter.state(),
            "counts": self.counts,
        }
        self.checkpoints.save(self.step, self.model, self.optimizer, progress)

    def _finish(self) -> None:
        """Leaves a folder that can be read without us: weights, scores, a summary."""
        self.checkpoints.finish()
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(self.model, options=whole)
        if dist.rank() == 0:
            write_weights(self.folder, self.lora.merged(state) if self.lora else state)
        # the weights are there before any rank asks for their fingerprint
        dist.barrier()
        if self.config.benchmarks:
            self.model.eval()
            trained = TrainedModel(self.model, self.renderer, self.device)
            evaluate(
                trained,
                self.benchmarks,
                self.config.shots,
                self.folder,
                version=version(self.folder),
            )
        self._describe(finished=True)

    def _ceiling(self) -> float:
        if self.config.precision == "fp32":
            return matmul_ceiling(self.device, torch.float32)
        ceiling = matmul_ceiling(self.device, torch.bfloat16)
        if self.device.type == "cpu" and ceiling < matmul_ceiling(
            self.device, torch.float32
        ):
            dist.say("this CPU only emulates bf16: precision=fp32 is faster here")
        return ceiling

    def _describe(self, *, finished: bool) -> None:
        if dist.rank() != 0:
            return
        self.tokenizer.save(self.folder)
        cuda = self.device.type == "cuda"
        write_json(
            self.folder / SUMMARY,
            {
                "model": configs.path_of(self.config.model),
                "params": self.params,
                "steps": self.config.steps,
                "data": self.loader.describe(),
                "world_size": dist.world_size(),
                "hardware": (
                    torch.cuda.get_device_name()
                    if cuda
                    else f"CPU, {torch.get_num_threads()} threads"
                ),
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                },
                "finished": finished,
            },
        )


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM comes; a second signal ends the process
    at once."""
    told: list[int] = []

    def hear(number: int, _: Any) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)
        dist.say(
            "\nstopping after this step (once more: at once, without a checkpoint)"
        )

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {
        number: signal.signal(number, hear)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
