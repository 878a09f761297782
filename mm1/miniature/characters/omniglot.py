"""Omniglot's drawings (Lake et al. 2015, Science 350; github.com/brendenlake/omniglot,
MIT): 20 people drew each character of many alphabets.

    images_background_small1.zip    Balinese, Early Aramaic, Greek, Korean, Latin
    images_background_small2.zip    Greek, Katakana, Latin, Sanskrit, Tagalog
        .../Greek/character01/0394_01.png ... 0394_20.png    105 x 105, black on white

Training has all alphabets of the second file; the test has those of the first that are
not among them.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from mm1.config import UserError

VARIABLE = "MM1_OMNIGLOT"
FOLDER = "data/omniglot"
SIDE = 105
TRAIN = "small2.zip"
TEST = "small1.zip"

Characters = Mapping[str, tuple[bytes, ...]]
"""`Greek/character01` -> its drawings as PNG, ordered by person."""


def omniglot_files() -> dict[str, Path]:
    """Split -> the file of its alphabets, in the folder that the environment variable
    names, or else in `data/omniglot`.

    Raises:
        UserError: one of them is not there.
    """
    folder = Path(os.environ.get(VARIABLE) or FOLDER)
    found = {}
    for split, ending in (("train", TRAIN), ("test", TEST)):
        files = sorted(folder.glob(f"*{ending}"))
        if not files:
            raise UserError(
                f"there is no images_background_{ending} in {folder}: get it from"
                f" github.com/brendenlake/omniglot (python/), and name its folder by"
                f" the environment variable {VARIABLE}"
            )
        found[split] = files[0]
    return found


def read_characters(path: Path) -> Characters:
    """The characters of a file, in order of their names.

    Raises:
        UserError: it is no zip file, or holds no drawings in folders of characters.
    """
    found: dict[str, list[bytes]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                parts = name.split("/")
                if name.endswith(".png") and len(parts) >= 3:
                    key = "/".join(parts[-3:-1])
                    found.setdefault(key, []).append(archive.read(name))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: {error}; get it again") from error
    if not found:
        raise UserError(
            f"{path} holds no drawings such as Greek/character01/0394_01.png"
        )
    return {name: tuple(drawings) for name, drawings in found.items()}


def unseen_characters(test: Characters, train: Characters) -> Characters:
    """Those of the test whose alphabets training does not have."""
    seen = {name.split("/")[0] for name in train}
    return {
        name: drawings
        for name, drawings in test.items()
        if name.split("/")[0] not in seen
    }
