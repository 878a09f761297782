"""The contract of everything a trained model can be evaluated on, the entries of
`Trainer.Config.benchmarks`.

benchmarks/                  Benchmark: a language model answers questions after shots
zero_shot_classification.py  ZeroShotClassification: CLIP picks the nearest class name
probe.py                     Probe: classification from an encoder's frozen features

An evaluator has records, runs a trained model on some of them and returns a scored line
for each. `mm1.eval.evaluate` runs it at several numbers of shots, writes the lines and
reuses what is already there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from mm1 import config as configs
from mm1.config import ConfigError, Configurable
from mm1.data.document import Image
from mm1.infer.trained_model import TrainedModel
from mm1.nn.model import Model
from mm1.ranges import NonNegativeInt, PositiveInt, Seed

Split = Literal["train", "test"]

Line = dict[str, Any]
"""A line of predictions/NAME-4shot.jsonl: at least `id`, `prompt`, `answers`,
`prediction` and `score`."""


class Evaluator(Configurable):
    """Records, each of which gives a line with a score; the evaluator's score is their
    mean."""

    metric: str
    """Name of the score."""
    chance: float | None = None
    """The score of random guessing, where it is known."""
    needs: ClassVar[dict[str, str]] = {}
    """Method that the model must have -> what kind of model has it, for messages."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        num_questions: PositiveInt | None = None
        """Size of the random subset of the test records, drawn by `seed`; None: all. A
        smaller subset is contained in a larger one."""
        shots: tuple[NonNegativeInt, ...] | None = None
        """Numbers of demonstrations in the prompt; None: those of the run."""
        seed: Seed = 0

        def build(self) -> "Evaluator":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config

    def records(self, split: Split) -> Sequence[Any]:
        """The raw records: `test` ones are evaluated, `train` ones learnt from.

        They should be small; their `repr` enters a fingerprint.
        """
        raise NotImplementedError

    def shot_counts(self, shots: Sequence[int]) -> Sequence[int]:
        """The numbers of shots to evaluate at; `shots` are those of the run."""
        return shots if self.config.shots is None else self.config.shots

    def uses_train(self, num_shots: int) -> bool:
        """Are train records needed at this number of shots?"""
        return num_shots > 0

    def num_draws(self, num_shots: int) -> int:
        """How many times the test records are evaluated, with other train records each
        time."""
        return 1

    def describe_zero_shot(self, num_shots: int) -> str | None:
        """What 0 shots mean here, for tables; None at more shots or where there is no
        choice."""
        return None

    def describe_control(self, num_shots: int) -> str | None:
        """What is changed on purpose, for tables; None if nothing is."""
        return None

    def settings(self, num_shots: int) -> str:
        """The part of the config that results at this number of shots depend on."""
        return configs.to_text(replace(self.config, shots=None))

    def evaluate(
        self,
        trained: TrainedModel,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        """The lines of the chosen records in order, the same on every rank.

        Ranks share the work and must call together (see `mm1.infer.ranks`). `advance`
        is called with the number of records that this rank has finished since the last
        call.

        Raises:
            ConfigError: there are too few train records.
        """
        raise NotImplementedError

    def images(self, number: int, num_shots: int) -> Sequence[Image]:
        """The images in the prompt of a test record, for reports."""
        raise NotImplementedError

    def prepare(
        self, num_shots: int, advance: Callable[[int, int], object]
    ) -> None:
        """Runs on all ranks before the first evaluation at this number of shots.

        `advance` is called with how many items are done and how many there are.
        """

    def extra_metrics(self, lines: Sequence[Line]) -> dict[str, float]:
        """Metrics reported next to the score, by name."""
        return {}

    @cached_property
    def test(self) -> Sequence[Any]:
        return self.records("test")

    @cached_property
    def train(self) -> Sequence[Any]:
        return self.records("train")

    @cached_property
    def chosen(self) -> list[int]:
        """Indices of the test records that are evaluated, ascending."""
        order = np.random.default_rng(self.config.seed).permutation(
            len(self.test)
        )
        return sorted(order[: self.config.num_questions].tolist())

    def check(self, model: Model) -> None:
        """Checks that this kind of model can be evaluated.

        Raises:
            ConfigError: it lacks a method of `needs`.
        """
        for method, kind in self.needs.items():
            if not hasattr(model, method):
                raise ConfigError(
                    f"{type(self).__name__} needs {kind}; a run of"
                    f" {type(model).__name__} does not train one"
                )

    def load_records(self, shots: Sequence[int]) -> None:
        """Reads all records that will be needed, so that a missing file shows before
        training and not after it."""
        _ = self.test
        if any(map(self.uses_train, self.shot_counts(shots))):
            _ = self.train
