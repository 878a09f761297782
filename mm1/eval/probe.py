"""Probes: how well images can be classified from an encoder's frozen features (AIM,
arXiv:2401.08541, section 4).

linear      mean over patches -> classes
attentive   a few learnt queries attend to the patches, results concatenated -> classes

A probe is fitted to the train images and scored on the test images. L-BFGS takes all
train images in one batch, in fp32: there is no learning rate to tune, no order of
batches, and the result is reproducible. Only the weight penalty is chosen, on a fifth
of the train images held out for it. (scikit-learn's logistic regression would do for
`linear`, but it is an optional dependency, does not run on GPUs and has nothing for
`attentive`.)
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
from mm1.eval.evaluator import Evaluator, Line, Split
from mm1.infer.encoder import Encoder
from mm1.infer.ranks import gather_from_ranks, split_over_ranks
from mm1.infer.trained_model import TrainedModel
from mm1.ranges import PositiveFloat

NUM_QUERIES = 4
"""Queries of the attentive probe."""
MIN_TRAIN = 10
"""Fewest train images: a fifth of them is held out to choose the penalty."""
MAX_ITERATIONS = 200
"""L-BFGS stops earlier if the gradient vanishes."""


class Probe(Evaluator):
    """Test accuracy of a probe fitted to all train images."""

    metric = "probe accuracy"
    needs = {"encode_patches": "an image encoder"}

    @dataclass(kw_only=True, slots=True)
    class Config(Evaluator.Config):
        data: Classes.Config = field(default_factory=Folders.Config)
        kind: Literal["linear", "attentive"] = "linear"
        """`attentive` keeps the features of all patches of all images in memory."""
        penalties: tuple[PositiveFloat, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
        """Candidates for the factor of the sum of squared weights."""

        def build(self) -> "Probe":
            return self.make()

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if not config.penalties:
            raise ConfigError(
                "penalties is empty: give one, as penalties=[0.01]"
            )
        self.data = config.data.build()

    def shot_counts(self, shots: Sequence[int]) -> Sequence[int]:
        """One evaluation, with all train records."""
        return (len(self.train),)

    def records(self, split: Split) -> Sequence:
        records = self.data.records(split)
        self.chance = 1 / len(self.data.names)
        return records

    def images(self, number: int, num_shots: int) -> Sequence[Image]:
        return (self.data.labelled_image(self.test[number]).image,)

    def evaluate(
        self,
        trained: TrainedModel,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        if len(self.train) < MIN_TRAIN:
            raise ConfigError(
                f"a probe needs at least {MIN_TRAIN} train images, data has"
                f" {len(self.train)}"
            )
        encoder = Encoder.of(trained)
        names = self.data.names
        device = trained.device
        features, labels, _ = self._features(
            encoder, self.train, lambda _: None
        )
        probe = fit_with_best_penalty(
            features.to(device),
            labels.to(device),
            num_classes=len(names),
            num_queries=NUM_QUERIES if self.config.kind == "attentive" else 0,
            penalties=self.config.penalties,
            seed=self.config.seed,
        )
        features, labels, ids = self._features(
            encoder, [self.test[number] for number in self.chosen], advance
        )
        with torch.no_grad():
            guesses = [
                probe(part.to(device)).argmax(-1)
                for part in features.split(1024)
            ]
        return [
            {
                "id": name,
                "prompt": "<image>",
                "answers": [names[label]],
                "prediction": names[guess],
                "score": float(guess == label),
            }
            for name, label, guess in zip(
                ids, labels.tolist(), torch.cat(guesses).tolist(), strict=True
            )
        ]

    def _features(
        self,
        encoder: Encoder,
        records: Sequence,
        advance: Callable[[int], object],
    ) -> tuple[Float[Tensor, "n P E"], Int[Tensor, " n"], list[str]]:
        """Features, labels and ids of all ranks' records; for a linear probe P is 1,
        the mean over patches."""
        rows: list[tuple[Tensor, int, str]] = []
        for part in split_over_ranks(records):
            batch = [self.data.labelled_image(record) for record in part]
            batches = encoder.patches([labelled.image for labelled in batch])
            if self.config.kind == "linear":
                batches = (
                    features.mean(1, keepdim=True) for features in batches
                )
            features = [
                row for batch_features in batches for row in batch_features
            ]
            rows += [
                (row, labelled.label, labelled.id)
                for row, labelled in zip(features, batch, strict=True)
            ]
            advance(len(part))
        features, labels, ids = zip(*gather_from_ranks(rows), strict=True)
        return torch.stack(features), torch.tensor(labels), list(ids)


class Classifier(nn.Module):
    """A probe: features of all patches, or their mean as one patch -> class logits."""

    def __init__(
        self,
        features: Float[Tensor, "n P E"],
        num_classes: int,
        num_queries: int,
        seed: int,
    ) -> None:
        """Features are standardised by the mean and deviation of `features`, the train
        set."""
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

    def forward(
        self, features: Float[Tensor, "n P E"]
    ) -> Float[Tensor, "n classes"]:
        x = (features - self.mean) * self.scale
        if self.query is None:
            return F.linear(x.mean(1), self.weight, self.bias)
        attention = (x @ self.query.T).softmax(1).transpose(1, 2)
        return F.linear((attention @ x).flatten(1), self.weight, self.bias)


def fit_with_best_penalty(
    features: Float[Tensor, "n P E"],
    labels: Int[Tensor, " n"],
    *,
    num_classes: int,
    num_queries: int,
    penalties: Sequence[float],
    seed: int,
) -> Classifier:
    """A classifier fitted to all features, with the penalty that is best on a held-out
    fifth."""
    order = torch.from_numpy(
        np.random.default_rng(seed).permutation(len(labels))
    ).to(labels.device)
    held_out = order[: len(order) // 5]
    rest = order[len(order) // 5 :]

    def fitted(which: Tensor, penalty: float) -> Classifier:
        probe = Classifier(features[which], num_classes, num_queries, seed)
        return fit_classifier(probe, features[which], labels[which], penalty)

    def loss(penalty: float) -> float:
        with torch.no_grad():
            return F.cross_entropy(
                fitted(rest, penalty)(features[held_out]), labels[held_out]
            ).item()

    return fitted(
        order, penalties[0] if len(penalties) == 1 else min(penalties, key=loss)
    )


def fit_classifier(
    classifier: Classifier,
    features: Float[Tensor, "n P E"],
    labels: Int[Tensor, " n"],
    penalty: float,
) -> Classifier:
    """Minimises cross-entropy + penalty * (sum of squared weights and queries)."""
    weights = [p for name, p in classifier.named_parameters() if name != "bias"]
    optimizer = torch.optim.LBFGS(
        classifier.parameters(),
        max_iter=MAX_ITERATIONS,
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
