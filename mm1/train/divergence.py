"""Divergence: a gradient that stays non-finite stops the run."""

from mm1.config import UserError

MAX_SKIPPED_STEPS = 20
"""After so many steps in a row without a finite gradient a run stops."""


class Diverged(UserError):
    """The gradient stayed non-finite."""

    exit_code = 3


class DivergenceCheck:
    """Counts skipped updates in a row."""

    def __init__(self) -> None:
        self.skipped_steps = 0

    def update(self, step: int, num_steps: int, skipped: float) -> None:
        """Takes the share of updates that were skipped in the last `num_steps` steps.

        Raises:
            Diverged: none was done for `MAX_SKIPPED_STEPS`.
        """
        self.skipped_steps = (
            self.skipped_steps + num_steps if skipped == 1.0 else 0
        )
        if self.skipped_steps >= MAX_SKIPPED_STEPS:
            raise Diverged(
                f"step {step}: no finite gradient for {self.skipped_steps} steps;"
                " lower optimizer.peak_lr"
            )
