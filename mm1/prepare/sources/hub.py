"""Whatever `datasets.load_dataset` opens: a local folder, or a name on the Hugging Face
hub, streamed.

    mm1 prepare hub data/birds          source.text=caption    images + metadata.csv
    mm1 prepare hub lmms-lab/COCO-Cap   source.split=val source.text=answer
    mm1 prepare hub data/pages          source.image=images source.text=texts
    mm1 prepare hub data/chats          source.image=images source.messages=messages

The columns decide what a row becomes: an image and a text are a pair, two lists an
interleaved page (as `interleaved`), `messages` a conversation (as `instructions`), a
text alone a text. Nothing is copied to a cache. A folder that `save_to_disk` wrote is
opened too. Images given by path must be in the folder, or in the data set on the hub.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.config import ConfigError, nearest
from mm1.data.document import Document, Image, Text
from mm1.prepare import verify
from mm1.prepare.conversation import parse_conversation
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.sources import DOT, Record, Source, Unusable, raw_image
from mm1.prepare.sources.interleaved import parse_interleaved_page


class Hub(Source):
    """Columns of a data set."""

    EXAMPLE = {"image": DOT, "text": "A photo of a dog on a beach."}
    PATTERNS = ()  # the library finds the files itself

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        subset: str = ""
        """One of the data set's configurations; empty: its default."""
        split: str = "train"
        revision: str = ""
        """A commit or branch on the hub; empty: the newest."""
        image: str = "image"
        """The column with an image or a list of them; empty: there is none."""
        text: str = "text"
        """The column with a text or a list of texts."""
        messages: str = ""
        """The column with a conversation, in place of `text`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    @classmethod
    def find(cls, path: Path) -> list[Path]:
        if not path.is_dir() and (path.exists() or not _may_be_name(path)):
            raise FileNotFoundError(
                f"no folder {path}, and not the name of a data set on the hub"
            )
        return [path]

    def read(self, path: Path) -> Iterator[Record]:
        self.find(path)
        rows = self._open(path)
        number = 0
        try:
            for row in rows:
                yield Record(str(number), self._read_columns(path, row))
                number += 1
        except ConfigError:
            raise
        # The readers of all these formats raise all kinds of errors on damaged files.
        except Exception as error:
            yield Record(
                str(number),
                Unusable(
                    "damaged data set", f"nothing is read from here on: {error}"
                ),
            )

    def _open(self, path: Path) -> Iterable[dict[str, Any]]:
        import datasets

        config = self.config
        if (path / "state.json").is_file() or (
            path / "dataset_dict.json"
        ).is_file():
            saved: Any = datasets.load_from_disk(str(path))
            if isinstance(saved, dict):
                if config.split not in saved:
                    raise ConfigError(
                        f"{path} has no split"
                        f" {config.split!r}{nearest(config.split, saved)}"
                    )
                saved = saved[config.split]
            return saved.to_iterable_dataset().decode(False)
        try:
            loaded: Any = datasets.load_dataset(
                str(path),
                config.subset or None,
                split=config.split,
                revision=config.revision or None,
                streaming=True,
            )
        except OSError:
            raise
        # An unknown split or subset, or files that it does not know or cannot read.
        except Exception as error:
            raise ConfigError(
                f"datasets cannot open {path}: {error}"
            ) from error
        return loaded.decode(False)

    def _read_columns(self, path: Path, row: dict[str, Any]) -> dict[str, Any]:
        """The columns that the config names, with images read."""
        image = self.config.image
        words = self.config.messages or self.config.text
        for column in (image, words):
            if column and column not in row:
                raise ConfigError(
                    f"{path} has no column {column!r}{nearest(column, row)}"
                )
        columns = {words: row[words]}
        if image and isinstance(row[image], list):
            columns[image] = [
                None if value is None else _read_image(value, path)
                for value in row[image]
            ]
        elif image:
            columns[image] = _read_image(row[image], path)
        return columns

    def document(self, data: Any) -> Document:
        config = self.config
        words = data.get(config.messages or config.text)
        images = data.get(config.image) if config.image else None
        if config.messages:
            if not isinstance(images, list):
                images = [] if images is None else [images]
            return parse_conversation({"messages": words}, images)
        if isinstance(words, list):
            return parse_interleaved_page(
                images if config.image else [None] * len(words), words
            )
        text = Text(verify.check_text(words, "text").strip())
        return Document(
            (raw_image(images), text) if images is not None else (text,)
        )


def _read_image(value: Any, path: Path) -> Image:
    """An image of the data set at `path`: in its folder, or in its repository on the
    hub, also inside a zip file."""
    place = (
        value.get("path")
        if isinstance(value, dict) and value.get("bytes") is None
        else None
    )
    inside, _, container = str(place or "").rpartition("::")
    is_ours = container.startswith(f"hf://datasets/{path.as_posix()}@")
    if not is_ours and not inside.startswith("zip://"):
        return ImageFolder(path).read(value)
    if not is_ours and not Path(container).resolve().is_relative_to(
        path.resolve()
    ):
        return raw_image(
            Unusable(
                "path out of the image folder", f"{place} is not in {path}"
            )
        )
    import fsspec

    try:
        with fsspec.open(place, "rb") as file:
            return raw_image(file.read())  # type: ignore[union-attr]
    except Exception as error:  # fsspec's file systems have errors of their own
        return raw_image(Unusable("unreadable image file", f"{place}: {error}"))


def _may_be_name(path: Path) -> bool:
    """Whether the path has the form `name` or `owner/name`."""
    return (
        not path.is_absolute()
        and len(path.parts) in (1, 2)
        and path.parts[0] not in (".", "..")
    )
