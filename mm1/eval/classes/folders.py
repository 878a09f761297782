"""A folder for each class, as ImageNet and torchvision's ImageFolder have it.

test/n01440764/ILSVRC2012_val_00000293.JPEG        names.json (optional)   {"n01440764": "tench", ...}
test/n01443537/...
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mm1.config import ConfigError
from mm1.eval.annotation_files import read_json
from mm1.eval.benchmarks import picture
from mm1.eval.classes import Classes, Labelled
from mm1.eval.evaluator import Split

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class Folders(Classes):
    """Classes in the order of their folders' names. A class without a picture is a
    class all the same."""

    @dataclass(kw_only=True, slots=True)
    class Config(Classes.Config):
        test: str = ""
        """A folder with a folder for each class."""
        train: str = ""
        """Another one with the same classes, for probes."""
        names: str = ""
        """A JSON file, folder -> name; empty: the folders' names, `_` read as a
        space."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def folders(self) -> list[str]:
        """Raises ConfigError or FileNotFoundError where there are no folders of
        classes."""
        return self._folders("test")

    def _folders(self, split: Split) -> list[str]:
        root = getattr(self.config, split)
        if not root:
            raise ConfigError(
                f"data.{split} is empty: name a folder that holds a folder for each"
                " class"
            )
        if not Path(root).is_dir():
            raise FileNotFoundError(f"data.{split}: there is no folder {root}")
        found = sorted(
            each.name
            for each in Path(root).iterdir()
            if each.is_dir() and not each.name.startswith(".")
        )
        if len(found) < 2:
            raise ConfigError(
                f"data.{split}: {root} holds {len(found)} folders; at least two classes"
                " are needed"
            )
        return found

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        if not self.config.names:
            return [folder.replace("_", " ") for folder in self.folders]
        _, known = read_json(self.config.names, "data.names", self.folders)
        return [known[folder] for folder in self.folders]

    def records(self, split: Split) -> Sequence[tuple[str, int]]:
        """(file, label), class by class."""
        if (found := self._folders(split)) != self.folders:
            differing = sorted(set(found) ^ set(self.folders))
            raise ConfigError(
                "data.train and data.test differ in the classes"
                f" {', '.join(differing[:5])}"
            )
        root = Path(getattr(self.config, split))
        records = [
            (path.as_posix(), label)
            for label, folder in enumerate(self.folders)
            for path in sorted((root / folder).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not records:
            raise ConfigError(
                f"data.{split}: no folder of {root} holds a picture"
                f" ({', '.join(sorted(SUFFIXES))})"
            )
        return records

    def labelled(self, record: tuple[str, int]) -> Labelled:
        path, label = record
        name = "/".join(Path(path).parts[-2:])
        return Labelled(picture(Path(path), name), label, name)
