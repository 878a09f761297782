"""Parts that start from other runs bring their architecture along: a recipe need not be of the shape of its origins."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError, Configurable
from mm1.dist import say
from mm1.train.folder import read_config

CHOICES = frozenset({"image_size", "balance_loss", "router_z_loss", "capacity_factor"})
"""What a recipe decides about a part whatever its origin: positions are interpolated, losses are training's."""


def adopt(config: Any, origins: Mapping[str, Path], assignments: Sequence[str] = ()) -> None:
    """Gives the parts of a run's config the shape of the same parts of other runs, and says aloud what that changes.

    A decoder with experts stays one where its origin has none: it is up-cycled. `assignments` are those of the command
    line: nobody's explicit wish is overruled.

    Raises:
        ConfigError: an assignment contradicts the origin of its part.
        FileNotFoundError: an origin is no run folder.
    """
    for part, folder in origins.items():
        own, its = (getattr(model, part, None) for model in (config.model, read_config(folder).model))
        if not (isinstance(own, Configurable.Config) and isinstance(its, Configurable.Config)):
            continue  # no part that has a shape of its own: weights either fit or are named when they are loaded
        taken = _taken(own, its)
        changes = {f"model.{part}.{key}": values for key, values in configs.diff(own, taken).items()}
        for assignment in assignments:
            if (key := assignment.partition("=")[0]) in changes:
                there = f"init.{part}={folder}, where it is {changes[key][1]}"
                raise ConfigError(f"{assignment} contradicts {there}: leave out one of them")
        setattr(config.model, part, taken)
        if changes:
            said = ", ".join(f"{key} {mine} -> {theirs}" for key, (mine, theirs) in changes.items())
            say(f"init.{part}={folder} brings its shape: {said}")


def _taken(own: Any, its: Any) -> Any:
    """`its` config with what is `own`'s to choose."""
    taken = copy.deepcopy(its)
    if type(own) is not type(its):
        return taken
    for f in fields(taken):
        mine, there = getattr(own, f.name), getattr(taken, f.name)
        if f.name in CHOICES or (f.name == "experts" and there is None):
            setattr(taken, f.name, copy.deepcopy(mine))
        elif isinstance(mine, Configurable.Config) and isinstance(there, Configurable.Config):
            setattr(taken, f.name, _taken(mine, there))
    return taken
