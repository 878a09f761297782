"""MM1 from Python. `import mm1` is quick: torch is imported by the first use.

    m = mm1.load("runs/demo/finetune")
    m.ask("what colour ?", photo)
    mm1.prepare("captions", "raw/captions", out="data/captions", tokenizer="tok.json")
    mm1.train("pretrain_small", out="runs/a", loader__sources={"text": "data/text"})
    mm1.evaluate("runs/a", shots=[0, 4])

`mm1.prepare` and `mm1.train` are packages that can also be called
(`mm1.callable_package`). Behind the names are `mm1.api` and `mm1.loaded_run`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mm1.api import evaluate_finished_run as evaluate
    from mm1.api import prepare_raw_data as prepare
    from mm1.api import train_recipe as train
    from mm1.infer.sampling import Sampling
    from mm1.loaded_run import LoadedRun, load

__all__ = [
    "LoadedRun",
    "Sampling",
    "__version__",
    "evaluate",
    "load",
    "prepare",
    "train",
]

__version__ = "0.1.0"

_HOMES = {
    "LoadedRun": ("mm1.loaded_run", "LoadedRun"),
    "Sampling": ("mm1.infer.sampling", "Sampling"),
    "evaluate": ("mm1.api", "evaluate_finished_run"),
    "load": ("mm1.loaded_run", "load"),
}
_PACKAGES = ("prepare", "train")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"mm1.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mm1' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
