"""Bodies of requests as OpenAI's clients send them; what is not computed is refused by
name, never ignored. Two fields are ours: `layout` and, for completions, `images`."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mm1.config import UserError
from mm1.infer.dialogue import PromptLayout

MAX_STOPS = 16
MAX_ALTERNATIVES = 20

NEUTRAL: dict[str, Any] = {
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "logit_bias": {},
    "best_of": 1,
    "echo": False,
    "store": False,
}
"""What a field that is not supported may be: then it changes nothing."""

StopString = Annotated[str, Field(min_length=1, max_length=256)]


class ApiError(UserError):
    """An error in the form that OpenAI's clients read."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, data: Any) -> Any:
        """Null is what is not said."""
        if not isinstance(data, dict):
            return data
        return {
            name: value for name, value in data.items() if value is not None
        }


class TextPart(_Body):
    type: Literal["text"]
    text: str


class ImageUrl(_Body):
    url: str
    detail: str | None = None
    """Accepted and without effect: the run decides how an image is split."""


class ImagePart(_Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ChatMessage(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None


class StreamOptions(_Body):
    include_usage: bool = False


class GenerationBody(_Body):
    """What chats and completions share."""

    model: str | None = None
    temperature: float = Field(0.0, ge=0, le=100)
    """0, the default, is greedy: what evaluation does."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1)
    stop: (
        StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)]
    ) = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_neutral(cls, data: Any) -> Any:
        """Clients send fields that are not supported with values that ask for
        nothing."""
        if not isinstance(data, dict):
            return data
        return {
            name: value
            for name, value in data.items()
            if name not in NEUTRAL or value != NEUTRAL[name]
        }

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens

    @property
    def num_alternatives(self) -> int:
        raise NotImplementedError


class PromptBody(_Body):
    """A conversation, and how it is laid out."""

    model: str | None = None
    messages: list[ChatMessage] = Field(min_length=1)
    layout: PromptLayout | None = None
    """None: the run's own (`mm1.loaded_run`)."""


class ChatBody(PromptBody, GenerationBody):
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_ALTERNATIVES)

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int, info: Any) -> int:
        if not info.data.get("logprobs"):
            raise PydanticCustomError(
                "without_logprobs", "logprobs must be true"
            )
        return value

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def num_alternatives(self) -> int:
        return self.top_logprobs


class CompletionBody(GenerationBody):
    prompt: str
    images: list[str] = Field(default_factory=list)
    """Data URLs, one for each `<image>` in the prompt."""
    logprobs: int | None = Field(None, ge=0, le=MAX_ALTERNATIVES)

    @property
    def num_alternatives(self) -> int:
        return self.logprobs or 0
