"""A torchvision that does not fit torch breaks transformers, and so the import and the
export of weights.

On Linux x86-64, torchvision's wheels are made for a CUDA build of torch. Beside a CPU
build its import fails, and then transformers, which looks for it, fails even for a
Llama. timm, open_clip and others bring it along: see `recorded.py`.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REMEDY = (
    "torchvision is installed, but does not work with this torch ({torch}):"
    " {error}\ntransformers cannot be imported beside it. Remedy: pip uninstall"
    " torchvision; what needs it (timm, open_clip, lmms-eval) goes into an environment"
    " of its own, as at the top of tests/parity/record_references.py."
)


def complaint(*folders: Path) -> str | None:
    """Why torchvision cannot be used, with `folders` looked into first; None where it
    works."""
    path = os.pathsep.join(
        [*map(str, folders), os.environ.get("PYTHONPATH", "")]
    ).strip(os.pathsep)
    # A process of its own: a failed import would leave half of torchvision behind in
    # this one.
    command = [sys.executable, "-W", "ignore", "-c", "import torchvision"]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    if run.returncode == 0:
        return None
    return REMEDY.format(
        torch=torch.__version__, error=run.stderr.strip().splitlines()[-1]
    )


def test_no_torchvision_or_one_that_works() -> None:
    if importlib.util.find_spec("torchvision") and (said := complaint()):
        pytest.fail(said, pytrace=False)


def test_the_guard_sees_a_torchvision_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    said = complaint(tmp_path)
    assert said is not None
    assert "torchvision::nms does not exist" in said
    assert "pip uninstall torchvision" in said
    (tmp_path / "torchvision.py").write_text("")
    assert complaint(tmp_path) is None
