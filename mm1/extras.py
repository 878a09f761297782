"""Optional dependencies, which pyproject.toml calls extras: one that is missing is one
line with the command that installs it."""

from collections.abc import Iterator
from contextlib import contextmanager

from mm1.config import ConfigError


@contextmanager
def needs_extra(extra: str, feature: str) -> Iterator[None]:
    """Around the imports of what only `feature` needs.

    Raises:
        ConfigError: a package is missing; the message names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "mm1":
            raise
        raise ConfigError(
            f"{feature} needs {package}: {installs(extra)}"
        ) from error


def installs(extra: str) -> str:
    """The command that installs the packages of an extra."""
    return f"pip install 'mm1[{extra}]'"
