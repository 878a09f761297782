"""What a run is asked when it has finished: the role of everything in
`Trainer.Config.benchmarks`.

Benchmark   questions that a language model answers in words, after shots     mm1/eval/benchmarks
ZeroShot    pictures that CLIP names by the nearest of given texts            mm1/eval/zero_shot.py

An exam has records, asks a trained model about those that are chosen, and gives one
scored line for each. What is written, and that nothing is asked twice, is
`mm1.eval.evaluate`'s, alike for all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch.distributed

from mm1 import config as configs
from mm1 import dist
from mm1.config import ConfigError, Configurable
from mm1.data.document import Image
from mm1.infer.trained import Trained
from mm1.nn.model import Model

Split = Literal["train", "test"]

Line = dict[str, Any]
"""A question as predictions/NAME-Nshot.jsonl shows it: at least `id`, `prompt`,
`answers`, `prediction` and `score`."""

CHUNK = 512
"""Questions of a rank whose pictures are in memory at once."""


class Evaluator(Configurable):
    """Records of which some are asked; each gives a line with a score, and their mean
    is the exam's."""

    metric: str
    """What a score is."""
    chance: float | None = None
    """The score of blind guessing, where it is known."""
    needs: ClassVar[dict[str, str]] = {}
    """Methods of the model that it calls -> what a model that has them is."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        num_questions: int | None = None
        """Test records that are asked, drawn by `seed`; None: all. Fewer are a subset
        of more."""
        shots: tuple[int, ...] | None = None
        """Demonstrations in the prompt; None: as many as the run asks everything
        with."""
        seed: int = 0

        def build(self) -> "Evaluator":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config

    def records(self, split: Split) -> Sequence[Any]:
        """The raw records: of `test`, to be asked; of `train`, to learn from. Small:
        their `repr` is a fingerprint."""
        raise NotImplementedError

    def plan(self, shots: Sequence[int]) -> Sequence[int]:
        """After how many train records it is asked, each time anew; `shots` are those
        of the run."""
        return shots if self.config.shots is None else self.config.shots

    def learns(self, num_shots: int) -> bool:
        """Does it need train records at this number of shots?"""
        return num_shots > 0

    def num_draws(self, num_shots: int) -> int:
        """How often everything is asked, each time after other train records."""
        return 1

    def zero_shot(self, num_shots: int) -> str | None:
        """What 0 shots mean here, in words for tables; None at more, and where there is
        but one meaning."""
        return None

    def settings(self, num_shots: int) -> str:
        """Whatever of the config the answers at this number of shots depend on."""
        return configs.to_text(replace(self.config, shots=None))

    def ask(
        self,
        trained: Trained,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        """The lines of the chosen records, in their order and on every rank the same.

        Ranks share the work (`share`, `gather`) and call together; `advance` is told
        how many were answered.

        Raises:
            ConfigError: there are too few train records.
        """
        raise NotImplementedError

    def pictures(self, number: int, num_shots: int) -> Sequence[Image]:
        """What the question about a test record shows, for people to look at."""
        raise NotImplementedError

    def prepare(self, num_shots: int, advance: Callable[[int, int], object]) -> None:
        """Done by all ranks before the first question at this number of shots;
        `advance` is told seen and total."""

    def figures(self, lines: Sequence[Line]) -> dict[str, float]:
        """Further numbers by name, reported beside the score."""
        return {}

    @cached_property
    def test(self) -> Sequence[Any]:
        return self.records("test")

    @cached_property
    def train(self) -> Sequence[Any]:
        return self.records("train")

    @cached_property
    def chosen(self) -> list[int]:
        """Which test records are asked, in the order of the records."""
        order = np.random.default_rng(self.config.seed).permutation(len(self.test))
        return sorted(order[: self.config.num_questions].tolist())

    def check(self, model: Model) -> None:
        """Raises ConfigError where this model cannot be asked."""
        for method, kind in self.needs.items():
            if not hasattr(model, method):
                raise ConfigError(
                    f"{type(self).__name__} asks {kind}; a run of"
                    f" {type(model).__name__} trains none"
                )

    def load(self, shots: Sequence[int]) -> None:
        """Reads all records that `ask` will need: a missing file must show before a
        run, not after it."""
        _ = self.test, self.train if any(map(self.learns, self.plan(shots))) else None


def share(items: Sequence[Any], size: int = CHUNK) -> list[Sequence[Any]]:
    """This rank's items, one by one in turn, in chunks; every rank has as many chunks,
    some of them empty."""
    mine = items[dist.rank() :: dist.world_size()]
    most = -(-len(items) // dist.world_size())
    return [mine[start : start + size] for start in range(0, most, size)]


def gather(found: list[Any]) -> list[Any]:
    """What all ranks found for the items that `share` dealt out, in the order of the
    items."""
    hands: list[list[Any]] = [found] * dist.world_size()
    if dist.world_size() > 1:
        torch.distributed.all_gather_object(hands, found)
    return [hands[i % len(hands)][i // len(hands)] for i in range(sum(map(len, hands)))]
