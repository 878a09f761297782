"""When a run whose gradient is not finite stops."""

import pytest

from mm1.train.divergence import MAX_SKIPPED_STEPS, Diverged, DivergenceCheck


def test_a_run_stops_after_twenty_skipped_steps_in_a_row() -> None:
    check = DivergenceCheck()
    check.update(10, 10, 1.0)
    check.update(19, 9, 1.0)
    with pytest.raises(Diverged, match="step 20: no finite gradient for 20"):
        check.update(20, 1, 1.0)
    assert MAX_SKIPPED_STEPS == 20


def test_a_step_that_is_not_skipped_begins_the_count_anew() -> None:
    check = DivergenceCheck()
    for step in range(10, 100, 20):
        check.update(step, 10, 1.0)
        check.update(step + 10, 10, 0.9)
