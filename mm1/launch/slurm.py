"""Jobs of Slurm: submitted, asked for, stopped."""

import os
import shutil
import subprocess
from pathlib import Path

from mm1.config import UserError
from mm1.files import write_text
from mm1.launch.here import python_environment
from mm1.launch.job import TrainingJob

SCRIPT = "job.sh"
"""In a run folder: what was submitted."""
JOB_FILE = "job.txt"
"""In a run folder: the number of the job that trains it."""


def queue_job(job: TrainingJob, script: str) -> str:
    """Submits a script for a run, and returns the job's number.

    Raises:
        UserError: there is no Slurm, it refuses the job, or an earlier job still trains
            the run.
    """
    slurm("sbatch", "--version")
    earlier = job_of(job.out)
    if earlier and (state := job_state(earlier)):
        raise UserError(
            f"job {earlier} trains {job.out} ({state}): wait for it, or scancel"
            f" {earlier}"
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
