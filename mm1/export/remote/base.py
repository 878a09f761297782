"""What the files beside this one use of mm1: the base class of its modules, and the
error for what a user can mend."""

from dataclasses import dataclass

from torch import nn


class ConfigError(ValueError):
    """Options that do not go together."""


class Module(nn.Module):
    """A module with its options."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        pass
