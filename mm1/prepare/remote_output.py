"""A folder that a preparation writes to an object store.

It is made on this machine, beside the cache (`mm1.storage.cache`). The shards of a raw
file are put where they belong as soon as the file is finished, and are not kept here;
the manifest comes last, so a folder with a manifest is always finished. Until then
`unfinished.json` says there what is being made: another preparation keeps away, and the
same command resumes on this machine or begins anew on another one. Its bytes are those
of a local folder.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.files import read_object, write_json
from mm1.prepare.output_folder import OutputFolder, open_output_folder
from mm1.storage.cache import cache_folder
from mm1.storage.remote_file import put_file
from mm1.storage.remote_path import RemotePath

UNFINISHED = "unfinished.json"
MANIFEST = "manifest.json"


@contextmanager
def open_output(out: Path, plan: dict[str, Any]) -> Iterator[OutputFolder]:
    """`open_output_folder` for a folder that may be at an object store.

    Raises:
        ConfigError: as that does, or another preparation is unfinished there.
    """
    if not isinstance(out, RemotePath):
        with open_output_folder(out, plan) as output:
            yield output
        return
    if not is_unfinished(out, plan):
        write_json(out / UNFINISHED, {"plan": _digest(plan)})
    with open_output_folder(_local_folder(out), plan) as output:
        output.shards_go_to = out
        yield output
    finish_upload(out)


def is_unfinished(out: RemotePath, plan: dict[str, Any]) -> bool:
    """Was this very preparation begun there, and is not finished?

    Raises:
        ConfigError: another one was.
    """
    path = out / UNFINISHED
    if not path.is_file():
        return False
    remedy = f"delete {out}, and prepare the data again"
    if read_object(path, remedy).get("plan") != _digest(plan):
        raise ConfigError(
            f"{out} holds a part of another preparation (other raw files, options or"
            " tokenizer): finish it with its own command, delete the folder, or choose"
            " another one"
        )
    return True


def finish_upload(out: RemotePath) -> None:
    """Puts what lies finished on this machine, if anything does, the manifest last."""
    folder = _local_folder(out)
    if not folder.exists():
        return
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == MANIFEST, path)):
        put_file(path, str(out / path.relative_to(folder)))
    (out / UNFINISHED).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _local_folder(out: RemotePath) -> Path:
    digest = hashlib.sha256(str(out).encode()).hexdigest()[:16]
    return cache_folder() / "prepare" / f"{out.name}-{digest}"


def _digest(plan: dict[str, Any]) -> str:
    text = json.dumps(plan, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
