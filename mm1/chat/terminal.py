"""`mm1 chat RUN --terminal`: a conversation where there is no browser."""

import shlex
from collections.abc import Callable, Iterable

from mm1.config import UserError
from mm1.data.document import Image
from mm1.data.tokenizer import check_unicode
from mm1.infer.dialogue import STOP, Message, lay_out
from mm1.infer.pictures import encoded_image
from mm1.infer.prefix_caches import PrefixCaches
from mm1.infer.sampling import Sampling
from mm1.loaded_run import LoadedRun

HELP = """A line is a question; pictures come before it with /image.
/image PATH ...   pictures for the next question
/answer TEXT      the question so far with your answer to it, as a shot
/new              begin again
/quit             or Ctrl-D"""
CACHED_TOKENS = 16_384


class Terminal:
    """The conversation with a run so far."""

    def __init__(
        self,
        run: LoadedRun,
        *,
        max_tokens: int,
        sampling: Sampling,
        write: Callable[[str], object],
    ) -> None:
        self.run = run
        self.max_tokens = max_tokens
        self.sampling = sampling
        self.write = write
        self.prefixes = PrefixCaches(CACHED_TOKENS)
        self.messages: list[Message] = []
        self.waiting: list[str | Image] = []
        """Pictures of the next question."""

    def talk(self, lines: Iterable[str]) -> None:
        """Answers line after line; a mistake is one line."""
        for line in lines:
            if line.strip() == "/quit":
                return
            try:
                self.read(line.rstrip("\n"))
            except (UserError, ValueError) as error:
                self.write(f"{error}\n")
            except OSError as error:  # of a picture's file
                self.write(f"{error.filename}: {error.strerror}\n")

    def read(self, line: str) -> None:
        command, _, rest = line.strip().partition(" ")
        if command != "/image":  # a path may be any bytes
            check_unicode(line)
        if command == "/image":
            self.waiting += [encoded_image(path) for path in shlex.split(rest)]
        elif command == "/answer":
            self._ask("")
            self._say(rest)
        elif command == "/new":
            self.messages.clear()
            self.waiting.clear()
        elif command.startswith("/"):
            self.write(f"{HELP}\n")
        elif line.strip() or self.waiting:
            self._ask(line)
            self._answer()

    def _ask(self, line: str) -> None:
        parts = (*self.waiting, line) if line else tuple(self.waiting)
        self.messages.append(Message("user", parts))
        self.waiting = []

    def _say(self, text: str) -> None:
        self.messages.append(Message("assistant", (text,)))

    def _answer(self) -> None:
        layout = self.run.layout
        said = ""
        try:
            for token in self.run.predictor.stream(
                lay_out(self.messages, layout),
                max_tokens=self.max_tokens,
                stop=STOP[layout],
                sampling=self.sampling,
                prefixes=self.prefixes,
            ):
                said += token.text
                self.write(token.text)
        except BaseException:
            self.messages.pop()
            raise
        self.write("\n")
        self._say(said)
