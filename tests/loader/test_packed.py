"""The packed loader: how rows are distributed over ranks, validation; and pairs.
Resuming is tested in test_elastic.py."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import contrastive, make_world, pretrain

from mm1.batch import IGNORE
from mm1.config import from_json, to_json, to_text
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer, UnitFlops
from mm1.data.tokenizer import Tokenizer
from mm1.infer.trained_model import make_renderer
from mm1.loader.loader import Loader
from mm1.loader.mixture_state import DocumentSegment
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader
from mm1.loader.row_flops import row_flops
from mm1.overrides import override


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def build(config: Loader.Config, *, workers: int = 0, seed: int = 0) -> Any:
    config.workers = workers
    tokenizer = Tokenizer.Config(path=config.tokenizer()).build()
    renderer = Renderer(tokenizer, ImageProcessor((8, 8)), tokens_per_image=4)
    return config.build(renderer=renderer, seed=seed)


def packed(world: Path, *, workers: int = 0) -> PackedLoader:
    return build(pretrain(world).loader, workers=workers)


def rows_of(
    loader: PackedLoader, state: dict[str, Any] | None, num_steps: int
) -> list[Any]:
    return [
        row
        for rows, _, _ in islice(loader.plan_steps(state), num_steps)
        for row in rows
    ]


def test_documents_are_isolated_unless_the_loader_says_not(world: Path) -> None:
    config = pretrain(world).loader
    ends = []
    for config.isolate in (True, False):  # type: ignore[attr-defined]
        step = next(build(config).steps(None, rank=0, world_size=1))
        ends.append(len(step.micro_batches[0].cu_seqlens))
    assert ends[1] <= 2 * config.micro_batch_size + 1 < ends[0]  # type: ignore[attr-defined]


def test_the_loader_fills_up_with_blank_images(world: Path) -> None:
    config = packed(world).config
    config.image_multiple = 3
    step = next(build(config).steps(None, rank=0, world_size=1))
    for batch in step.micro_batches:
        assert len(batch.images) % 3 == 0  # type: ignore[union-attr]
        assert len(batch.images) - len(batch.slots) < 3  # type: ignore[union-attr]
    slots = sum(len(batch.slots) for batch in step.micro_batches)  # type: ignore[union-attr]
    assert step.counts["images"] == slots


def test_tokens_of_a_batch_know_their_source(world: Path) -> None:
    loader = packed(world)
    for step in islice(loader.steps(None, rank=0, world_size=1), 3):
        of_source: Counter[str] = Counter()
        for batch in step.micro_batches:
            for number, name in enumerate(batch.source_names):  # type: ignore[union-attr]
                own = int((batch.sources == number).sum())  # type: ignore[union-attr]
                of_source[f"tokens/{name}"] += own
        assert len(of_source) == 3
        assert of_source.items() <= step.counts.items()


def test_ranks_divide_all_rows_of_a_step(world: Path) -> None:
    loader = packed(world)
    for rows, _, _ in islice(loader.plan_steps(None), 6):
        for world_size in (1, 2):
            divided = [
                row
                for rank in range(world_size)
                for micro in loader.micro_batches(rows, rank, world_size)
                for row in micro
            ]
            assert Counter(divided) == Counter(rows)


def test_micro_batches_have_nearly_equal_numbers_of_images(world: Path) -> None:
    loader = packed(world)

    def images(rows: list[Any]) -> int:
        return sum(e.images for row in rows for e in row)

    spread = []
    for rows, _, _ in islice(loader.plan_steps(None), 8):
        counts = [images(micro) for micro in loader.micro_batches(rows, 0, 1)]
        spread.append(max(counts) - min(counts))
    assert np.mean(spread) <= 1.5


def test_validation_reads_each_document_once(world: Path) -> None:
    loader = packed(world)
    batches = list(loader.validation(rank=0, world_size=1))
    assert {batch.source_names for batch in batches} == {
        ("pages",),
        ("captions",),
        ("text",),
    }
    targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    split = [
        list(loader.validation(rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert len(split[0]) == len(split[1])
    assert (
        sum(batch.num_targets for batches in split for batch in batches)
        == targets
    )


def test_pairs_come_once_per_epoch_in_different_orders(world: Path) -> None:
    loader: PairLoader = build(contrastive(world).loader)
    size = loader.size
    first = loader.items(np.arange(size))
    second = loader.items(np.arange(size, 2 * size))
    assert sorted(first) == sorted(second) == list(range(size))
    assert list(first) != list(second)


def test_captions_have_the_same_number_if_they_are_the_same(
    world: Path,
) -> None:
    loader: PairLoader = build(contrastive(world).loader)
    number_of: dict[tuple[int, ...], set[int]] = {}
    for step in islice(loader.steps(None, rank=0, world_size=1), 4):
        batch: Any = step.micro_batches[0]
        for caption, number in zip(
            batch.tokens.tolist(), batch.caption_ids.tolist(), strict=True
        ):
            number_of.setdefault(tuple(caption), set()).add(number)
    numbers = [number for own in number_of.values() for number in own]
    assert len(number_of) == len(numbers) == len(set(numbers)) > 1


def test_pairs_of_two_ranks_are_those_of_one(world: Path) -> None:
    loader: PairLoader = build(contrastive(world).loader)
    one = next(loader.steps(None, rank=0, world_size=1)).micro_batches[0]
    two = [
        next(loader.steps(None, rank=rank, world_size=2)).micro_batches[0]
        for rank in (0, 1)
    ]
    joined = torch.stack([batch.tokens for batch in two], 1).flatten(0, 1)
    assert torch.equal(joined, one.tokens)


def test_a_schedule_can_be_given_on_the_command_line_and_read_from_json() -> (
    None
):
    config = PackedLoader.Config()
    override(config, "schedule={100: {'text': 1.0}}")
    override(config, "schedule.200={'text': 0.5, 'captions': 0.5}")
    assert config.schedule == {
        100: {"text": 1.0},
        200: {"text": 0.5, "captions": 0.5},
    }
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert to_text(config).count("schedule.200.captions = 0.5") == 1


def test_unit_flops_are_what_one_more_of_each_adds(world: Path) -> None:
    config = pretrain(world)
    model = config.model.build(vocab_size=100)

    step = next(packed(world).steps(None, rank=0, world_size=1))
    batch: Any = step.micro_batches[0]

    def flops(images: int, pairs: int, targets: int) -> int:
        slots = torch.zeros(images, 4, dtype=torch.int64)
        changed = replace(
            batch, slots=slots, num_pairs=pairs, num_targets=targets
        )
        return sum(model.flops(changed).values())

    tokenizer = Tokenizer.Config(path=config.loader.tokenizer()).build()
    unit = make_renderer(model, tokenizer, config.loader).unit_flops
    assert flops(3, 700, 50) == (
        flops(0, 0, 0) + 3 * unit.image + 700 * unit.pair + 50 * unit.text_token
    )
    assert min(unit) > 0
    text = DocumentSegment(0, 0, 10, 30, 0)
    page = DocumentSegment(1, 0, 0, 20, 2)
    assert row_flops((text, page), unit, tokens_per_image=4) == (
        2 * unit.image + 420 * unit.pair + 32 * unit.text_token
    )


def test_micro_batches_are_balanced_by_what_they_compute(world: Path) -> None:
    """Attention outweighs an image here: only "flops" sees it."""
    config: Any = pretrain(world).loader
    config.batch_size = 16
    tokenizer = Tokenizer.Config(path=config.tokenizer()).build()
    unit = UnitFlops(pair=10, text_token=1, image=100)
    loader = config.build(
        renderer=Renderer(
            tokenizer, ImageProcessor((8, 8)), 4, unit_flops=unit
        ),
        seed=0,
    )
    spread: dict[str, list[int]] = {"images": [], "flops": []}
    for rows, _, _ in islice(loader.plan_steps(None), 8):
        for loader.config.balance_by in ("images", "flops"):
            dealt = [loader.micro_batches(rows, rank, 2) for rank in range(2)]
            micro_batches = [micro for of_rank in dealt for micro in of_rank]
            assert Counter(r for m in micro_batches for r in m) == Counter(rows)
            flops = [
                sum(row_flops(row, unit, 4) for row in micro)
                for micro in micro_batches
            ]
            spread[loader.config.balance_by].append(max(flops) - min(flops))
    assert sum(spread["flops"]) < 0.6 * sum(spread["images"])
