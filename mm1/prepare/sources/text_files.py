"""Folders of plain text: each `.txt` or `.md` file, at any depth, is one document.

essays/2019/spring.txt    essays/2019/autumn.txt    essays/notes.md
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import verify
from mm1.prepare.samples import read_small_file
from mm1.prepare.sources import Record, Source


class TextFiles(Source):
    """Text without images, one document a file."""

    EXAMPLE = b"It is a truth universally acknowledged."
    PATTERNS = ("*.txt", "*.md")
    READS_FOLDERS = True

    def read(self, path: Path) -> Iterator[Record]:
        path.stat()
        if not path.is_dir():
            yield Record(path.name, read_small_file(path))
            return
        for file in self.files_in(path):
            yield Record(
                file.relative_to(path).as_posix(), read_small_file(file)
            )

    def document(self, data: Any) -> Document:
        return Document(
            (Text(verify.check_text(verify.decode_utf8(data), "text")),)
        )
