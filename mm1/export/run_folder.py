"""The run folder that an import makes: config, tokenizer and weights as if the model
had been trained here.

Weights go link by link (see `mapping`) from the published files into ours, in the type
they are stored in, so memory holds only a few tensors of the model at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mm1 import config as configs
from mm1.checksums import checksum, write_checksums
from mm1.data.tokenizer import Tokenizer
from mm1.export.mapping import NOTHING, Link, check_import, joined, ours_layout
from mm1.export.origin import Origin
from mm1.export.tokens import Vocabulary
from mm1.files import atomic_path, write_json
from mm1.loader.loader import Loader
from mm1.nn.model import Model
from mm1.progress import track_tensors
from mm1.runs.description import write_config, write_tokenizer
from mm1.runs.layout import SUMMARY
from mm1.train.trainer import Trainer
from mm1.weight_files import WeightFiles, write_sharded


@dataclass(frozen=True, slots=True)
class Import:
    """Everything that a run folder is made from, before a weight is read."""

    family: str
    model: Model.Config
    vocabulary: Vocabulary
    num_rows: int
    """Rows of the model's table of tokens, including new ones."""
    links: Sequence[Link]
    loader: Loader.Config
    """For rows or captions as long as the model was made for."""
    unused: str = NOTHING
    """Matches the names of published tensors that are left out, as a regular
    expression."""
    notes: Sequence[str] = ()
    """What the user should know about it."""


def write_run(
    folder: Path, source: Import, weights: WeightFiles, origin: Origin
) -> None:
    """Writes the run folder.

    Raises:
        ConfigError: weights are missing, left over, of another shape, or not finite;
            they are named.
    """
    with torch.device("meta"):
        model = source.model.build(vocab_size=source.num_rows)
    links = source.links
    check_import(links, model, weights, unused=source.unused)
    layouts = ours_layout(links, weights)
    total = sum(layout.num_bytes for layout in layouts.values())
    files = write_sharded(
        folder, layouts, track_tensors("import", joined(links, weights), total)
    )
    write_checksums(folder, {path.name: checksum(path) for path in files})
    dtypes = {layout.dtype for layout in layouts.values()}
    config = Trainer.Config(
        model=source.model,
        loader=source.loader,
        steps=0,
        precision="bf16"
        if dtypes & {torch.bfloat16, torch.float16}
        else "fp32",
    )
    write_config(folder, config)
    vocabulary = source.vocabulary
    write_tokenizer(folder, vocabulary.text, vocabulary.special_tokens)
    # It may be damaged, or a stranger's.
    Tokenizer.Config(path=str(folder)).build()
    summary = {
        "model": configs.path_of(source.model),
        "params": model.num_params(),
        "steps": 0,
        "data": {},
        "origin": origin.describe() | {"family": source.family},
        "finished": True,
    }
    write_json(folder / SUMMARY, summary)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` at the end, and deleted if an
    exception is raised.

    Raises:
        FileExistsError: there is something at `out`.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists already; choose another folder, or delete it"
        )
    with atomic_path(out) as folder:
        folder.mkdir()
        yield folder
