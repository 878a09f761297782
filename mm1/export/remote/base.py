"""What the files beside this one use of mm1: the base class of its modules, and the
error for what a user can mend."""

from dataclasses import dataclass

from torch import nn


class UserError(Exception):
    """What a user can mend."""


class ConfigError(UserError, ValueError):
    """Options that do not go together."""


class Module(nn.Module):
    """A module with its options."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        pass
