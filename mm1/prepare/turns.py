"""The turns of a conversation, in whatever way a record holds them.

LLaVA, ShareGPT       conversations: [{"from": "human", "value": ...}, ...]
OpenAI, Hugging Face  messages: [{"role": "user", "content": ...}, ...]
The Cauldron          texts: [{"user": ..., "assistant": ...}, ...]
a dict of lists       messages: {"role": [...], "content": [...]}
a single exchange     question, answer; prompt, response; problem, solution ...
Alpaca                instruction, input, output, history, system
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mm1.config import nearest
from mm1.prepare.sources import Source, Unusable

TURN_COLUMNS = (
    "conversations",
    "messages",
    "conversation",
    "texts",
    "dialogue",
    "dialog",
)
"""Columns with a list of turns, in the order in which they are looked for."""
ROLE_FIELDS = ("role", "from", "speaker")
CONTENT_FIELDS = ("content", "value", "text")
EXCHANGES = (
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("query", "response"),
    ("problem", "solution"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "gpt"),
)
"""Fields of a question and its answer, of a turn or of a record."""
FURTHER_QUESTION = ("input", "context")
"""Fields that continue a record's question, as in Alpaca and Dolly."""
FLAT_COLUMNS = ("system", "history", *FURTHER_QUESTION)
CALLS = ("tool_calls", "function_call")

Role = Literal["user", "assistant", "context"]


class ConversationSource(Source):
    """A source of conversations: how they name their parts."""

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        role: str = ""
        """The field of a turn that says who speaks; empty: role, from or speaker."""
        content: str = ""
        """The field of a turn with what is said; empty: content, value or text."""
        question: str = ""
        """The field of a question, in a turn or a record that holds an exchange; empty:
        the known ones (`mm1.prepare.turns`)."""
        answer: str = ""
        """The field of its answer."""
        user_roles: tuple[str, ...] = ("user", "human")
        """Who asks, in any case of letters."""
        assistant_roles: tuple[str, ...] = (
            "assistant",
            "gpt",
            "model",
            "bot",
            "chatgpt",
            "function_call",
        )
        """Who answers; only this is learnt."""
        context_roles: tuple[str, ...] = (
            "system",
            "developer",
            "tool",
            "function",
            "observation",
            "ipython",
            "environment",
        )
        """What else is read and not learnt."""
        placeholder: str = ""
        """What stands for an image in a text; empty: any of the known spellings
        (`mm1.prepare.placeholders`)."""
        suffix: str = ""
        """A line after every question. LLaVA-1.5 (arXiv:2310.03744) asks for the short
        answers of academic sets with "Answer the question using a single word or
        phrase."; many files include it already."""


@dataclass(frozen=True, slots=True)
class Turn:
    role: Role
    content: Any
    """As the record has it: a text, or a list of parts."""
    fields: Mapping[str, Any]
    """The whole turn, which may name images."""


def read_turns(
    record: Mapping[str, Any],
    column: str,
    config: ConversationSource.Config,
) -> list[Turn]:
    """The turns of a record, from the column with their list, or else its exchange.

    `column`: empty for the known ones.

    Raises:
        Unusable: there is no conversation, or it has a turn of unknown form.
    """
    if name := turn_column(record, column):
        turns = list(_turns_of(_listed(record[name], name), config))
        if record.get("system") and turns[:1] and turns[0].role != "context":
            turns.insert(0, Turn("context", record["system"], {}))
        return turns
    fields = exchange_fields(record, config)
    if fields is None:
        raise Unusable(
            "no conversation",
            f"the record has {', '.join(map(str, record)) or 'nothing'}",
        )
    question, answer = (record.get(field) for field in fields)
    if isinstance(question, list) and isinstance(answer, list):
        return list(_turns_of([*question, *answer], config))
    return list(_exchange_with_context(record, fields))


def turn_column(record: Iterable[str], column: str) -> str:
    """The column with the list of turns; empty if there is none."""
    names = (column,) if column else TURN_COLUMNS
    return next((name for name in names if name in record), "")


def exchange_fields(
    record: Iterable[str], config: ConversationSource.Config
) -> tuple[str, str] | None:
    """The fields of a question and its answer, or None."""
    pairs: Sequence[tuple[str, str]] = EXCHANGES
    if config.question or config.answer:
        pairs = ((config.question or "question", config.answer or "answer"),)
    return next(
        (pair for pair in pairs if pair[0] in record and pair[1] in record),
        None,
    )


def _listed(value: Any, column: str) -> list[Any]:
    """A list of turns, also from JSON or from a dict of equally long lists."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Unusable("broken JSON", f"{column}: {error}") from error
    if isinstance(value, dict) and value:
        columns = list(value.values())
        if not all(isinstance(each, list) for each in columns):
            return [value]
        if len({len(each) for each in columns}) > 1:
            detail = ", ".join(f"{len(value[key])} {key}" for key in value)
            raise Unusable("lists of different length", f"{column}: {detail}")
        return [
            dict(zip(value, row, strict=True))
            for row in zip(*columns, strict=True)
        ]
    if not isinstance(value, list):
        raise Unusable(
            "no conversation", f"{column} is a {type(value).__name__}"
        )
    return value


def _turns_of(
    values: Sequence[Any], config: ConversationSource.Config
) -> Iterator[Turn]:
    for value in values:
        if not isinstance(value, dict):
            raise Unusable("no turn", f"one is a {type(value).__name__}")
        # Tables give all turns the fields that any of them has.
        held = {key: each for key, each in value.items() if each is not None}
        role_field = _known_field(held, config.role, ROLE_FIELDS)
        if role_field:
            yield _turn(held, role_field, config)
        elif fields := exchange_fields(held, config):
            yield Turn("user", value[fields[0]], value)
            yield Turn("assistant", value[fields[1]], {})
        else:
            raise Unusable(
                "unknown speaker", f"a turn has {', '.join(map(str, value))}"
            )


def _turn(
    value: dict[str, Any], role_field: str, config: ConversationSource.Config
) -> Turn:
    speaker = value[role_field]
    name = speaker.strip().lower() if isinstance(speaker, str) else ""
    roles: dict[str, Role] = {
        **dict.fromkeys(map(str.lower, config.context_roles), "context"),
        **dict.fromkeys(map(str.lower, config.user_roles), "user"),
        **dict.fromkeys(map(str.lower, config.assistant_roles), "assistant"),
    }
    if name not in roles:
        raise Unusable(
            "unknown speaker",
            f"{role_field} is {speaker!r}{nearest(name, roles)}",
        )
    if call := next((field for field in CALLS if value.get(field)), None):
        raise Unusable("a tool is called", f"{call} of {speaker!r} is no text")
    content_field = _known_field(value, config.content, CONTENT_FIELDS)
    return Turn(roles[name], value.get(content_field), value)


def _known_field(
    value: Mapping[str, Any], name: str, known: Sequence[str]
) -> str:
    names = (name,) if name else known
    return next((each for each in names if each in value), "")


def _exchange_with_context(
    record: Mapping[str, Any], fields: tuple[str, str]
) -> Iterator[Turn]:
    """The turns of a record that holds one exchange, and those before it."""
    question, answer = fields
    if record.get("system"):
        yield Turn("context", record["system"], {})
    for pair in record.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unusable("no turn", "history is no list of pairs")
        yield Turn("user", pair[0], {})
        yield Turn("assistant", pair[1], {})
    content = record[question]
    for field in FURTHER_QUESTION:
        further = record.get(field)
        if field not in fields and isinstance(further, str) and further.strip():
            content = f"{content}\n{further}"
    yield Turn("user", content, {})
    yield Turn("assistant", record[answer], {})
