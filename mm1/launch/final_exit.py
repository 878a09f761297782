"""How a rank tells its launcher that another start would end in the same way.

torchrun starts ranks again after any exit code but 0, and its own is then 1. A rank
that has found a mistake of the user's, or has diverged, writes its exit code to a file
and asks torchrun to stop; whoever has started torchrun reads the file.
"""

import os
import signal
from pathlib import Path

EXIT_FILES = "MM1_EXIT_FILES"
"""In the environment: what the files' paths begin with; each node has its own."""
FINAL_CODES = (2, 3)
"""Exit codes of a user's mistake and of a run that has diverged."""


def end_restarts(code: int) -> None:
    """Called by a rank that ends with a mistake; the first of each node counts. Does
    nothing for codes other than `FINAL_CODES`, or if no launcher reads the file."""
    start = os.environ.get(EXIT_FILES)
    if (
        code not in FINAL_CODES
        or start is None
        or "TORCHELASTIC_RUN_ID" not in os.environ
    ):
        return
    try:
        with Path(f"{start}-{os.environ['GROUP_RANK']}").open("x") as file:
            file.write(f"{code}\n")
    except OSError:  # another rank was first, or the disk is full
        return
    os.kill(os.getppid(), signal.SIGTERM)


def final_exit_code(start: Path) -> int | None:
    """The exit code that ranks have left behind, if any."""
    for path in sorted(start.parent.glob(f"{start.name}-*")):
        if (text := path.read_text().strip()).isdecimal():
            return int(text)
    return None
