"""What a run inherits: the architecture of parts that start from other runs (its
origins), and its own config when it is resumed.

A recipe need not match its origins: a part brings its architecture along.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError, Configurable
from mm1.dist import say
from mm1.runs.description import read_config
from mm1.runs.layout import CONFIG, checkpoint_steps, resume_command
from mm1.storage.remote_path import as_path

RANDOM = "random"
"""In place of a run in `init`: the part is trained from scratch, knowingly. A run
folder of that name is `./random`."""

LOSSES = frozenset({"balance_loss", "router_z_loss", "capacity_factor"})
CHOICES = LOSSES | {"image_size"}
"""What the recipe decides about a part whatever its origin: positions are interpolated,
and losses belong to training."""
_IN_CHECKPOINTS = "its checkpoints hold that"
_WEIGHTS = "the weights are those of its checkpoints"
FIXED = {
    "model": _IN_CHECKPOINTS,
    "model.": _IN_CHECKPOINTS,
    "lora": _IN_CHECKPOINTS,
    "lora.": _IN_CHECKPOINTS,
    "frozen": _IN_CHECKPOINTS,
    "optimizer": _IN_CHECKPOINTS,
    "init": _WEIGHTS,
    "init.": _WEIGHTS,
    "center_features": _WEIGHTS,
    "loader": "the position in the data is another loader's",
    "seed": "the order of the data depends on it",
    "tokenizer.": "the run keeps its own tokenizer",
}
"""What a resumed run may not change, and why: a key, or with a dot at the end all that
lies below it. Losses of the model may change."""
MAX_SETTINGS = 6
"""Listed in one message."""


def origin_runs(init: Mapping[str, str]) -> dict[str, Path]:
    """Part -> the run that it starts from, of those that start from one."""
    return {
        part: as_path(origin)
        for part, origin in init.items()
        if origin != RANDOM
    }


class MissingOrigin(ConfigError):
    """A run that a part starts from is not there."""

    def __init__(self, part: str, folder: Path, recipe: str = "") -> None:
        """`recipe` makes such a run; empty: it is not known which does."""
        super().__init__(part, folder, recipe)
        self.part = part
        self.folder = folder
        self.recipe = recipe

    def __str__(self) -> str:
        train = f"`mm1 train {self.recipe or 'RECIPE'} --out {self.folder}`"
        listed = "" if self.recipe else ", `mm1 list recipes`"
        return (
            f"init.{self.part}={self.folder}: there is no such run. Train it"
            f" ({train}{listed}), import published weights (`mm1 import PATH_OR_ID"
            f" --out {self.folder}`) or name another run; init.{self.part}={RANDOM}"
            f" trains the {self.part} from scratch"
        )


def check_origins(init: Mapping[str, str]) -> None:
    """Raises MissingOrigin if a run that a part starts from is not there."""
    for part, folder in origin_runs(init).items():
        if not (folder / CONFIG).is_file():
            raise MissingOrigin(part, folder)


def adopt_architectures(
    config: Any, origins: Mapping[str, Path], assignments: Sequence[str] = ()
) -> None:
    """Gives parts of a run's config the architecture they have in other runs, and
    prints what that changes.

    A decoder with experts keeps them if its origin has none: it is upcycled.

    Args:
        config: the run's, edited in place.
        origins: part -> run folder.
        assignments: those of the command line, which are never overruled.

    Raises:
        ConfigError: an assignment contradicts the origin of its part, or an origin is
            no run folder.
    """
    check_origins({part: str(folder) for part, folder in origins.items()})
    for part, folder in origins.items():
        own, its = (
            getattr(model, part, None)
            for model in (config.model, read_config(folder).model)
        )
        if not (
            isinstance(own, Configurable.Config)
            and isinstance(its, Configurable.Config)
        ):
            continue  # loading the weights will tell whether they fit
        taken = _taken(own, its)
        changes = {
            f"model.{part}.{key}": values
            for key, values in configs.differences(own, taken).items()
        }
        for assignment in assignments:
            if (key := assignment.partition("=")[0]) in changes:
                raise ConfigError(
                    f"{assignment} contradicts init.{part}={folder}, where it is"
                    f" {changes[key][1]}: leave out one of them"
                )
        setattr(config.model, part, taken)
        if changes:
            listed = ", ".join(
                f"{key} {mine} -> {theirs}"
                for key, (mine, theirs) in changes.items()
            )
            say(f"init.{part}={folder} brings its architecture: {listed}")


def _taken(own: Any, its: Any) -> Any:
    """The origin's config with the `CHOICES` of our own."""
    taken = copy.deepcopy(its)
    if type(own) is not type(its):
        return taken
    for f in fields(taken):
        mine = getattr(own, f.name)
        there = getattr(taken, f.name)
        if f.name in CHOICES or (f.name == "experts" and there is None):
            setattr(taken, f.name, copy.deepcopy(mine))
        elif isinstance(mine, Configurable.Config) and isinstance(
            there, Configurable.Config
        ):
            setattr(taken, f.name, _taken(mine, there))
    return taken


def say_config_differences(
    folder: Path, own: Any, name: str, recipe: Any
) -> None:
    """Prints where the config of a resumed run, which it keeps, differs from the recipe
    of that name; both with the overrides that were given."""
    kept = [
        f"{key}={value}"
        for key, (_, value) in configs.differences(recipe, own).items()
    ]
    if kept:
        more = (
            f", and {len(kept) - MAX_SETTINGS} more"
            if len(kept) > MAX_SETTINGS
            else ""
        )
        say(
            f"{folder} resumes with its own config, unlike {name}:"
            f" {', '.join(kept[:MAX_SETTINGS])}{more}"
        )


def check_startable(folder: Path, config: Any, *, resume: bool) -> None:
    """Checks that a run may start in its folder, or resume there with this config.

    Raises:
        FileExistsError: the folder holds a run that is not to be resumed.
        ConfigError: what is trained is not what the run's checkpoints hold, or a run
            that it starts from is not there.
    """
    if not resume and (folder / CONFIG).exists():
        raise FileExistsError(
            f"{folder} holds a run already; go on with it (`{resume_command(folder)}`)"
            " or choose another folder"
        )
    if resume and checkpoint_steps(folder):
        check_resumable(folder, config)
    else:
        check_origins(config.init)


def check_resumable(folder: Path, config: Any) -> None:
    """Raises ConfigError for a change of what the run's checkpoints hold, or of what
    would have no effect any more. Everything else takes effect from the next step."""
    for key, (was, now) in configs.differences(
        read_config(folder), config
    ).items():
        first, _, _ = key.partition(".")
        reason = FIXED.get(key) or (FIXED.get(f"{first}.") if first else None)
        if reason and key.rpartition(".")[2] not in LOSSES:
            raise ConfigError(
                f"{folder} cannot resume with {key} {now}, which was {was}: {reason};"
                " leave it as it is, or start another run from this one's weights with"
                " init.PART"
            )
    trained = checkpoint_steps(folder)
    if trained and config.steps < trained[-1]:
        raise ConfigError(
            f"{folder} cannot resume with steps={config.steps}: it has trained"
            f" {trained[-1]}"
        )
