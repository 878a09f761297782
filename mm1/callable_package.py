"""A package that can be called: `mm1.prepare(...)` beside `mm1.prepare.pipeline`.

The import system binds a package's name in its parent, so a function of the same name
would be replaced by the first import of anything inside the package.
"""

import importlib
import sys
from types import ModuleType
from typing import Any, ClassVar


class CallablePackage(ModuleType):
    """Calls a function of `mm1.api`, which is imported by the first call: it lies above
    the packages that can be called."""

    FUNCTIONS: ClassVar[dict[str, str]] = {
        "mm1.prepare": "prepare_raw_data",
        "mm1.train": "train_recipe",
    }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        api = importlib.import_module("mm1.api")
        return getattr(api, self.FUNCTIONS[self.__name__])(*args, **kwargs)


def make_callable(package: str) -> None:
    sys.modules[package].__class__ = CallablePackage
