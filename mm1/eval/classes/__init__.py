"""Labelled images, for zero-shot classification and probes.

To add a data set, add a file to this folder with a subclass of `Classes`. It is then
`benchmarks.NAME.data=<file>` of such a benchmark, and
`tests/eval/test_classes.py` tests it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mm1.config import Configurable
from mm1.data.document import Image
from mm1.eval.evaluator import Split


@dataclass(frozen=True, slots=True)
class LabelledImage:
    image: Image
    label: int
    """Index into the class names."""
    id: str


class Classes(Configurable):
    """A closed set of classes, and images of each."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        def build(self) -> "Classes":
            return self.make()

    names: Sequence[str]
    """Names of the classes in plain words, at least two."""

    def records(self, split: Split) -> Sequence[Any]:
        """The `test` split is classified, probes learn from `train`.

        Records should be small: images are not read yet.

        Raises:
            ConfigError, FileNotFoundError: there are no such files; the message names
                the option, as `data.test`.
        """
        raise NotImplementedError

    def labelled_image(self, record: Any) -> LabelledImage:
        """The image and the label of a record.

        Raises:
            FileNotFoundError, ImageError: there is no usable image; the message names
                the record.
        """
        raise NotImplementedError
