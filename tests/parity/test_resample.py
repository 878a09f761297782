"""Tables of positions move to another grid as timm moves them
(`resample_abs_pos_embed`): bicubic, antialiased.

timm's default is ours. Without antialias a smaller grid would pick entries instead of
averaging those it merges, as DINOv2's and Hugging Face's code do;
`test_antialias_is_on` shows that the difference is not small.
"""

import pytest
import torch
from parity.recorded import recorded

from mm1.nn.position import interpolate

TIMM = recorded("timm_positions")
CASES = [
    ((4, 4), (6, 6)),
    ((6, 6), (4, 4)),
    ((4, 4), (3, 5)),
    ((5, 9), (7, 7)),
    ((9, 5), (3, 4)),
    ((27, 27), (48, 48)),
]


@pytest.mark.parametrize(("old", "new"), CASES, ids=str)
def test_a_table_moves_as_in_timm(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    key = f"{old[0]}x{old[1]}_to_{new[0]}x{new[1]}"
    ours = interpolate(TIMM.inputs[key].view(*old, 4), new)
    # torch's own resampling on both sides, in two releases: worst measured 0; other
    # CPUs may round otherwise.
    torch.testing.assert_close(
        ours.reshape(1, -1, 4), TIMM.outputs[key], rtol=0, atol=2e-6
    )


def test_a_class_token_is_no_part_of_the_table() -> None:
    """timm keeps it in the table and leaves it as it is; ours has no place in
    `position`."""
    given, moved = (
        side["class_token_4x4_to_6x6"] for side in (TIMM.inputs, TIMM.outputs)
    )
    assert torch.equal(given[:, 0], moved[:, 0])
    ours = interpolate(given[0, 1:].view(4, 4, 4), (6, 6))
    torch.testing.assert_close(
        ours.reshape(-1, 4), moved[0, 1:], rtol=0, atol=2e-6
    )


def test_antialias_is_on() -> None:
    key = "6x6_to_4x4"
    ours = interpolate(TIMM.inputs[key].view(6, 6, 4), (4, 4)).reshape(1, -1, 4)
    assert (ours - TIMM.outputs[f"{key}_without_antialias"]).abs().max() > 0.5
