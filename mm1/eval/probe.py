"""Probes: how much of its pictures' classes a frozen encoder's features tell (AIM,
arXiv:2401.08541, section 4).

linear      mean over patches -> classes
attentive   a few learnt queries attend to the patches -> what they found, side by side -> classes

The train pictures fit a probe, the test pictures score it. L-BFGS sees all train
pictures at once, in fp32: no rate to tune, no order of batches, the same result each
time. Only the penalty on weights is chosen, by a fifth of the train pictures that is
left out at first. (scikit-learn's logistic regression would do for `linear`, but it is
an optional dependency, knows no GPU and has nothing for `attentive`.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.eval.classes import Classes
from mm1.eval.classes.folders import Folders
from mm1.eval.evaluator import Evaluator, Line, Split, gather, share
from mm1.infer.encoder import Encoder
from mm1.infer.trained import Trained

NUM_QUERIES = 4
"""Of the attentive probe."""
LEAST_TRAIN = 10
"""Pictures to learn from, at least: a fifth of them is left out to choose the
penalty."""
MOST_ITERATIONS = 200
"""Of L-BFGS; it stops before where the gradient is flat."""


class Probe(Evaluator):
    """Accuracy on the test pictures of a probe that has learnt from all train
    pictures."""

    metric = "probe accuracy"
    needs = {"encode_patches": "an image encoder"}

    @dataclass(kw_only=True, slots=True)
    class Config(Evaluator.Config):
        data: Classes.Config = field(default_factory=Folders.Config)
        kind: Literal["linear", "attentive"] = "linear"
        """The attentive one holds the features of all patches of all pictures in
        memory."""
        penalties: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
        """On the sum of squared weights; one is chosen."""

        def build(self) -> "Probe":
            return self.make()

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if not config.penalties:
            raise ConfigError("penalties is empty: give one, as penalties=[0.01]")
        self.data = config.data.build()

    def plan(self, shots: Sequence[int]) -> Sequence[int]:
        """Once, after all train records."""
        return (len(self.train),)

    def records(self, split: Split) -> Sequence:
        records = self.data.records(split)
        self.chance = 1 / len(self.data.names)
        return records

    def pictures(self, number: int, num_shots: int) -> Sequence[Image]:
        return (self.data.labelled(self.test[number]).image,)

    def ask(
        self,
        trained: Trained,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        if len(self.train) < LEAST_TRAIN:
            raise ConfigError(
                f"a probe learns from at least {LEAST_TRAIN} train pictures, data has"
                f" {len(self.train)}"
            )
        encoder = Encoder.of(trained)
        names = self.data.names
        device = trained.device
        features, labels, _ = self._look(encoder, self.train, lambda _: None)
        probe = choose(
            features.to(device),
            labels.to(device),
            num_classes=len(names),
            num_queries=NUM_QUERIES if self.config.kind == "attentive" else 0,
            penalties=self.config.penalties,
            seed=self.config.seed,
        )
        features, labels, ids = self._look(
            encoder, [self.test[number] for number in self.chosen], advance
        )
        with torch.no_grad():
            found = torch.cat(
                [probe(part.to(device)).argmax(-1) for part in features.split(1024)]
            ).tolist()
        return [
            {
                "id": name,
                "prompt": "<image>",
                "answers": [names[label]],
                "prediction": names[guess],
                "score": float(guess == label),
            }
            for name, label, guess in zip(ids, labels.tolist(), found, strict=True)
        ]

    def _look(
        self, encoder: Encoder, records: Sequence, advance: Callable[[int], object]
    ) -> tuple[Float[Tensor, "n P E"], Int[Tensor, " n"], list[str]]:
        """Features, labels and names of pictures, by all ranks; for a linear probe the
        mean in place of all patches."""
        found: list[tuple[Tensor, int, str]] = []
        for part in share(records):
            pictures = [self.data.labelled(record) for record in part]
            batches = encoder.patches([each.image for each in pictures])
            if self.config.kind == "linear":
                batches = (features.mean(1, keepdim=True) for features in batches)
            rows = [row for features in batches for row in features]
            found += [
                (row, each.label, each.id)
                for row, each in zip(rows, pictures, strict=True)
            ]
            advance(len(part))
        features, labels, ids = zip(*gather(found), strict=True)
        return torch.stack(features), torch.tensor(labels), list(ids)


class Classifier(nn.Module):
    """Features, of all patches or their mean alone, -> scores of classes."""

    def __init__(
        self,
        features: Float[Tensor, "n P E"],
        num_classes: int,
        num_queries: int,
        seed: int,
    ) -> None:
        """Features are brought to mean 0 and deviation 1, as they have it in these,
        which it is to learn from."""
        super().__init__()
        dim = features.shape[-1]
        device = features.device
        deviation, self.mean = torch.std_mean(features, (0, 1))
        self.scale = 1 / (deviation + 1e-6)
        draw = torch.Generator().manual_seed(seed)
        queries = torch.randn(num_queries, dim, generator=draw) * dim**-0.5
        self.query = nn.Parameter(queries.to(device)) if num_queries else None
        self.weight = nn.Parameter(
            torch.zeros(num_classes, max(1, num_queries) * dim, device=device)
        )
        self.bias = nn.Parameter(torch.zeros(num_classes, device=device))

    def forward(self, features: Float[Tensor, "n P E"]) -> Float[Tensor, "n classes"]:
        x = (features - self.mean) * self.scale
        if self.query is None:
            return F.linear(x.mean(1), self.weight, self.bias)
        looks_at = (x @ self.query.T).softmax(1).transpose(1, 2)
        return F.linear((looks_at @ x).flatten(1), self.weight, self.bias)


def choose(
    features: Float[Tensor, "n P E"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    num_queries: int,
    penalties: Sequence[float],
    seed: int,
) -> Classifier:
    """A classifier fitted to all features, with the penalty of least loss on a fifth
    when fitted to the rest."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels))).to(
        labels.device
    )
    left_out = order[: len(order) // 5]
    rest = order[len(order) // 5 :]

    def fitted(which: Tensor, penalty: float) -> Classifier:
        made = Classifier(features[which], num_classes, num_queries, seed)
        return fit(made, features[which], labels[which], penalty)

    def loss(penalty: float) -> float:
        with torch.no_grad():
            return F.cross_entropy(
                fitted(rest, penalty)(features[left_out]), labels[left_out]
            ).item()

    return fitted(
        order, penalties[0] if len(penalties) == 1 else min(penalties, key=loss)
    )


def fit(
    classifier: Classifier,
    features: Float[Tensor, "n P E"],
    labels: Int[Tensor, " n"],
    penalty: float,
) -> Classifier:
    """Minimises cross-entropy + penalty * (sum of squared weights and queries)."""
    weights = [p for name, p in classifier.named_parameters() if name != "bias"]
    optimizer = torch.optim.LBFGS(
        classifier.parameters(),
        max_iter=MOST_ITERATIONS,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(classifier(features), labels)
        value = value + penalty * sum(w.square().sum() for w in weights)
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return classifier
