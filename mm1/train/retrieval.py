"""Image encoders for benchmarks whose shots are retrieved: they live in run folders, which evaluation cannot open."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from mm1.config import ConfigError
from mm1.eval.benchmarks import Benchmark
from mm1.eval.exam import Exam
from mm1.eval.rices import Rices
from mm1.infer.encoder import Encoder
from mm1.train.folder import load_model, read_config, version


def give_encoders(benchmarks: Mapping[str, Exam], device: torch.device) -> None:
    """To each benchmark with a `retrieval` what finds its shots; an encoder is loaded when the first shot is needed.

    Raises:
        ConfigError: the folder's model gives no features of pictures.
        FileNotFoundError: it is no finished run.
    """
    for name, benchmark in benchmarks.items():
        if not (isinstance(benchmark, Benchmark) and benchmark.config.retrieval):
            continue
        folder = Path(benchmark.config.retrieval)
        owner = read_config(folder).model.owner
        if not hasattr(owner, "encode_patches"):
            raise ConfigError(
                f"{name}.retrieval={folder} is a run of {owner.__name__}, which gives no features of pictures: "
                "name one of CLIP or AIM, or an imported encoder"
            )
        benchmark.rices = Rices(partial(_encoder, folder, device), version(folder))


def _encoder(folder: Path, device: torch.device) -> Encoder:
    model, renderer, _ = load_model(folder, device)
    return Encoder(model, renderer, device)
