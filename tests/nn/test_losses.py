import math

import pytest
import torch
import torch.nn.functional as F

from mm1.nn.losses import next_token_loss


def inputs(
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(13, 8, dtype=dtype)
    head = torch.randn(29, 8, dtype=dtype)
    return (
        hidden.requires_grad_(),
        head.requires_grad_(),
        torch.randint(29, (13,)),
    )


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 5, 13, 100])
def test_next_token_equals_torchs_cross_entropy(
    z_loss: float, rows: int
) -> None:
    hidden, head, targets = inputs()
    logits = hidden @ head.T
    expected = (
        F.cross_entropy(logits, targets, reduction="sum")
        + z_loss * logits.logsumexp(-1).square().sum()
    )
    given = next_token_loss(
        hidden, head, targets, z_loss=z_loss, logits_per_chunk=29 * rows
    )
    # fp32 sums in another order; measured 2e-7 of the loss, 2e-5 on gradients of up to
    # 100.
    torch.testing.assert_close(given.objective, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        given.nll, F.cross_entropy(logits, targets, reduction="none").detach()
    )
    torch.testing.assert_close(given.log_sum_exp, logits.logsumexp(-1).detach())
    assert torch.equal(given.hit, logits.argmax(-1) == targets)
    expected_gradients = torch.autograd.grad(3 * expected, (hidden, head))
    for a, b in zip(
        torch.autograd.grad(3 * given.objective, (hidden, head)),
        expected_gradients,
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_the_objective_has_a_gradient() -> None:
    given = next_token_loss(*inputs())
    assert [x.requires_grad for x in given] == [True, False, False, False]


def test_a_frozen_head_and_frozen_features_cost_no_gradient() -> None:
    hidden, head, targets = inputs()
    next_token_loss(hidden, head.detach(), targets).objective.backward()
    assert hidden.grad is not None
    next_token_loss(hidden.detach(), head, targets).objective.backward()
    assert head.grad is not None
    with torch.no_grad():
        assert not next_token_loss(
            hidden, head, targets
        ).objective.requires_grad


def test_no_target_gives_zero_and_zero_gradients() -> None:
    hidden, head, targets = inputs()
    objective = next_token_loss(hidden[:0], head, targets[:0]).objective
    objective.backward()
    assert objective.item() == 0
    assert head.grad is not None
    assert not head.grad.any()


def test_z_loss_of_equal_logits_is_as_computed_by_hand() -> None:
    given = next_token_loss(
        torch.zeros(1, 4),
        torch.zeros(49_152, 4),
        torch.tensor([0]),
        z_loss=1e-4,
    )
    assert (given.objective - given.nll.sum()).item() == pytest.approx(
        1e-4 * math.log(49_152) ** 2, rel=1e-4
    )
    assert 1e-4 * math.log(49_152) ** 2 == pytest.approx(0.0116698, abs=1e-7)


def test_softmax_is_exact_in_low_precision() -> None:
    hidden, head, targets = inputs(torch.bfloat16)
    given = next_token_loss(hidden, head, targets)
    assert given.nll.dtype == torch.float32
    exact = next_token_loss(hidden.float(), head.float(), targets)
    # Logits of size up to 8 are rounded to bf16: half a unit in the last place is
    # 0.016; measured 0.008.
    torch.testing.assert_close(given.nll, exact.nll, atol=0.04, rtol=0)
