"""The fields of a record that name images, and those that name media which are not
read: a question must not be learnt without what it is about."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from mm1.prepare.sources import IMAGE_SUFFIXES, Unusable

IMAGE_COLUMNS = ("image", "images")
NUMBERED = re.compile(r"(?:image|img)_?(\d{1,3})")
"""Columns of one image each, as MMMU's `image_1`, `image_2`."""

_KINDS = r"(?:image|img|picture|photo|video|audio|speech)s?"
_HOW = (
    r"(?:_?(?:path|file|filename|url|uri|base64|b64|bytes|data|list)s?)?"
    r"(?:_?\d{1,3})?"
)
_MEDIA = re.compile(rf"{_KINDS}{_HOW}", re.I)
_PERHAPS = re.compile(
    rf"(?:\w{{1,40}}_)?(?:{_KINDS}|figures?|screenshots?|frames?|sounds?|voices?|media"
    rf"|attachments?|point_?clouds?|pdfs?|documents?){_HOW}|file_?(?:name|path)?s?|path",
    re.I,
)
"""These hold media only where the value looks like some."""
MEDIA_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".mp3", ".wav", ".flac", ".ogg"),
    ".pdf",
)


def may_name_media(column: str) -> bool:
    """Whether a column's name says that it holds or names images, video or audio."""
    return bool(_MEDIA.fullmatch(column) or _PERHAPS.fullmatch(column))


def image_values(record: Mapping[str, Any], column: str) -> list[Any]:
    """The images of a record as it has them: those of `column`, or, if it is empty, of
    `image`, `images` or numbered columns.

    Raises:
        Unusable: it names media that are not among them.
    """
    columns = [column] if column else _image_columns(record)
    values = []
    for each in columns:
        value = record.get(each)
        if value:
            values += value if isinstance(value, list) else [value]
    for name, value in record.items():
        if name in columns or not _is_media(str(name), value):
            continue
        items = value if isinstance(value, list) else [value]
        for item in filter(None, items):
            if not any(same_image(item, value) for value in values):
                raise Unusable(
                    "media that is not read", f"in the field {name!r}"
                )
    return values


def _image_columns(record: Mapping[str, Any]) -> list[str]:
    present = [name for name in IMAGE_COLUMNS if record.get(name)]
    if present:
        return present[-1:] if _repeats(record) else present[:1]
    numbered = [
        (int(match[1]), name)
        for name in record
        if (match := NUMBERED.fullmatch(str(name))) and record[name]
    ]
    return [name for _, name in sorted(numbered)]


def _repeats(record: Mapping[str, Any]) -> bool:
    """Whether `image` is one of several `images`."""
    images = record.get("images")
    return isinstance(images, list) and record.get("image") in images


def _is_media(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return any(_is_media(name, item) for item in value)
    if isinstance(value, dict):
        return any(
            value.get(key) for key in ("bytes", "path", "url")
        ) and may_name_media(name)
    if isinstance(value, bytes):
        return bool(value)
    if not isinstance(value, str) or not value.strip():
        return False
    if _MEDIA.fullmatch(name):
        return True
    is_media = value.startswith("data:") or (
        PurePosixPath(value).suffix.lower() in MEDIA_SUFFIXES
    )
    return is_media and bool(_PERHAPS.fullmatch(name))


def same_image(one: Any, other: Any) -> bool:
    """Whether two fields hold or name one image: equal bytes, or paths of which one is
    the end of the other, as a file's name alone is."""
    one = _identity(one)
    other = _identity(other)
    if isinstance(one, str) and isinstance(other, str):
        short, long = sorted(
            (PurePosixPath(path.lstrip("/")).parts for path in (one, other)),
            key=len,
        )
        return bool(short) and long[-len(short) :] == short
    return one is other or (isinstance(one, bytes) and one == other)


def _identity(value: Any) -> Any:
    if isinstance(value, dict):
        return value.get("path") or value.get("url") or value.get("bytes")
    return value
