"""Whatever `datasets.load_dataset` opens: a local folder, or a name on the Hugging Face
hub, streamed.

    mm1 prepare hub data/birds          source.text=caption    images + metadata.csv
    mm1 prepare hub lmms-lab/COCO-Cap   source.split=val source.text=answer
    mm1 prepare hub data/pages          source.image=images source.text=texts
    mm1 prepare hub data/chats          source.image=images source.messages=messages
    mm1 prepare hub owner/vqa           source.question=question source.answer=answer

The columns decide what a row becomes: an image and a text are a pair, two lists an
interleaved page (as `interleaved`), turns or an exchange a conversation (as
`instructions`), a text alone a text. A row whose image is null is a text or a
conversation without images, and counted as such. Nothing is copied to a cache. A folder
that `save_to_disk` wrote is opened too. Images given by path must be in the folder, or
in the data set on the hub.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm1.config import ConfigError, nearest
from mm1.data.document import Document, Image, Text
from mm1.prepare import verify
from mm1.prepare.conversation import parse_conversation
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.media_fields import image_values
from mm1.prepare.sources import DOT, Record, Unusable, raw_image
from mm1.prepare.sources.interleaved import (
    numbered,
    parse_interleaved_page,
    split_articles,
)
from mm1.prepare.turns import ConversationSource
from mm1.storage.remote_path import check_local


class Hub(ConversationSource):
    """Columns of a data set."""

    EXAMPLE = {"row": {"image": DOT, "text": "A photo of a dog on a beach."}}
    PATTERNS = ()  # the library finds the files itself
    NAMES_IMAGES = True

    @dataclass(kw_only=True, slots=True)
    class Config(ConversationSource.Config):
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
        check_local(path)
        if not path.is_dir() and (
            path.exists() or not _may_be_name(path) or _is_format(path)
        ):
            raise FileNotFoundError(
                f"no folder {path}, and not the name of a data set on the hub"
            )
        return [path]

    def read(self, path: Path) -> Iterator[Record]:
        self.find(path)
        rows = self._open(path)
        seen = set(getattr(rows, "column_names", None) or [])
        if seen:
            self._require_columns(path, seen)
        number = 0
        try:
            for row in rows:
                if not row.keys() <= seen or not number:
                    seen |= row.keys()
                    self._require_columns(path, seen, images=False)
                for key, part in numbered(str(number), self._articles(row)):
                    yield Record(key, {"row": part, "path": path})
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
        if number:
            # Only now: without features, rows without an image lack the column.
            self._require_columns(path, seen)
        for column in sorted(seen - self._columns()):
            self.skipped.add("column", column)

    def _columns(self) -> set[str]:
        config = self.config
        words = {config.messages or config.text}
        if config.question or config.answer:
            words = {config.question or "question", config.answer or "answer"}
        return (words | {config.image}) - {""}

    def _require_columns(
        self, path: Path, known: set[str], *, images: bool = True
    ) -> None:
        for column in sorted(self._columns() - known):
            if column != self.config.image:
                raise ConfigError(
                    f"{path} has no column {column!r}{nearest(column, known)}"
                )
            if images:
                raise ConfigError(
                    f"{path} has no column {column!r}{nearest(column, known)}"
                    " (source.image= for a data set without images)"
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
        # A folder by its whole path: of `csv` alone the library would take files of
        # that format in the current folder.
        name = str(path.resolve() if path.is_dir() else path)
        try:
            loaded: Any = datasets.load_dataset(
                name,
                config.subset or None,
                split=config.split,
                revision=config.revision or None,
                streaming=True,
            )
            if path.is_dir():
                self._count_other_files(Path(name))
        except OSError:
            raise
        # An unknown split or subset, or files that it does not know or cannot read.
        except Exception as error:
            raise ConfigError(
                f"datasets cannot open {path}: {error}"
            ) from error
        # CSV and plain text have no features before they are read, and no images.
        return loaded if loaded.features is None else loaded.decode(False)

    def _count_other_files(self, folder: Path) -> None:
        """Count what `datasets` does not read: files of other splits, and, as it takes
        those of the most frequent kind, of other kinds."""
        import datasets

        builder = datasets.load_dataset_builder(
            str(folder), self.config.subset or None
        )
        splits = {
            Path(str(file)): str(split)
            for split, files in (builder.config.data_files or {}).items()
            for file in files
        }
        for file in sorted(folder.rglob("*")):
            split = splits.get(file, "")
            name = file.relative_to(folder).as_posix()
            if split and split != self.config.split:
                self.skipped.add(f"file of split {split}", name)
            elif not (split or file.is_dir() or self._may_be_named(file)):
                self.skipped.add(f"{file.suffix.lower()} file".strip(), name)

    def _articles(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The row, or, of a page, a row for each of its articles."""
        config = self.config
        words = row.get(config.text)
        if self._is_conversation(row) or not isinstance(words, list):
            return [row]
        images = row.get(config.image) if config.image else None
        if images is None:
            images = [None] * len(words)
        return [
            row | {config.image: pictures, config.text: texts}
            for pictures, texts in split_articles(images, words)
        ]

    def _is_conversation(self, row: dict[str, Any]) -> bool:
        config = self.config
        words = row.get(config.text)
        return bool(config.messages or config.question or config.answer) or (
            isinstance(words, list) and any(isinstance(w, dict) for w in words)
        )

    def document(self, data: Any) -> Document:
        config = self.config
        row = data["row"]
        read = partial(_read_image, path=data.get("path", Path()))
        words = row.get(config.text)
        if self._is_conversation(row):
            values = image_values(row, config.image) if config.image else []
            is_exchange = config.question or config.answer
            column = "" if is_exchange else config.messages or config.text
            self.noted["without an image"] += bool(config.image) and not values
            return parse_conversation(
                row,
                [read(value) for value in values],
                config,
                column=column,
                names=values,
                read=read,
            )
        if isinstance(words, list):
            images = row[config.image]
            if isinstance(images, list):
                images = [None if v is None else read(v) for v in images]
            return parse_interleaved_page(images, words)
        text = Text(verify.check_text(words, "text").strip())
        value = row.get(config.image) if config.image else None
        if value is None:
            self.noted["without an image"] += bool(config.image)
            return Document((text,))
        values = value if isinstance(value, list) else [value]
        return Document((*map(read, values), text))


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
        return ImageFolder(path.resolve() if path.is_dir() else path).read(
            value
        )
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


def _is_format(path: Path) -> bool:
    """Whether `load_dataset` takes the name for a format, such as csv."""
    if len(path.parts) > 1:
        return False
    from datasets import packaged_modules

    return str(path) in packaged_modules._PACKAGED_DATASETS_MODULES
