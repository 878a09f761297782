"""The run folder that an import makes: config, tokenizer and weights as if the model
had been trained here.

The weights go link by link (`mapping`) from the published files into ours, in the type
they are stored in: memory holds one tensor of the model. A folder is made aside and
takes its name when it is whole.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mm1 import config as configs
from mm1.data.tokenizer import SPECIAL_TOKENS, TOKENIZER, Roles
from mm1.export.mapping import Link, check, joined, ours_layout
from mm1.export.origin import Origin
from mm1.export.progress import shown
from mm1.export.tokens import Vocabulary
from mm1.export.weights import Weights, write
from mm1.files import write_json
from mm1.loader.loader import Loader
from mm1.nn.model import Model
from mm1.runs.folder import WEIGHTS
from mm1.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Import:
    """All that a run folder is made of, before a weight is read."""

    family: str
    model: Model.Config
    vocabulary: Vocabulary
    num_rows: int
    """Rows of the model's table of tokens, new ones counted."""
    links: Sequence[Link]
    loader: Loader.Config
    """Of rows or captions as long as the model was made for."""
    unused: str = r"(?!)"
    """Names of published tensors that play no part, as a regular expression."""
    notes: Sequence[str] = ()
    """What the user should know of it."""


def write_run(folder: Path, found: Import, weights: Weights, origin: Origin) -> None:
    """Raises ConfigError where weights are missing, left over, of another shape, or not
    finite; they are named."""
    with torch.device("meta"):
        model = found.model.build(vocab_size=found.num_rows)
    check(
        found.links,
        {n: tuple(t.shape) for n, t in model.state_dict().items()},
        weights,
        unused=found.unused,
    )
    layouts = ours_layout(found.links, weights)
    total = sum(layout.num_bytes for layout in layouts.values())
    write(
        folder / WEIGHTS, layouts, shown("import", joined(found.links, weights), total)
    )
    halves = {layout.dtype for layout in layouts.values()} & {
        torch.bfloat16,
        torch.float16,
    }
    config = Trainer.Config(
        model=found.model,
        loader=found.loader,
        steps=0,
        precision="bf16" if halves else "fp32",
    )
    write_json(folder / "config.json", configs.to_json(config))
    (folder / TOKENIZER).write_text(found.vocabulary.text, encoding="utf-8")
    if found.vocabulary.roles != Roles():
        (folder / SPECIAL_TOKENS).write_text(
            found.vocabulary.roles.to_json(), encoding="utf-8"
        )
    params = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in model.parts().items()
    }
    summary = {
        "model": configs.path_of(found.model),
        "params": params,
        "steps": 0,
        "data": {},
    }
    summary |= {
        "origin": origin.describe() | {"family": found.family},
        "finished": True,
    }
    write_json(folder / "summary.json", summary)


@contextmanager
def aside(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out`, which takes the name of `out` when all went well and
    vanishes otherwise.

    Raises:
        FileExistsError: there is something at `out`.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(
            f"{out} exists already; choose another folder, or delete it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(
        tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".unfinished", dir=out.parent)
    )
    try:
        yield folder
        folder.chmod(0o755)  # made for its owner alone
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    folder.rename(out)
