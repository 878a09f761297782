"""Where a published model comes from: a local folder, or a repository on the Hugging
Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from mm1.config import UserError

FILES = ("*.json", "*.safetensors", "README.md", "tokenizer.model")
NOT = ("*/*", "consolidated*")
"""Other formats of the same weights, which some repositories also hold."""


class Unreachable(UserError):
    """A model that is neither a local folder nor available from the hub."""


@dataclass(frozen=True, slots=True)
class Origin:
    folder: Path
    name: str
    """As the user gave it."""
    revision: str | None = None
    """The commit on the hub."""

    @property
    def licence(self) -> str | None:
        """As the model card states it."""
        card = self.folder / "README.md"
        if not card.is_file():
            return None
        head = re.match(
            r"---\n(.*?)\n---",
            card.read_text(encoding="utf-8", errors="replace"),
            re.DOTALL,
        )
        licence = head and re.search(
            r"^license:\s*(\S+)", head[1], re.MULTILINE
        )
        return licence[1] if licence else None

    def describe(self) -> dict[str, str | None]:
        return {
            "name": self.name,
            "revision": self.revision,
            "licence": self.licence,
        }


def find_model(name: str, *, pickle: bool = False) -> Origin:
    """A local folder, or `owner/model` or `owner/model@revision` on the hub, which is
    downloaded into the hub's cache.

    Raises:
        Unreachable: there is no such folder, and no such model on the hub or no access.
    """
    if Path(name).is_dir():
        return Origin(Path(name), name)
    identifier, _, revision = name.partition("@")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", identifier):
        raise Unreachable(
            f"no folder or file {name}; a model on the hub is named owner/model or"
            " owner/model@revision"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    patterns: list[str] = [*FILES, "*.bin"] if pickle else [*FILES]
    try:
        folder = snapshot_download(
            identifier,
            revision=revision or None,
            allow_patterns=patterns,
            ignore_patterns=[*NOT],
        )
    except (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        OSError,
    ) as error:
        raise Unreachable(
            f"no folder {name}, and it could not be downloaded from the hub"
            f" ({type(error).__name__}). Is the name right, do you have access, is"
            " there a network? Otherwise download it elsewhere, copy it, and name its"
            " folder"
        ) from error
    return Origin(Path(folder), identifier, Path(folder).name)
