"""Pictures of known classes: what zero-shot classification and probes are measured on.

To add a data set, add a file to this folder with a subclass of `Classes`; it is then
named by its file in the `data` of such an exam.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mm1.config import Configurable
from mm1.data.document import Image
from mm1.eval.evaluator import Split


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture of one class."""

    image: Image
    label: int
    """Index into the names."""
    id: str


class Classes(Configurable):
    """A closed set of classes, and pictures of each."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        def build(self) -> "Classes":
            return self.make()

    names: Sequence[str]
    """The classes as a person would call them, at least two."""

    def records(self, split: Split) -> Sequence[Any]:
        """Of `test`, to be classified; of `train`, for probes to learn from. Small:
        pictures are not read yet."""
        raise NotImplementedError

    def labelled(self, record: Any) -> Labelled:
        """Raises FileNotFoundError or ImageError, with the record named, where there is
        no usable picture."""
        raise NotImplementedError
