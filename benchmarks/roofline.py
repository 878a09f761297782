"""What a training step could take at best, part by part, on one GPU.

    python benchmarks/roofline.py pretrain_3b loader.micro_batch_size=3
    [--rates decoder_products=700e12 ...]

See `mm1.plan.roofline`. Rates are those that `kernels.py` measures.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from synthetic import SyntheticLoader, synthetic_run

from mm1.data.tokenizer import Tokenizer
from mm1.infer.trained_model import make_renderer
from mm1.loader.mixture_state import Row
from mm1.nn.model import Model
from mm1.plan.roofline import MicroBatchWork, Rates, Roofline
from mm1.train.trainer import Trainer


def predict(
    trainer: Trainer, work: Sequence[MicroBatchWork], rates: Rates
) -> float:
    """Seconds of a step of a run."""
    roofline = Roofline(
        trainer.model,
        rates,
        compiled=trainer.config.compile,
        recomputed=trainer.config.activation_checkpointing == "full",
    )
    return sum(roofline.step(work).values())


def planned(config: Trainer.Config, model: Model) -> list[MicroBatchWork]:
    """The micro-batches of one step as the loader plans them, without pixels."""
    options = config.loader
    assert isinstance(options, SyntheticLoader.Config)
    tokenizer = Tokenizer.Config(path=options.tokenizer()).build()
    renderer = make_renderer(model, tokenizer, options)
    loader = SyntheticLoader(options, renderer=renderer, seed=config.seed)
    rows, _, _ = next(loader.plan_steps(None))
    return [
        _work(micro_batch, model.tokens_per_image, options.sequence_length)
        for micro_batch in loader.micro_batches(rows, 0, 1)
    ]


def _work(
    rows: Sequence[Row], tokens_per_image: int, length: int
) -> MicroBatchWork:
    documents: list[int] = []
    for row in rows:
        lengths = [segment.stop - segment.start for segment in row]
        padding = length - sum(lengths)
        documents += lengths + [padding] * (padding > 0)
    images = sum(segment.images for row in rows for segment in row)
    text = sum(s.stop - s.start for row in rows for s in row)
    targets = text - images * tokens_per_image
    return MicroBatchWork(tuple(documents), targets, images)


def step_flops(model: Model, work: Sequence[MicroBatchWork]) -> int:
    """Forward and backward, nothing recomputed."""
    total = 0
    for each in work:
        batch = SimpleNamespace(
            tokens=range(each.num_tokens),
            images=range(each.num_images),
            slots=range(each.num_images),
            num_pairs=each.num_pairs,
            num_targets=each.num_targets,
        )
        total += sum(model.flops(batch).values())
    return total


def table(seconds: dict[str, float], flops: float, peak: float) -> str:
    total = sum(seconds.values())
    lines = [
        f"| {name} | {1e3 * each:,.1f} | {each / total:.1%} |"
        for name, each in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return "\n".join(
        [
            "| part | ms | of the step |\n|---|---|---|",
            *lines,
            f"| a step of {flops / 1e12:,.1f} TFLOP | {1e3 * total:,.1f} |"
            f" {flops / total / peak:.1%} of {peak / 1e12:.0f} TFLOP/s |",
        ]
    )


def parse_rates(assignments: Sequence[str]) -> Rates:
    """`decoder_products=700e12`, `decoder_attention=400e12,300e12`."""
    rates = Rates()
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        values = tuple(float(value) for value in text.split(","))
        rates = replace(
            rates, **{name: values if len(values) > 1 else values[0]}
        )
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rates", nargs="*", default=[])
    parser.add_argument("--peak", type=float, default=989e12)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        config = synthetic_run(
            arguments.recipe,
            arguments.overrides,
            folder=Path(scratch),
            vocab_size=arguments.vocab_size,
        )
        with torch.device("meta"):
            model = config.model.build(vocab_size=arguments.vocab_size)
        work = planned(config, model)
    roofline = Roofline(
        model,
        parse_rates(arguments.rates),
        compiled=config.compile,
        recomputed=config.activation_checkpointing == "full",
    )
    print(table(roofline.step(work), step_flops(model, work), arguments.peak))


if __name__ == "__main__":
    main()
