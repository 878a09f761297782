"""What pydantic finds wrong with a request, as one error that names the field as it was
sent."""

from collections.abc import Mapping, Sequence
from typing import Any

from mm1.chat.protocol import ApiError


def invalid_request(
    errors: Sequence[Mapping[str, Any]], sent: Mapping[str, Any]
) -> ApiError:
    """The most specific error: the one that is farthest inside the request, and of
    several kinds of value that a field may have the one of the kind that was sent.

    Args:
        errors: pydantic's, whose places begin with a key of `sent`.
    """
    error = max(errors, key=lambda each: _specificity(each, sent))
    if error["type"] == "json_invalid":
        return ApiError(f"the body is not JSON: {error['ctx']['error']}")
    if isinstance(sent["body"], bytes):
        return ApiError(
            "the body is not read as JSON: send Content-Type: application/json"
        )
    where = ".".join(map(str, _path(error, sent)[1:])) or None
    if error["type"] == "extra_forbidden":
        return ApiError(f"{where}: not supported by mm1", param=where)
    said = f"{where}: {error['msg']}" if where else error["msg"]
    return ApiError(said, param=where)


def _specificity(
    error: Mapping[str, Any], sent: Mapping[str, Any]
) -> tuple[int, bool]:
    return len(_path(error, sent)), not error["type"].endswith("_type")


def _path(error: Mapping[str, Any], sent: Mapping[str, Any]) -> list[str | int]:
    """The place without the names that pydantic gives to the kinds of value that a
    field may have: those lead nowhere in what was sent."""
    value: Any = sent
    path: list[str | int] = []
    for depth, key in enumerate(error["loc"], 1):
        inside = (
            0 <= key < len(value)
            if isinstance(key, int) and isinstance(value, list)
            else isinstance(value, Mapping) and key in value
        )
        if inside:
            value = value[key]
        missing = error["type"] == "missing" and depth == len(error["loc"])
        if inside or missing:
            path.append(key)
    return path
