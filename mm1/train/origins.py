"""What a run takes over: the shapes of parts that start from other runs, and its own
config where it goes on.

A recipe need not be of the shape of its origins: parts bring their architecture along.
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

LOSSES = frozenset({"balance_loss", "router_z_loss", "capacity_factor"})
CHOICES = LOSSES | {"image_size"}
"""What a recipe decides about a part whatever its origin: positions are interpolated,
losses are training's."""
MOST_NAMED = 6
"""Settings in one line of talk."""


def adopt(
    config: Any, origins: Mapping[str, Path], assignments: Sequence[str] = ()
) -> None:
    """Gives the parts of a run's config the shape of the same parts of other runs, and
    says aloud what that changes.

    A decoder with experts stays one where its origin has none: it is up-cycled.
    `assignments` are those of the command
    line: nobody's explicit wish is overruled.

    Raises:
        ConfigError: an assignment contradicts the origin of its part.
        FileNotFoundError: an origin is no run folder.
    """
    for part, folder in origins.items():
        own, its = (
            getattr(model, part, None)
            for model in (config.model, read_config(folder).model)
        )
        if not (
            isinstance(own, Configurable.Config)
            and isinstance(its, Configurable.Config)
        ):
            # no part that has a shape of its own: weights either fit or are named when
            # they are loaded
            continue
        taken = _taken(own, its)
        changes = {
            f"model.{part}.{key}": values
            for key, values in configs.differences(own, taken).items()
        }
        for assignment in assignments:
            if (key := assignment.partition("=")[0]) in changes:
                there = f"init.{part}={folder}, where it is {changes[key][1]}"
                raise ConfigError(
                    f"{assignment} contradicts {there}: leave out one of them"
                )
        setattr(config.model, part, taken)
        if changes:
            said = ", ".join(
                f"{key} {mine} -> {theirs}" for key, (mine, theirs) in changes.items()
            )
            say(f"init.{part}={folder} brings its shape: {said}")


def _taken(own: Any, its: Any) -> Any:
    """`its` config with what is `own`'s to choose."""
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


def say_kept(folder: Path, name: str, recipe: Any) -> None:
    """Says aloud in what a run that goes on differs from the recipe (or config) of that
    name: it keeps its own."""
    kept = [
        f"{key}={own}"
        for key, (_, own) in configs.differences(recipe, read_config(folder)).items()
    ]
    if kept:
        more = f", and {len(kept) - MOST_NAMED} more" if len(kept) > MOST_NAMED else ""
        say(
            f"{folder} goes on with its own config; unlike {name}:"
            f" {', '.join(kept[:MOST_NAMED])}{more}"
        )


def check_kept(folder: Path, config: Any) -> None:
    """Raises ConfigError where a run would go on with another model than its
    checkpoints are of."""
    for key, (was, now) in configs.differences(read_config(folder), config).items():
        kept = key.startswith(("model.", "lora", "frozen")) or key in (
            "model",
            "optimizer",
        )
        if kept and key.rpartition(".")[2] not in LOSSES:
            remedy = (
                "leave it as it is, or start another run from this one's weights with"
                " init.PART"
            )
            raise ConfigError(
                f"{folder} cannot go on with {key} {now}: its checkpoints are of {was};"
                f" {remedy}"
            )
