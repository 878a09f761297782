"""Where a job can be started: what each target needs, and how it gets the job."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mm1.config import ConfigError, UserError
from mm1.launch.here import run_here
from mm1.launch.job import TrainingJob, render
from mm1.launch.slurm import queue_job, queued_job, wait_for_job

FOR_TARGETS = {
    "time": ("slurm",),
    "gpu": ("slurm", "skypilot"),
    "options": ("slurm", "skypilot", "kubernetes"),
    "image": ("slurm", "skypilot", "kubernetes"),
    "mounts": ("slurm", "skypilot", "kubernetes"),
    "setup": ("skypilot",),
}
"""The fields of a job that not every target has."""


OWN_OPTIONS = {
    "nodes": "--nodes",
    "ntasks-per-node": "one for each node",
    "gpus-per-node": "--gpus-per-node; for gres=gpu:8 give --gpus-per-node 0 and"
    " --processes-per-node 8",
    "time": "--time",
    "job-name": "--job-name",
    "signal": "--shutdown-timeout",
    "requeue": "always",
    "no-requeue": "it queues itself again",
    "output": "to the run folder",
    "chdir": "this folder",
}
"""What the script for Slurm tells sbatch, and what it comes from."""


class Target:
    """Writes the script or file of a job, and starts it."""

    name: ClassVar[str]
    template: ClassVar[str]

    def check(self, job: TrainingJob) -> None:
        """Raises ConfigError for what the target lacks or cannot do."""
        for field, targets in FOR_TARGETS.items():
            if getattr(job, field) and self.name not in targets:
                option = field.removesuffix("s")
                raise ConfigError(
                    f"--{option} has no meaning with --on {self.name}, only with"
                    f" {' or '.join(targets)}"
                )

    def text(self, job: TrainingJob) -> str:
        """What is started."""
        return render(self.template, job, ranks_per_machine=job.processes)

    def start(self, job: TrainingJob) -> int:
        """Returns the command's exit code."""
        raise NotImplementedError

    def start_and_wait(self, job: TrainingJob) -> int:
        """Returns the run's exit code, as `mm1 train` would.

        Raises:
            ConfigError: the target cannot wait.
        """
        raise ConfigError(
            f"--wait has no meaning with --on {self.name}, only with here or slurm"
        )


class Here(Target):
    """An agent of torchrun for each node on this machine."""

    name = "here"
    template = "here.sh"

    def text(self, job: TrainingJob) -> str:
        return render(
            self.template, job, ranks_per_machine=job.nodes * job.processes
        )

    def start(self, job: TrainingJob) -> int:
        return run_here(job)

    def start_and_wait(self, job: TrainingJob) -> int:
        return run_here(job)


class Slurm(Target):
    """A batch job; this Python and the run folder lie on shared storage."""

    name = "slurm"
    template = "slurm.sh"

    def check(self, job: TrainingJob) -> None:
        super().check(job)
        for name in OWN_OPTIONS.keys() & job.options.keys():
            raise ConfigError(
                f"--option {name}: the script sets it itself ({OWN_OPTIONS[name]})"
            )

    def start(self, job: TrainingJob) -> int:
        number = queue_job(job, self.text(job))
        print(
            f"job {number}\n  log:  tail -F {job.out}/logs/{number}.out\n"
            f"  stop: scancel {number}"
        )
        return 0

    def start_and_wait(self, job: TrainingJob) -> int:
        """A job of an earlier call that is still queued is waited for."""
        number = queued_job(job.out) or queue_job(job, self.text(job))
        return wait_for_job(job.out, number)


class _RentedNodes(Target):
    """Machines that are gone after the job, with what is on no mount."""

    def check(self, job: TrainingJob) -> None:
        super().check(job)
        if not job.is_mounted(job.out):
            raise ConfigError(
                f"--out {job.out}: nodes of --on {self.name} keep nothing of their own;"
                " choose a folder below the PATH of a --mount SOURCE:PATH"
            )
        config = Path(job.train[0])
        if config.exists() and not job.is_mounted(config.absolute()):
            raise ConfigError(
                f"{config} is a file of this machine; nodes of --on {self.name} see"
                " recipes by name, and files below the PATH of a --mount"
            )


class SkyPilot(_RentedNodes):
    """A managed job of SkyPilot."""

    name = "skypilot"
    template = "skypilot.yaml"

    def check(self, job: TrainingJob) -> None:
        super().check(job)
        if job.gpus_per_node and not job.gpu:
            raise ConfigError(
                "--on skypilot needs --gpu TYPE, such as H100, or --gpus-per-node 0"
            )

    def start(self, job: TrainingJob) -> int:
        sky = _command("sky", self.name, "pip install skypilot")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{job.name}.yaml"
            path.write_text(self.text(job), encoding="utf-8")
            words = [sky, "jobs", "launch", "--yes", "--detach-run", str(path)]
            return _run(words)


class Kubernetes(_RentedNodes):
    """A JobSet."""

    name = "kubernetes"
    template = "jobset.yaml"

    def check(self, job: TrainingJob) -> None:
        super().check(job)
        if not job.image:
            raise ConfigError("--on kubernetes needs --image, which has mm1")
        if job.buckets:
            raise ConfigError(
                f"--mount {job.buckets[0]}: with --on kubernetes SOURCE is the name of"
                " a persistent volume claim"
            )

    def start(self, job: TrainingJob) -> int:
        kubectl = _command(
            "kubectl", self.name, "see kubernetes.io/docs/tasks/tools"
        )
        return _run([kubectl, "create", "-f", "-"], self.text(job))


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (Here(), Slurm(), SkyPilot(), Kubernetes())
}


def _command(name: str, target: str, remedy: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UserError(
            f"--on {target}: there is no {name} on this machine ({remedy}); --print"
            " shows the file, to be started elsewhere"
        )
    return path


def _run(words: Sequence[str], text: str = "") -> int:
    """Runs a scheduler's command, whose own output says what has happened."""
    return subprocess.run(words, input=text.encode(), check=False).returncode
