"""Text tasks through lm-evaluation-harness (pip install 'mm1[harness]') and its own
command line, where `mm1` is a model.

    python -m mm1.harness.lm_eval --model mm1 --model_args run=runs/first \\
        --tasks arc_easy piqa

The harness has no entry point for models of other packages, so its command `lm_eval` is
started from here, after registering ours; all options are its own. In Python, importing
this module is enough:

    import mm1.harness.lm_eval
    lm_eval.simple_evaluate(
        model="mm1", model_args={"run": "runs/first"}, tasks=["arc_easy"]
    )
"""

import sys
from collections.abc import Sequence
from typing import Any

from mm1 import config as configs
from mm1.config import UserError
from mm1.extras import needs_extra
from mm1.harness.text import TextModel

try:
    with needs_extra("harness", "mm1.harness.lm_eval"):
        from lm_eval.__main__ import cli_evaluate  # type: ignore[import-not-found]
        from lm_eval.api.model import LM  # type: ignore[import-not-found]
        from lm_eval.api.registry import (  # type: ignore[import-not-found]
            register_model,
        )
except UserError as error:
    if __name__ != "__main__":
        raise
    print(f"mm1: {error}", file=sys.stderr)
    sys.exit(2)


@register_model("mm1")
class LMEvalModel(LM):
    """`--model_args run=FOLDER,max_length=N,tokens_per_batch=N,trust=MODULE`; all but
    the first are optional, see `TextModel.load` and `mm1.config.trust`.

    `--batch_size` has no effect: batches are limited by tokens.
    """

    def __init__(
        self,
        run: str,
        *,
        max_length: int | None = None,
        tokens_per_batch: int | None = None,
        trust: str | None = None,
        device: str | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
    ) -> None:
        super().__init__()
        if trust is not None:
            configs.trust(trust)
        self.model = TextModel.load(
            run,
            device=device,
            max_length=max_length,
            tokens_per_batch=tokens_per_batch,
        )

    def loglikelihood(
        self, requests: Sequence[Any]
    ) -> list[tuple[float, bool]]:
        return self.model.log_likelihoods(
            [request.args for request in requests]
        )

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return self.model.rolling_log_likelihoods(
            [request.args[0] for request in requests]
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return self.model.generate([request.args for request in requests])


if __name__ == "__main__":
    try:
        cli_evaluate()
    except (UserError, FileNotFoundError) as error:
        print(f"mm1: {error}", file=sys.stderr)
        sys.exit(2)
