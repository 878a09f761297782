"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"):
50,000 photographs to train on and 10,000 to test on, 32 x 32 pixels, ten classes.

Two parquet files, whose names tell `train` and `test`, a row a photograph:

    huggingface.co/datasets/uoft-cs/cifar10    img    label as a number, 0 to 9
    the same with its classes in words         image  label as one of `LABELS`

Images are {"bytes", "path"} or bytes, PNG or JPEG.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.config import UserError

VARIABLE = "MM1_CIFAR10"
FOLDER = "data/cifar10"
SIDE = 32
SPLITS = ("train", "test")
LABELS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""In the order of CIFAR-10's numbers."""
IMAGE_COLUMNS = ("image", "img")


@dataclass(frozen=True, slots=True)
class Photograph:
    data: bytes
    """The file of the image."""
    label: str
    id: str
    """Its split and row, as `test/17`."""

    def __repr__(self) -> str:
        """Short: it enters fingerprints."""
        return f"Photograph({self.id}, {self.label})"


def cifar_files() -> dict[str, Path]:
    """Split -> its parquet file, in the folder that the environment variable names, or
    else in `data/cifar10`.

    Raises:
        UserError: one of them is not there.
    """
    folder = Path(os.environ.get(VARIABLE) or FOLDER)
    found = {}
    for split in SPLITS:
        files = sorted(folder.glob(f"*{split}*.parquet"))
        if not files:
            raise UserError(
                f"there is no CIFAR-10 file *{split}*.parquet in {folder}: get both"
                " from huggingface.co/datasets/uoft-cs/cifar10 (plain_text/), and name"
                f" their folder by the environment variable {VARIABLE}"
            )
        found[split] = files[0]
    return found


def read_photographs(path: Path, split: str) -> Sequence[Photograph]:
    """All photographs of a file, in its order.

    Raises:
        UserError: it is no such file; the message names the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        image = next((each for each in IMAGE_COLUMNS if each in names), None)
        if image is None or "label" not in names:
            raise UserError(
                f"{path} has the columns {', '.join(names)}; CIFAR-10 has image (or"
                " img) and label"
            )
        table = file.read(columns=[image, "label"])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: {error}; get it again") from error
    columns = (table[image].to_pylist(), table["label"].to_pylist())
    return [
        Photograph(
            _image_bytes(data, f"{path}, row {row}"),
            _label(label, f"{path}, row {row}"),
            f"{split}/{row}",
        )
        for row, (data, label) in enumerate(zip(*columns, strict=True))
    ]


def _image_bytes(value: Any, where: str) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise UserError(f"{where}: there are no bytes of an image")
    return data


def _label(value: Any, where: str) -> str:
    if value in LABELS:
        return value
    if type(value) is int and 0 <= value < len(LABELS):
        return LABELS[value]
    raise UserError(
        f"{where}: the label is {value!r}, not 0 to 9 or one of"
        f" {', '.join(LABELS)}"
    )
