import math

import pytest
import torch

from mm1.nn.position import (
    apply_rotary,
    interpolate,
    llama3_frequencies,
    rotary_embedding,
    sincos,
)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 16, dtype=torch.float64)
    angles = rotary_embedding(
        torch.tensor([3, 8, 103, 108]), 16, base=1e4, dtype=torch.float64
    )
    turned = [apply_rotary(x.expand(4, 1, 16), angles) for x in (q, k)]
    near, far = ((turned[0][i] * turned[1][i + 1]).sum() for i in (0, 2))
    # Angles are computed in fp32: one of 108 radians is known to 4e-6; measured 5e-8.
    torch.testing.assert_close(near, far, atol=1e-5, rtol=0)


def test_rotation_pairs_channels_half_a_head_apart() -> None:
    angles = rotary_embedding(
        torch.tensor([1]), 4, base=100.0, dtype=torch.float32
    )
    turned = apply_rotary(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), angles)[0, 0]
    torch.testing.assert_close(
        turned, torch.tensor([math.cos(1), 0, math.sin(1), 0])
    )


def test_angles_are_fp32_whatever_the_type() -> None:
    """bf16 has 8 bits: it knows an angle of 3,001 radians to 8."""
    exact, rounded = (
        rotary_embedding(torch.tensor([3001]), 16, base=1e4, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(rounded.cos, exact.cos.bfloat16())
    assert torch.equal(rounded.sin, exact.sin.bfloat16())


def test_position_zero_turns_nothing() -> None:
    x = torch.randn(1, 2, 8)
    assert torch.equal(
        apply_rotary(
            x, rotary_embedding(torch.tensor([0]), 8, base=1e4, dtype=x.dtype)
        ),
        x,
    )


def test_sincos_tells_rows_from_columns() -> None:
    table = sincos((3, 5), 16)
    assert table.shape == (3, 5, 16)
    assert torch.equal(table[1, 0, :8], table[1, 4, :8])
    assert torch.equal(table[0, 2, 8:], table[2, 2, 8:])
    assert len(table.flatten(0, 1).unique(dim=0)) == 15


def test_sincos_are_mae_s_waves() -> None:
    """Wavelengths from 2 pi to 10,000 times that: sines, then cosines."""
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02)]
    torch.testing.assert_close(
        sincos((3, 5), 8)[2, 0, :4], torch.tensor(expected)
    )


def test_sincos_refuses_a_width_it_cannot_share() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        sincos((2, 2), 6)


def test_interpolation_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(3, 4, 8)
    assert interpolate(table, (3, 4)) is table


@pytest.mark.parametrize("grid", [(48, 48), (27, 40), (12, 9)])
def test_interpolation_keeps_a_constant_and_a_slope(
    grid: tuple[int, int],
) -> None:
    slope = torch.linspace(0, 1, 27)[:, None].expand(27, 27)
    resized = interpolate(torch.stack((torch.ones(27, 27), slope), -1), grid)
    assert resized.shape == (*grid, 2)
    torch.testing.assert_close(resized[..., 0], torch.ones(grid))
    assert (resized[1:, :, 1] > resized[:-1, :, 1]).all()


def test_llama3_slows_what_turns_slowly_and_keeps_what_turns_fast() -> None:
    turns = torch.tensor(
        [10.0, 4.0, 2.5, 1.0, 0.5]
    )  # in the original 1,000 tokens
    frequencies = turns * 2 * math.pi / 1000
    ratio = llama3_frequencies(frequencies, (8.0, 1.0, 4.0, 1000)) / frequencies
    # Half-way between 1 and 4 turns: half as it was, half slowed by 8.
    torch.testing.assert_close(
        ratio, torch.tensor([1, 1, (1 + 1 / 8) / 2, 1 / 8, 1 / 8])
    )


def test_llama3_scaling_turns_by_the_slowed_angles() -> None:
    positions = torch.tensor([0, 1, 700])
    scaling = (8.0, 1.0, 4.0, 64)
    plain, scaled = (
        rotary_embedding(
            positions, 16, base=1e4, dtype=torch.float32, llama3_scaling=s
        )
        for s in (None, scaling)
    )
    torch.testing.assert_close(
        scaled.cos[:, 0, 0], plain.cos[:, 0, 0]
    )  # 10 turns in 64 tokens
    slowest = 700 * 1e4 ** (-14 / 16) / 8
    assert scaled.cos[2, 0, 7].item() == pytest.approx(
        math.cos(slowest), abs=1e-6
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [((27, 27), (48, 48)), ((16, 24), (40, 32)), ((3, 5), (1, 1))],
)
def test_interpolation_takes_any_grid_to_any_grid(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    """378 -> 672 pixels is 27 -> 48 patches; the mean of a table hardly moves."""
    table = torch.randn(*old, 64) + 3
    resized = interpolate(table, new)
    assert resized.shape == (*new, 64)
    assert resized.isfinite().all()
    # Unit noise about 3, its edges weighing a little more: measured worst over 200
    # seeds 0.13, from 3 x 5 to 1 x 1.
    assert abs(resized.mean() - 3) < 0.3
