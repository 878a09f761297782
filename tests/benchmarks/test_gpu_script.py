"""`benchmarks/gpu.sh`, meant for the one call when a GPU is at hand, runs at toy sizes
on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    """Standard output of a script of `benchmarks/`."""
    path = str(ROOT / "benchmarks" / script)
    program = "bash" if script.endswith(".sh") else sys.executable
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [program, path, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_a_step_is_measured_and_profiled(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    run("gpu.sh", "--tiny", "--pieces", "step,profile", "--out", str(note))
    text = note.read_text()
    assert "Failed" not in text
    assert "Left out" not in text
    assert "| graphs compiled | 0 in warm-up, 0 later |" in text
    assert "| decoder products |" in text


def test_what_does_not_fit_the_budget_is_left_out(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    run(
        "gpu.sh",
        "--tiny",
        "--pieces",
        "step",
        "--budget",
        "5",
        "--out",
        str(note),
    )
    text = note.read_text()
    assert "Left out, no time: benchmarks/step.py pretrain_small" in text


@pytest.mark.slow
def test_why_a_piece_failed_is_told_and_the_rest_runs(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    wrong = ["--step", "loader.no_such_key=1"]
    run("gpu.sh", "--pieces", "step", *wrong, "--out", str(note))
    text = note.read_text()
    assert "ConfigError: no key 'loader.no_such_key'" in text
    assert "Done after" in text


@pytest.mark.long
def test_every_piece_runs(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    pieces = "attention,step,profile,plan,peers,generate,fp8,kernels"
    run("gpu.sh", "--tiny", "--pieces", pieces, "--out", str(note))
    text = note.read_text()
    assert "ailed" not in text
    assert "Left out" not in text
    assert text.count("a step, by units timed one by one") == 2
    for heading in (
        "encoder_attention",
        "Whole steps",
        "Planned and measured",
        "measured on 1 x CPU",
        "LLaVA",
        "Generation",
        "float8",
        "depthwise",
    ):
        assert heading in text


def test_the_roofline_counts_the_operations_of_a_sequence() -> None:
    """72 TFLOP in the decoder's products, 40 in the encoder's, and attention."""
    table = run("roofline.py", "pretrain_3b", "loader.batch_size=12")
    (last,) = [line for line in table.splitlines() if "a step of" in line]
    flops = float(
        last.split("a step of ")[1].split(" TFLOP")[0].replace(",", "")
    )
    assert 115 < flops / 12 < 125


@pytest.mark.long
def test_generation_beside_transformers_gives_the_same_answers(
    tmp_path: Path,
) -> None:
    note = tmp_path / "note.md"
    run("gpu.sh", "--tiny", "--pieces", "generate", "--out", str(note))
    assert note.read_text().count("4 of 4 answers the same") == 2


@pytest.mark.long
def test_both_loss_curves_are_printed() -> None:
    table = run("float8.py", "--tiny")
    assert "| step | bf16 | float8 | float8 - bf16 |" in table
    assert "\n| 2 | " in table
