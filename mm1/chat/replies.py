"""Tokens to the bodies of OpenAI's answers, whole or in chunks of a stream."""

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from mm1.chat.prompts import Generation
from mm1.data.tokenizer import Tokenizer
from mm1.infer.stream import StreamedToken

PART = "\N{REPLACEMENT CHARACTER}"
"""What the text of a token has in place of a part of a character."""


class Reply:
    """The bodies of one answer. `chat` or not decides their form; `log_probs` whether
    tokens come with their probabilities."""

    def __init__(
        self, asked: Generation, *, chat: bool, log_probs: bool
    ) -> None:
        self.asked = asked
        self.chat = chat
        self.log_probs = log_probs
        self.created = int(time.time())
        prefix = "chatcmpl" if chat else "cmpl"
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.offset = 0

    def whole(self, tokens: Sequence[StreamedToken]) -> dict[str, Any]:
        text = "".join(token.text for token in tokens)
        choice: dict[str, Any] = {"index": 0}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choice["logprobs"] = self._log_probs(tokens)
        choice["finish_reason"] = tokens[-1].finish
        return self._body([choice], "") | {"usage": self.usage(len(tokens))}

    def opening(self) -> dict[str, Any]:
        """A chat's first chunk."""
        return self._body([self._choice({"role": "assistant"})], ".chunk")

    def chunk(self, token: StreamedToken) -> dict[str, Any]:
        choice = self._choice({"content": token.text})
        if not self.chat:
            choice["text"] = token.text
            del choice["delta"]
        choice["logprobs"] = self._log_probs([token])
        choice["finish_reason"] = token.finish
        return self._body([choice], ".chunk" if self.chat else "")

    def last(self, num_tokens: int) -> dict[str, Any]:
        """The chunk with the number of tokens, where it was asked for."""
        body = self._body([], ".chunk" if self.chat else "")
        return body | {"usage": self.usage(num_tokens)}

    def usage(self, num_tokens: int) -> dict[str, int]:
        return {
            "prompt_tokens": self.asked.num_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self.asked.num_tokens + num_tokens,
        }

    def _choice(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": None}

    def _body(self, choices: list[Any], suffix: str) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": self.id,
            "object": kind + suffix,
            "created": self.created,
            "model": self.asked.name,
            "choices": choices,
        }

    def _log_probs(
        self, tokens: Sequence[StreamedToken]
    ) -> dict[str, Any] | None:
        if not self.log_probs:
            return None
        tokenizer = self.asked.run.trained.renderer.tokenizer
        if self.chat:
            content = [
                _entry(tokenizer, token.id, token.log_prob)
                | {
                    "top_logprobs": [
                        _entry(tokenizer, *pair) for pair in token.alternatives
                    ]
                }
                for token in tokens
            ]
            return {"content": content, "refusal": None}
        offsets = []
        for token in tokens:
            offsets.append(self.offset)
            self.offset += len(token.text)
        return {
            "tokens": [tokenizer.name(token.id) for token in tokens],
            "token_logprobs": [token.log_prob for token in tokens],
            "top_logprobs": [
                {tokenizer.name(i): value for i, value in token.alternatives}
                for token in tokens
            ],
            "text_offset": offsets,
        }


def _entry(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    """A token as OpenAI writes it, with its `id` besides. One that is a part of a
    character has no bytes: its text is only the sign for it."""
    name = tokenizer.name(token)
    return {
        "token": name,
        "logprob": value,
        "bytes": None if PART in name else list(name.encode()),
        "id": token,
    }


def event(body: dict[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(body)}\n\n"


DONE = "data: [DONE]\n\n"
