"""Kernels of a profile are sorted into groups by what they do."""

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MM = "nvjet_tst_256x128_64x4_1x2_h_bz_coopA_NNT"
ENCODER = {1280, 3840, 5120}

# kernel, operation, shapes of operands, group
LAUNCHED = [
    (MM, "aten::mm", ((8192, 3072), (3072, 9216)), "decoder products"),
    (MM, "aten::mm", ((20412, 1280), (1280, 3840)), "encoder products"),
    (
        MM,
        "aten::addmm",
        ((5120,), (20412, 1280), (1280, 5120)),
        "encoder products",
    ),
    ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop", "", (), "attention"),
    ("flash_fwd_kernel", "torch_attn::_varlen_attn", (), "attention"),
    ("conv2d_c1_k1_nhwc_kernel", "aten::convolution", (), "convolution"),
    ("multi_tensor_apply_kernel", "aten::_fused_adamw_", (), "optimizer"),
    ("triton_red_fused_add_mul_3", "", (), "compiled elementwise"),
    ("Memcpy HtoD (Pinned -> Device)", "aten::copy_", (), "copy"),
    ("vectorized_elementwise_kernel", "aten::add", (), "elementwise"),
]


@pytest.fixture
def step_profile(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("step_profile")


@pytest.mark.parametrize(("name", "operation", "shapes", "group"), LAUNCHED)
def test_a_kernel_has_its_group(
    step_profile: Any, name: str, operation: str, shapes: Any, group: str
) -> None:
    kernel = step_profile.Kernel(name, operation, shapes, 0.1)
    assert kernel.group(ENCODER) == group


def test_what_no_kernel_accounts_for_is_idle(step_profile: Any) -> None:
    kernels = [
        step_profile.Kernel(name, operation, shapes, 0.05)
        for name, operation, shapes, _ in LAUNCHED
    ]
    text = step_profile.tables(kernels, 1.0, ENCODER)
    assert "| idle | 500.0 | 50.0% | |" in text
    assert "| encoder products | 100.0 | 10.0% | 2 |" in text
