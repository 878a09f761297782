"""VL-ICL Bench (Zong et al. 2024, arXiv:2403.13164): tasks that cannot be answered
without their shots. The files are read as published:

    VL-ICL/                        the option `folder`; paths of images start here
        open_mi/query.json         a list of questions
        open_mi/support.json       a list of what can be shown before them
        open_mi/...                images

The prompt is that of the authors' LLaVA and OpenFlamingo runs,

    <image>This is a
    Answer: dax
    <image>This is a
    Answer:

after their task description, if `description` asks for one. Their script draws shots by
Python's generator; ours are drawn by seed and question, so numbers agree only up to the
choice of shots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.eval.annotation_files import read_annotations, read_image
from mm1.eval.benchmarks import Benchmark, Question
from mm1.files import path_within
from mm1.ranges import PositiveInt

Description = Literal["nothing", "concise", "detailed"]


class VlIclBenchmark(Benchmark):
    """A task of VL-ICL Bench with its `query.json` and `support.json`."""

    DESCRIPTIONS: ClassVar[dict[str, str]]
    """The authors' descriptions of the task, but "nothing"."""

    metric = "exact match"

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        folder: str = ""
        """The folder of all tasks, the authors' `dataDir`."""
        description: Description = "nothing"
        """What the prompt begins with; the authors' `--task_description`."""
        max_tokens: PositiveInt = 15

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        if config.retrieval or config.same_shots:
            raise ConfigError(
                f"the shots of {type(self).__name__} belong to their question: leave"
                " out retrieval and same_shots"
            )

    def prompt(self, question: Question, shots: Sequence[Document]) -> Document:
        prompt = super().prompt(question, shots)
        if self.config.description == "nothing":
            return prompt
        said = self.DESCRIPTIONS[self.config.description]
        return Document((Text(f"{said}\n"),)) + prompt

    def read_entries(
        self, task: str, name: str, keys: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The objects of a task's file, each of which has the keys.

        Raises:
            ConfigError, FileNotFoundError, ValueError: something is wrong with the
                file; the message names it and the entry.
        """
        if not self.config.folder:
            raise ConfigError(
                "folder is empty: name the folder of VL-ICL Bench"
            )
        path, entries = read_annotations(
            str(Path(self.config.folder) / task / name), "folder", None
        )
        for number, entry in enumerate(entries):
            missing = (
                [key for key in keys if key not in entry]
                if isinstance(entry, dict)
                else list(keys)
            )
            if missing:
                raise ValueError(
                    f"{path}: entry {number} has no {', '.join(missing)}"
                )
        return entries

    def image_paths(self, images: Any, owner: str) -> tuple[Path, ...]:
        """The files that an entry's `image` names: one path, or a list.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigError: a path leads out of the folder.
            ValueError: it is neither.
        """
        names = [images] if isinstance(images, str) else images
        if not isinstance(names, list) or not all(
            isinstance(name, str) for name in names
        ):
            raise ValueError(
                f"{owner}: its image {images!r} is no path or list"
            )
        folder = Path(self.config.folder)
        paths = tuple(
            path_within(folder, name, f"{owner}: the image") for name in names
        )
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"{owner}: no image at {path}")
        return paths

    def draw(self, number: int, draw: int) -> np.random.Generator:
        """What the shots of a question are drawn by."""
        return np.random.default_rng((self.config.seed, number, draw))


def image_question(
    images: Sequence[Path | bytes], text: str, owner: str
) -> Document:
    """Images, the question, and where an answer begins."""
    read = (read_image(image, owner) for image in images)
    return Document((*read, Text(f"{text}\nAnswer:")))


def first_line(prediction: str) -> str:
    """What the authors compare: up to a line break, or else to a full stop."""
    text = prediction.strip()
    end = text.find("\n")
    end = text.find(".") if end <= 0 else end
    return text[:end] if end > 0 else text
