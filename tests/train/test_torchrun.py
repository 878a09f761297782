"""`torchrun`, as on a cluster: two agents over one folder or two, ranks that are killed
and started again."""

import json
import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from worlds import make_world, text_only

from mm1 import config as configs
from mm1.train.shutdown import INTERRUPTED_CODE

pytestmark = pytest.mark.long
PATIENCE = 240.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config.json of a run on two ranks."""
    folder = tmp_path_factory.mktemp("world")
    made = text_only(
        make_world(folder / "world"), steps=60, log_every=4, checkpoint_every=4
    )
    made.loader.micro_batch_size = 1
    (folder / "run.json").write_text(json.dumps(configs.to_json(made)))
    return folder / "run.json"


def torchrun(
    folder: Path, config: Path, *options: str, mm1: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Starts it in a folder; what it says is in `said.txt` there."""
    words = (sys.executable, "-m", "torch.distributed.run", *options)
    command = ("-m", "mm1.cli", "train", str(config), "--out", "run", *mm1)
    folder.mkdir(exist_ok=True)
    with (folder / "said.txt").open("a") as said:
        return subprocess.Popen(
            [*words, *command],
            cwd=folder,
            stdout=said,
            stderr=said,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def agents(folders: list[Path], config: Path) -> list[int]:
    """Two agents with one rank each, which meet on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        torchrun(
            folder,
            config,
            "--nnodes=2",
            "--nproc-per-node=1",
            f"--node-rank={number}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{port}",
        )
        for number, folder in enumerate(folders)
    ]
    return [agent.wait(PATIENCE) for agent in started]


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def test_two_agents_share_a_folder(config: Path, tmp_path: Path) -> None:
    assert agents([tmp_path, tmp_path], config) == [0, 0], said(tmp_path)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"]


def test_two_agents_with_a_folder_each_are_refused(
    config: Path, tmp_path: Path
) -> None:
    """On both, in the same line; nothing is left in either folder."""
    folders = [tmp_path / "one", tmp_path / "two"]
    assert 0 not in agents(folders, config)
    lines = [
        [line for line in said(each).splitlines() if line.startswith("mm1:")]
        for each in folders
    ]
    assert len(lines[0]) == 1
    assert lines[0] == lines[1]
    assert "is not shared: rank" in lines[0][0]
    assert socket.gethostname() in lines[0][0]
    for each in folders:
        assert "mm1/train" not in said(each)
        assert not (each / "run").exists()


def rank_processes(folder: Path) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            there = os.readlink(place / "cwd")
        except OSError:
            continue
        if b"mm1.cli" in words and b"-u" in words and there == str(folder):
            found.append(int(place.name))
    return found


def wait_for_checkpoint(
    process: subprocess.Popen[str], folder: Path, number: int
):
    """Until there are checkpoints after that of step `number`; returns the newest."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        steps = [
            int(path.name[5:])
            for path in folder.glob("run/checkpoints/step-*")
            if re.fullmatch(r"step-\d+", path.name)
        ]
        if max(steps, default=-1) > number:
            return max(steps)
        time.sleep(0.02)
    raise AssertionError(said(folder))


def test_killed_ranks_are_started_again_and_go_on_to_the_same_bytes(
    config: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    options = ("--standalone", "--nproc-per-node=2", "--max-restarts=3")
    whole = torchrun(tmp_path / "whole", config, *options, mm1=("--resume",))
    assert whole.wait(PATIENCE) == 0, said(tmp_path / "whole")
    folder = tmp_path / "killed"
    process = torchrun(folder, config, *options, mm1=("--resume",))
    step = -1
    for _ in range(3):
        step = wait_for_checkpoint(process, folder, step)
        os.kill(rng.choice(rank_processes(folder)), signal.SIGKILL)
    assert process.wait(PATIENCE) == 0, said(folder)
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (folder / "run" / name).read_bytes() == (
            tmp_path / "whole" / "run" / name
        ).read_bytes()
    assert "Traceback" not in said(folder)


def test_a_signal_to_torchrun_saves_the_step(
    config: Path, tmp_path: Path
) -> None:
    process = torchrun(
        tmp_path,
        config,
        *("--standalone", "--nproc-per-node=2"),
        mm1=("checkpoint_every=1000", "steps=100000", "log_every=100000"),
    )
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "run" / "summary.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 1  # torchrun's own
    assert "mm1: saved at step" in said(tmp_path)
    assert len(list(tmp_path.glob("run/checkpoints/step-*"))) == 1
    assert not rank_processes(tmp_path)
    assert INTERRUPTED_CODE not in (0, 1, 2)


def test_a_terminal_that_closes_leaves_a_checkpoint(
    config: Path, tmp_path: Path
) -> None:
    """Whatever is still written to it."""
    words = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    )
    command = ("-m", "mm1.cli", "train", str(config), "--out", "run")
    number, terminal = pty.fork()
    if number == 0:
        os.chdir(tmp_path)
        os.environ["OMP_NUM_THREADS"] = "1"
        forever = ("steps=100000", "checkpoint_every=100000")
        os.execv(sys.executable, (sys.executable, *words, *command, *forever))
    end = time.monotonic() + PATIENCE
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes()):
        assert time.monotonic() < end
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(number, 0)
    assert os.waitstatus_to_exitcode(status) == 1  # torchrun's own
    assert len(list(tmp_path.glob("run/checkpoints/step-*"))) == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]
)
def test_a_signal_to_every_process_of_a_job_saves_the_step(
    number: signal.Signals, config: Path, tmp_path: Path
) -> None:
    """As Slurm sends it: to workers, planner and fork server, too."""
    words = ("steps=100000", "checkpoint_every=1000", "loader.workers=2")
    with (tmp_path / "said.txt").open("w") as said_file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mm1.cli", "train", str(config)),
                *("--out", "run", *words),
            ],
            cwd=tmp_path,
            stdout=said_file,
            stderr=said_file,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    end = time.monotonic() + PATIENCE
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes()):
        assert time.monotonic() < end, said(tmp_path)
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(PATIENCE) == INTERRUPTED_CODE, said(tmp_path)
    assert len(list(tmp_path.glob("run/checkpoints/step-*"))) == 1
    assert "Traceback" not in said(tmp_path)
    while any(
        f"({process.pid})" in line or f" {process.pid} " in line
        for line in subprocess.run(
            ["ps", "-eo", "sess,pid,args"], capture_output=True, text=True
        ).stdout.splitlines()
    ):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.2)
