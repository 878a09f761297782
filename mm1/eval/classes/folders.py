"""A folder for each class, as in ImageNet and torchvision's ImageFolder.

test/n01440764/ILSVRC2012_val_00000293.JPEG
test/n01443537/...
names.json (optional)   {"n01440764": "tench", ...}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mm1.config import ConfigError
from mm1.eval.annotation_files import read_annotations, read_image
from mm1.eval.classes import Classes, LabelledImage
from mm1.eval.evaluator import Split

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


class Folders(Classes):
    """Classes in the order of the folders' names; a folder may be empty."""

    @dataclass(kw_only=True, slots=True)
    class Config(Classes.Config):
        test: str = ""
        """A folder with a folder for each class."""
        train: str = ""
        """Another one with the same classes, for probes."""
        names: str = ""
        """A JSON file, folder -> class name; empty: the folders' names, with `_` as a
        space."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @cached_property
    def folders(self) -> list[str]:
        """Names of the class folders of the test split.

        Raises:
            ConfigError, FileNotFoundError: there are none.
        """
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
        folders = sorted(
            path.name
            for path in Path(root).iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
        if len(folders) < 2:
            raise ConfigError(
                f"data.{split}: {root} holds {len(folders)} folders; at least two"
                " classes are needed"
            )
        return folders

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        if not self.config.names:
            return [folder.replace("_", " ") for folder in self.folders]
        _, names = read_annotations(
            self.config.names, "data.names", self.folders
        )
        return [names[folder] for folder in self.folders]

    def records(self, split: Split) -> Sequence[tuple[str, int]]:
        """(file, label), class by class."""
        folders = self._folders(split)
        if folders != self.folders:
            differing = sorted(set(folders) ^ set(self.folders))
            raise ConfigError(
                "data.train and data.test differ in the classes"
                f" {', '.join(differing[:5])}"
            )
        root = Path(getattr(self.config, split))
        records = [
            (path.as_posix(), label)
            for label, folder in enumerate(folders)
            for path in sorted((root / folder).rglob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not records:
            raise ConfigError(
                f"data.{split}: no folder of {root} holds an image"
                f" ({', '.join(sorted(SUFFIXES))})"
            )
        return records

    def labelled_image(self, record: tuple[str, int]) -> LabelledImage:
        path, label = record
        name = "/".join(Path(path).parts[-2:])
        return LabelledImage(read_image(Path(path), name), label, name)
