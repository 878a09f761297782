"""Multimodal tasks through lmms-eval and its own command line, where `mm1` is a model
once both are installed.

    lmms-eval --model mm1 --model_args run=runs/tuned --tasks pope,mmmu_val

It finds the model by the entry point `lmms_eval.models` in our pyproject.toml. It needs
torchvision, so it has an environment of its own (docs/harnesses.md).
"""

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

from mm1 import config as configs
from mm1.harness.image_text import ImageTextModel
from mm1.harness.limits import generation_limits
from mm1.infer.ranks import chunked

QUESTIONS_PER_CHUNK = 256
"""Questions whose images are in memory at once."""


def manifest() -> Any:
    """The target of the entry point."""
    return ModelManifest(
        model_id="mm1", simple_class_path=f"{__name__}.{LmmsEvalModel.__name__}"
    )


class LmmsEvalModel(lmms):
    """`--model_args run=FOLDER,tokens_per_batch=N,trust=MODULE`; `--batch_size` has no
    effect: batches are limited by tokens."""

    is_simple = True

    def __init__(
        self,
        run: str,
        *,
        tokens_per_batch: int | None = None,
        trust: str | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        if trust is not None:
            configs.trust(trust)
        self.model = ImageTextModel.load(
            run, device=device, tokens_per_batch=tokens_per_batch
        )
        self.device = self.model.predictor.device

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world_size(self) -> int:
        return self._world_size

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        answers: list[str] = []
        arguments = [request.args for request in requests]
        for chunk in chunked(arguments, QUESTIONS_PER_CHUNK):
            questions = [
                (context, self._images(*place)) for context, _, *place in chunk
            ]
            limits = [generation_limits(options) for _, options, *_ in chunk]
            answers += self.model.generate(questions, limits)
        return answers

    def loglikelihood(
        self, requests: Sequence[Any]
    ) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            "lmms-eval 0.7.3 turns log-likelihoods into text and cannot score them: use"
            " generation tasks"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("mm1 supports single-round tasks only")

    def _images(
        self, to_visual: Any, number: int, task: str, split: str
    ) -> list[Any]:
        return list(to_visual(self.task_dict[task][split][number]) or [])
