"""Jobs of Slurm: submitted, asked for, stopped."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from mm1.config import UserError
from mm1.files import write_text
from mm1.launch.here import python_environment, signals_noted
from mm1.launch.job import TrainingJob

SCRIPT = "job.sh"
"""In a run folder: what was submitted."""
JOB_FILE = "job.txt"
"""In a run folder: the number of the job that trains it."""
ANSWER = "answer"
"""In a job's folder of logs: the exit code of its last start."""


POLL_SECONDS = 10.0
"""Between questions to the scheduler, which many others ask, too."""


def queue_job(job: TrainingJob, script: str) -> str:
    """Submits a script for a run, and returns the job's number.

    Raises:
        UserError: there is no Slurm, it refuses the job, or an earlier job still trains
            the run.
    """
    slurm("sbatch", "--version")
    if earlier := queued_job(job.out):
        raise UserError(
            f"job {earlier} trains {job.out} ({job_state(earlier)}): wait for it, or"
            f" scancel {earlier}"
        )
    (job.out / "logs").mkdir(parents=True, exist_ok=True)
    path = job.out / SCRIPT
    write_text(path, script)
    environment = os.environ | python_environment()
    answer = slurm("sbatch", "--parsable", str(path), environment=environment)
    number = answer.strip().partition(";")[
        0
    ]  # the name of the cluster may follow
    write_text(job.out / JOB_FILE, number)
    return number


def wait_for_job(folder: Path, number: str) -> int:
    """Waits until a run's job is over, however often it is queued again, and returns
    the run's exit code; 1 if it was ended before it could leave one. SIGINT and SIGTERM
    cancel it, on which it saves."""
    with signals_noted() as received:
        while job_state(number):
            if received:
                slurm("scancel", number)
                received.clear()
            time.sleep(POLL_SECONDS)
    with suppress(FileNotFoundError, ValueError):
        return int((folder / "logs" / number / ANSWER).read_text())
    return 1


def queued_job(folder: Path) -> str:
    """The number of the job that trains a run, or waits to; nothing if none does."""
    number = job_of(folder)
    return number if number and job_state(number) else ""


def job_of(folder: Path) -> str:
    """The number of the job that was last submitted for a run, or nothing."""
    path = folder / JOB_FILE
    return path.read_text().strip() if path.is_file() else ""


def job_state(number: str) -> str:
    """A job's state, such as RUNNING; nothing once it is over."""
    try:
        return slurm(
            "squeue", "--noheader", "--format=%T", f"--jobs={number}"
        ).strip()
    except UserError as error:
        if "Invalid job id" in str(error):  # over for some minutes
            return ""
        raise


def slurm(
    command: str, *words: str, environment: dict[str, str] | None = None
) -> str:
    """What a command of Slurm prints.

    Raises:
        UserError: there is no such command, or it fails.
    """
    path = shutil.which(command)
    if path is None:
        raise UserError(
            f"--on slurm: there is no {command} on this machine; start this where Slurm"
            " is, or --print the script"
        )
    done = subprocess.run(
        (path, *words),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise UserError(f"{command}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
