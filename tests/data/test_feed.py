"""Feeds: how rows are dealt to ranks, what is held out, pairs. Resumption is tested in test_elastic.py."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import contrastive, make_world, pretrain

from mm1.batch import IGNORE
from mm1.config import from_json, override, text, to_json
from mm1.data.feed import Feed
from mm1.data.packed import Packed
from mm1.data.pairs import Pairs
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.data.views import Views


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def build(config: Feed.Config, *, workers: int = 0, seed: int = 0) -> Any:
    config.workers = workers
    tokenizer = Tokenizer.Config(path=config.tokenizer()).build()
    renderer = Renderer(tokenizer, Views((8, 8)), tokens_per_image=4)
    return config.build(renderer=renderer, seed=seed)


def packed(world: Path, *, workers: int = 0) -> Packed:
    return build(pretrain(world).feed, workers=workers)


def rows_of(feed: Packed, state: dict[str, Any] | None, num_steps: int) -> list[Any]:
    return [row for rows, _, _ in islice(feed.windows(state), num_steps) for row in rows]


def test_documents_are_isolated_unless_the_feed_says_not(world: Path) -> None:
    config = pretrain(world).feed
    ends = []
    for config.isolate in (True, False):  # type: ignore[attr-defined]
        step = next(build(config).steps(None, rank=0, world_size=1))
        ends.append(len(step.micro_batches[0].boundaries))
    assert ends[1] <= 2 * config.micro_rows + 1 < ends[0]  # type: ignore[attr-defined]


def test_ranks_share_a_steps_rows_and_all_of_them(world: Path) -> None:
    feed = packed(world)
    for rows, _, _ in islice(feed.windows(None), 6):
        for world_size in (1, 2):
            dealt = [row for rank in range(world_size) for micro in feed.deal(rows, rank, world_size) for row in micro]
            assert Counter(dealt) == Counter(rows)


def test_micro_batches_have_nearly_equal_numbers_of_images(world: Path) -> None:
    feed = packed(world)

    def images(rows: list[Any]) -> int:
        return sum(e.images for row in rows for e in row)

    spread = []
    for rows, _, _ in islice(feed.windows(None), 8):
        counts = [images(micro) for micro in feed.deal(rows, 0, 1)]
        spread.append(max(counts) - min(counts))
    assert np.mean(spread) <= 1.5


def test_held_out_documents_are_seen_once_and_never_in_training(world: Path) -> None:
    feed = packed(world)
    batches = list(feed.held_out(rank=0, world_size=1))
    assert {batch.source_names for batch in batches} == {("pages",), ("captions",), ("text",)}
    targets = sum(int((batch.targets != IGNORE).sum()) for batch in batches)
    split = [list(feed.held_out(rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(split[0]) == len(split[1])
    assert sum(batch.num_targets for batches in split for batch in batches) == targets


def test_pairs_come_once_an_epoch_and_in_another_order_in_the_next(world: Path) -> None:
    feed: Pairs = build(contrastive(world).feed)
    size = feed.size
    first, second = feed.things(np.arange(size)), feed.things(np.arange(size, 2 * size))
    assert sorted(first) == sorted(second) == list(range(size))
    assert list(first) != list(second)


def test_pairs_of_two_ranks_are_those_of_one(world: Path) -> None:
    feed: Pairs = build(contrastive(world).feed)
    one = next(feed.steps(None, rank=0, world_size=1)).micro_batches[0]
    two = [next(feed.steps(None, rank=rank, world_size=2)).micro_batches[0] for rank in (0, 1)]
    joined = torch.stack([batch.tokens for batch in two], 1).flatten(0, 1)
    assert torch.equal(joined, one.tokens)


def test_a_schedule_is_given_on_the_command_line_and_comes_back_from_json() -> None:
    config = Packed.Config()
    override(config, "schedule={100: {'text': 1.0}}")
    override(config, "schedule.200={'text': 0.5, 'captions': 0.5}")
    assert config.schedule == {100: {"text": 1.0}, 200: {"text": 0.5, "captions": 0.5}}
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert text(config).count("schedule.200.captions = 0.5") == 1
