"""Suites with pictures through lmms-eval: its own command line, where `mm1` is a model
as soon as both are installed.

    lmms-eval --model mm1 --model_args run=runs/tuned --tasks
    pope,mmmu_val,scienceqa_img

It finds the name by the entry point `lmms_eval.models` in our pyproject.toml. It needs
torchvision, so it has an environment of its own (docs/harnesses.md).
"""

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms  # type: ignore[import-not-found]
from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

from mm1.harness.answers import limits
from mm1.harness.pictures import PictureModel
from mm1.infer.ranks import chunked

CHUNK = 256
"""Questions whose pictures are in memory at once."""


def manifest() -> Any:
    """What the entry point gives."""
    return ModelManifest(
        model_id="mm1", simple_class_path=f"{__name__}.{HarnessModel.__name__}"
    )


class HarnessModel(lmms):
    """`--model_args run=FOLDER,tokens_per_batch=N`; `--batch_size` has no effect:
    batches are cut by tokens."""

    is_simple = True

    def __init__(
        self,
        run: str,
        *,
        tokens_per_batch: int | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        self.model = PictureModel.load(
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
        found: list[str] = []
        for part in chunked([request.args for request in requests], CHUNK):
            asked = [(context, self._pictures(*place)) for context, _, *place in part]
            found += self.model.generate(
                asked, [limits(options) for _, options, *_ in part]
            )
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError(
            "lmms-eval 0.7.3 makes texts of log-likelihoods and cannot score them:"
            " generate instead"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("mm1 answers tasks of one round")

    def _pictures(self, show: Any, number: int, task: str, split: str) -> list[Any]:
        return list(show(self.task_dict[task][split][number]) or [])
