"""Stand-ins for what the other files here import from mm1, which is not installed where
an export is opened.

`UserError`, `ConfigError` and `Module` are on purpose named as the classes in
`mm1.config` and `mm1.nn.model` that they replace.
"""

from dataclasses import dataclass

from torch import nn


class UserError(Exception):
    """An error that the user can correct."""


class ConfigError(UserError, ValueError):
    """Options that contradict one another."""


class Module(nn.Module):
    """A module with a nested `Config`."""

    @dataclass(kw_only=True, slots=True)
    class Config:
        pass
