"""A conversation as a document: questions without loss, answers with it, images in
their places.

The content of a turn is a text with placeholders, or a list of parts as chat APIs have
them: `{"type": "text", "text": ...}`, `{"type": "image"}` for the record's next image,
and an image that comes along, `{"type": "image_url", "image_url": {"url": ...}}`,
`{"type": "image", "image": ...}`. A record with a part or a placeholder of another kind
is dropped: its question would be learnt without what it is about.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.prepare import verify
from mm1.prepare.media_fields import (
    image_values,
    may_name_media,
    same_image,
)
from mm1.prepare.placeholders import Placeholder, split_at_placeholders
from mm1.prepare.sources import Unusable, raw_image
from mm1.prepare.turns import ConversationSource, Turn, read_turns

TEXT_PARTS = ("text", "input_text", "output_text")
IMAGE_PARTS = (
    "image",
    "image_url",
    "input_image",
    "image_path",
    "image_base64",
)
IMAGE_FIELDS = (
    "image",
    "image_url",
    "url",
    "path",
    "image_path",
    "data",
    "base64",
    "image_base64",
    "source",
    "bytes",
    "file",
    "content",
    "value",
)
"""Fields of an image part that hold the image."""

Piece = str | Placeholder
ReadImage = Callable[[Any], Image]


def parse_conversation(
    record: Mapping[str, Any],
    images: Sequence[Image],
    config: ConversationSource.Config | None = None,
    *,
    column: str = "",
    names: Sequence[Any] = (),
    read: ReadImage | None = None,
) -> Document:
    """The turns of a record, with images in place of their placeholders, or first if
    there are none.

    Args:
        images: those of the record as a whole.
        column: that of the turns; empty for the known ones.
        names: of the images, as the record has them: one that a part names too is not
            a further one.
        read: gets an image that a part or a placeholder holds or names.

    Raises:
        Unusable: not a conversation with answers, not an image for each placeholder,
            or media that are not read.
    """
    config = config or ConversationSource.Config()
    turns = read_turns(record, column, config)
    if all(turn.role != "assistant" for turn in turns):
        raise Unusable("no answer")
    contents = [_pieces(turn, config) for turn in turns]
    places = Places(images, names, read)
    is_marked = bool(_placeholders(contents))
    if not places.fit(contents) or (places.images and not is_marked):
        # Perhaps the answers show them, as in data for generation.
        in_answers = [_split_answer(pieces, config) for pieces in contents]
        if _placeholders(in_answers) and places.fit(in_answers):
            contents = in_answers
        elif not places.fit(contents):
            raise Unusable(
                "marks and images differ", places.difference(contents)
            )
    parts: list[Text | Image] = list(places.first(contents))
    for turn, pieces in zip(turns, contents, strict=True):
        if turn.role == "assistant":
            parts += _answer(places.filled(pieces))
        else:
            suffix = config.suffix if turn.role == "user" else ""
            parts += question_parts(places.filled(pieces), suffix)
    return Document(tuple(parts))


class Places:
    """Which image goes where: for each placeholder one, and none left over."""

    def __init__(
        self,
        images: Sequence[Image],
        names: Sequence[Any],
        read: ReadImage | None,
    ) -> None:
        self.images = images
        self.names = names
        self.read = read
        self.next_image: Iterator[int] = iter(())
        self.first_number = 1

    def fit(self, contents: Sequence[Sequence[Piece]]) -> bool:
        """Whether the images fit the placeholders; prepares to fill them if so."""
        marks = _placeholders(contents)
        numbers = {mark.number for mark in marks if mark.number is not None}
        self.first_number = 0 if 0 in numbers else 1
        used = {number - self.first_number for number in numbers}
        for mark in marks:
            used.update(self._named(mark))
        rest = [i for i in range(len(self.images)) if i not in used]
        num_next = sum(
            mark.number is None and mark.value is None for mark in marks
        )
        self.next_image = iter(rest)
        are_known = all(i < len(self.images) for i in used)
        return are_known and (len(rest) == num_next or not marks)

    def difference(self, contents: Sequence[Sequence[Piece]]) -> str:
        marks = _placeholders(contents)
        given = sum(mark.value is not None for mark in marks)
        return (
            f"{len(marks)} places for images, {len(self.images)} images"
            + f"; {given} of the places name theirs" * bool(given)
        )

    def first(self, contents: Sequence[Sequence[Piece]]) -> Sequence[Image]:
        """The images that have no place of their own."""
        return () if _placeholders(contents) else self.images

    def filled(self, pieces: Sequence[Piece]) -> list[str | Image]:
        return [
            piece if isinstance(piece, str) else self._image(piece)
            for piece in pieces
        ]

    def _image(self, mark: Placeholder) -> Image:
        if mark.number is not None:
            return self.images[mark.number - self.first_number]
        if mark.value is None:
            return self.images[next(self.next_image)]
        if named := self._named(mark):
            return self.images[named[0]]
        if self.read is None:
            return raw_image(Unusable("no image", "it is given in a turn"))
        return self.read(mark.value)

    def _named(self, mark: Placeholder) -> list[int]:
        """Which images of the record are the one that a placeholder holds or names."""
        if mark.value is None:
            return []
        return [
            i
            for i, name in enumerate(self.names)
            if same_image(name, mark.value)
        ]


def _placeholders(contents: Sequence[Sequence[Piece]]) -> list[Placeholder]:
    return [
        piece
        for pieces in contents
        for piece in pieces
        if isinstance(piece, Placeholder)
    ]


def _pieces(turn: Turn, config: ConversationSource.Config) -> list[Piece]:
    """The content of a turn as texts and placeholders. In an answer's text a
    placeholder stays text."""
    pieces: list[Piece] = []
    for piece in _content_pieces(turn):
        if isinstance(piece, str) and turn.role != "assistant":
            pieces += split_at_placeholders(piece, config.placeholder)
        else:
            pieces.append(piece)
    images = image_values(
        {
            name: value
            for name, value in turn.fields.items()
            if value is not turn.content
        },
        "",
    )
    if not images:
        return pieces
    num_marks = len(_placeholders([pieces]))
    if num_marks not in (0, len(images)):
        detail = f"{num_marks} places in a turn, {len(images)} images"
        raise Unusable("marks and images differ", detail)
    values = [Placeholder(value=value) for value in images]
    if not num_marks:
        return [*values, *pieces]
    waiting = iter(values)
    return [each if isinstance(each, str) else next(waiting) for each in pieces]


def _content_pieces(turn: Turn) -> Iterator[Piece]:
    content = turn.content
    if content is None:
        raise Unusable(
            "no content", f"a turn has {', '.join(map(str, turn.fields))}"
        )
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            yield _part_piece(part)
        else:
            what = "answer" if turn.role == "assistant" else "question"
            raise Unusable(f"no {what}", f"it is a {type(part).__name__}")


def _part_piece(part: Mapping[str, Any]) -> Piece:
    """One part of a content: the text or the place of the image that it is."""
    held = [key for key, value in part.items() if value is not None]
    kind = part.get("type")
    if kind is None:
        kind = next((key for key in ("text", *IMAGE_PARTS) if key in held), "")
    if kind in TEXT_PARTS:
        _refuse_others(part, kind, {"text", "content", "value"})
        text = next(
            (part[key] for key in ("text", "content", "value") if key in held),
            None,
        )
        if not isinstance(text, str):
            raise Unusable("no text", f"in a part of type {kind!r}")
        return text
    if kind not in IMAGE_PARTS:
        raise Unusable("unknown part of a turn", f"its type is {kind!r}")
    _refuse_others(part, kind, set(IMAGE_FIELDS))
    value = next((part[key] for key in IMAGE_FIELDS if part.get(key)), None)
    if value is None and kind != "image":
        raise Unusable("no image", f"a part of type {kind!r} has none")
    index = part.get("index")
    if isinstance(index, int) and value is None:
        return Placeholder(number=index + 1)
    return Placeholder(value=_image_value(value))


def _refuse_others(part: Mapping[str, Any], kind: str, own: set[str]) -> None:
    """Refuse a part that is of one type and holds text or media of another."""
    for key, value in part.items():
        is_content = key in ("text", *IMAGE_PARTS) or may_name_media(key)
        if value and is_content and key not in own:
            raise Unusable("unknown part of a turn", f"{kind} with {key!r}")


def _image_value(value: Any) -> Any:
    """The image itself, of OpenAI's `{"url": ...}` and Anthropic's source."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("data"), str):
        return f"data:;base64,{value['data']}"
    return value.get("url") or value


def _split_answer(
    pieces: Sequence[Piece], config: ConversationSource.Config
) -> list[Piece]:
    return [
        each
        for piece in pieces
        for each in (
            split_at_placeholders(piece, config.placeholder)
            if isinstance(piece, str)
            else [piece]
        )
    ]


def question_parts(
    pieces: Sequence[str | Image], suffix: str
) -> Iterator[Text | Image]:
    """A question with its images, as training and chat lay it out: texts without loss;
    the last one ends with a line break."""
    pieces = _joined(pieces)
    if isinstance(pieces[0], str):
        pieces[0] = pieces[0].lstrip()
    if isinstance(last := pieces[-1], str):
        pieces[-1] = last.rstrip()
    if suffix and isinstance(last := pieces[-1], str):
        pieces[-1] = f"{last}\n{suffix}"
    elif suffix:
        pieces.append(suffix)
    for number, piece in enumerate(pieces, 1):
        if isinstance(piece, Image):
            yield piece
        elif piece.strip():
            text = piece.strip("\r\n")
            is_last = number == len(pieces)
            yield Text(text + "\n" if is_last else text, loss=False)


def _answer(pieces: Sequence[str | Image]) -> Iterator[Text | Image]:
    """Texts with loss; the last one ends with an end token."""
    pieces = _joined(pieces)
    texts = [piece for piece in pieces if isinstance(piece, str)]
    verify.check_text("".join(texts), "answer")
    if isinstance(pieces[-1], Image):
        pieces.append("")
    for number, piece in enumerate(pieces, 1):
        is_last = number == len(pieces)
        if isinstance(piece, Image):
            yield piece
        elif piece.strip() or is_last:
            yield Text(piece.strip(), end=is_last)


def _joined(pieces: Sequence[str | Image]) -> list[str | Image]:
    """The pieces with adjacent texts as one; at least one piece."""
    joined: list[str | Image] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined or [""]
