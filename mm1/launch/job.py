"""What `mm1 launch` starts, and the script or file that starts it, written from
`templates/`."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mm1.config import ConfigError

TEMPLATES = Path(__file__).parent / "templates"
NAME_LIMIT = 40
"""Characters of a job's name: Kubernetes appends to it, and has 63 for a host."""


class Mount(NamedTuple):
    """Storage that the nodes see as a folder."""

    source: str
    """A folder of the host, a volume, a claim to one, or a bucket's address."""
    path: str

    def __str__(self) -> str:
        return f"{self.source}:{self.path}"


class Setting(NamedTuple):
    """An environment variable."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One run on one or more nodes.

    Raises:
        ConfigError: a number is out of range.
    """

    train: tuple[str, ...]
    """The words after `mm1 train` but for `--out` and `--resume`."""
    out: Path
    """The run folder, which all nodes see under this path."""
    workdir: Path
    """Where the nodes of Slurm run: relative paths of the config start here."""
    name: str
    python: str
    nodes: int = 1
    gpus_per_node: int = 0
    processes: int = 1
    """Ranks of a node."""
    gpu: str = ""
    """The type of GPU, as the scheduler names it."""
    time: str = ""
    max_restarts: int = 3
    """How often torchrun starts the ranks again, and how often in a row the whole job
    is started again without a new checkpoint in between."""
    shutdown_timeout: int = 120
    """Seconds for saving a checkpoint when the job is told to stop."""
    image: str = ""
    mounts: tuple[Mount, ...] = ()
    environment: tuple[Setting, ...] = ()
    setup: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the scheduler."""

    def __post_init__(self) -> None:
        for words, value, least in (
            ("--nodes", self.nodes, 1),
            ("--gpus-per-node", self.gpus_per_node, 0),
            ("--processes-per-node", self.processes, 1),
            ("--max-restarts", self.max_restarts, 0),
            ("--shutdown-timeout", self.shutdown_timeout, 1),
        ):
            if value < least:
                raise ConfigError(f"{words} {value} is below {least}")

    @property
    def buckets(self) -> list[Mount]:
        return [mount for mount in self.mounts if "://" in mount.source]

    @property
    def volumes(self) -> list[Mount]:
        return [mount for mount in self.mounts if "://" not in mount.source]

    def is_mounted(self, path: Path) -> bool:
        """Does the path lie on storage that outlives the nodes?"""
        return any(path.is_relative_to(mount.path) for mount in self.mounts)


def job_name(folder: Path) -> str:
    """A run folder's last two names, in letters that every scheduler takes."""
    words = "-".join(folder.parts[-2:]).lower()
    name = re.sub(r"[^a-z0-9]+", "-", words)[-NAME_LIMIT:].strip("-")
    return name if name[:1].isalpha() else f"run-{name}".strip("-")


def render(template: str, job: TrainingJob, **more: object) -> str:
    """The text of a template for a job."""
    return _templates().get_template(template).render(job=job, **more)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "sh": lambda value: shlex.quote(str(value)),
        "yaml": lambda value: json.dumps(str(value), ensure_ascii=False),
        "scalar": _yaml_scalar,
        "sbatch": _sbatch_value,
    }
    return environment


def _yaml_scalar(value: str) -> str:
    """A number, true or false as it is, and anything else as a quoted string."""
    try:
        json.loads(value)
    except ValueError:
        return json.dumps(value, ensure_ascii=False)
    return value


def _sbatch_value(value: object) -> str:
    """For a line of `#SBATCH`, where `%` begins a pattern of a file's name."""
    text = (
        str(value).replace("%", "%%") if isinstance(value, Path) else str(value)
    )
    return f'"{text}"' if re.search(r"\s", text) else text
