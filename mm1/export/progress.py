"""How far a copy of weights is: a live line on a terminal, nothing elsewhere."""

import sys
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor


def shown(
    what: str, tensors: Iterable[tuple[str, Tensor]], num_bytes: int
) -> Iterator[tuple[str, Tensor]]:
    """The tensors as they come, with a bar of their bytes."""
    columns = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not sys.stderr.isatty(), transient=True
    ) as progress:
        task = progress.add_task("", total=num_bytes)
        for name, tensor in tensors:
            progress.update(task, description=name)
            yield name, tensor
            progress.advance(task, tensor.nbytes)
