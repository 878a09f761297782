"""The scripts and files of `mm1 launch`, as they are for one command each in `golden/`.

`python -m pytest tests/launch/test_templates.py --update-golden` writes them anew.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mm1.cli import parse_arguments
from mm1.config import ConfigError

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "here.sh": "pretrain_small --out /data/runs/small --nodes 2 --gpus-per-node 0"
    " --python /opt/mm1/bin/python",
    "slurm.sh": "pretrain_3b optimizer.peak_lr=3e-5 --out /data/runs/3b --on slurm"
    " --nodes 16 --gpu h100 --time 24:00:00 --option partition=gpu --option exclusive"
    " --env WANDB_PROJECT='three billion' --python /opt/mm1/bin/python",
    "slurm-container.sh": "pretrain_3b --out /data/runs/3b --on slurm --nodes 2"
    " --image ghcr.io/me/mm1:1 --mount /lustre/me:/data --shutdown-timeout 300",
    "skypilot.yaml": "pretrain_3b --out /data/runs/3b --on skypilot --nodes 2"
    " --gpu H100 --mount mm1-data:/data --mount s3://raw/pages:/raw"
    " --option infra=k8s --option use_spot=true",
    "jobset.yaml": "pretrain_3b --out /data/runs/3b --on kubernetes --nodes 4"
    " --image ghcr.io/me/mm1:1 --mount mm1-data:/data --max-restarts 5"
    " --option cloud.google.com/gke-accelerator=nvidia-h100-80gb",
}


def printed(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    words = ["mm1", "launch", *shlex.split(command), "--print"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(
        Path, "cwd", classmethod(lambda _: Path("/home/me/mm1"))
    )
    arguments = parse_arguments()
    assert not arguments.command(arguments)
    return capsys.readouterr().out


def shell_of(name: str) -> str:
    """What a shell reads of a golden file."""
    text = (GOLDEN / name).read_text()
    if name.endswith(".sh"):
        return text
    job = yaml.safe_load(text)
    if job.get("kind") != "JobSet":
        return job["run"]
    (replicated,) = job["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][:2] == ["bash", "-c"]
    return container["command"][2]


@pytest.mark.parametrize("name", COMMANDS)
def test_matches_golden(
    name: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = printed(COMMANDS[name], capsys, monkeypatch)
    if request.config.getoption("--update-golden"):
        (GOLDEN / name).write_text(now)
    assert (GOLDEN / name).read_text() == now


def test_no_golden_is_left_over() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_is_a_shell_script_without_faults(name: str, tmp_path: Path) -> None:
    """By bash itself and, where it is installed, by shellcheck."""
    text = shell_of(name)
    parts = [text]
    if (
        "<< 'END'" in text
    ):  # to bash and shellcheck the inner script is a string
        parts.append(text.split("<< 'END'\n")[1].split("\nEND\n")[0])
    for number, part in enumerate(parts):
        path = tmp_path / f"{number}.sh"
        path.write_text(part)
        subprocess.run(["bash", "-n", str(path)], check=True)
        if shutil.which("shellcheck"):
            # SC2154: variables of the scheduler and of the outer script.
            words = [
                "shellcheck",
                "--shell=bash",
                "--severity=warning",
                "--exclude=SC2154",
                str(path),
            ]
            done = subprocess.run(words, capture_output=True, text=True)
            assert not done.returncode, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pretrain_3b --out r --nodes 0", "--nodes 0"),
        ("pretrain_3b --out s3://bucket/r --on slurm", "all of them see"),
        ("pretrain_3c --out r", "did you mean 'pretrain_3b'"),
        ("pretrain_3b optimiser.lr=1 --out r", "optimiser"),
        ("pretrain_3b --out r --on here --time 1:00", "only with slurm"),
        ("pretrain_3b --out r --on slurm --option =gpu", "NAME=VALUE"),
        ("pretrain_3b --out r --on slurm --env PATH", "NAME=VALUE"),
        ("pretrain_3b --out r --on slurm --option nodes=3", "--nodes"),
        ("pretrain_3b --out r --on slurm --mount /data", "SOURCE:PATH"),
        ("pretrain_3b --out /r --on kubernetes --image i", "--mount"),
        ("pretrain_3b --out /r/a --on kubernetes --mount c:/r", "--image"),
        (
            "pretrain_3b --out /r/a --on kubernetes --mount s3://c:/r --image i",
            "claim",
        ),
        ("pretrain_3b --out /r/a --on skypilot --mount c:/r", "--gpu"),
        ("pretrain_3b --out r --nodes 3 --gpus-per-node 1", "3 ranks"),
    ],
)
def test_impossible_jobs_are_refused(
    words: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=message):
        printed(words, capsys, monkeypatch)
    assert not capsys.readouterr().out
