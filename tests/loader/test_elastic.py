"""Interrupted anywhere and resumed on other numbers of ranks and workers: each document
once, the same batches."""

import json
import random
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from worlds import make_world, pretrain

from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.loader.mixture_state import MixtureState, Row, WindowSettings
from mm1.loader.packed import PackedLoader
from mm1.loader.permutation import permute

State = dict[str, Any] | None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def loader_of(
    world: Path, *, workers: int = 0, leave_out: str = "", **fields: Any
) -> PackedLoader:
    """Six rows a step, which divide over 1, 2 and 3 ranks."""
    config: Any = pretrain(world).loader
    for name, value in (
        {"batch_size": 6, "micro_batch_size": 1, "workers": workers} | fields
    ).items():
        setattr(config, name, value)
    config.sources.pop(leave_out, None)
    renderer = Renderer(
        Tokenizer.Config(path=config.tokenizer()).build(),
        ImageProcessor((8, 8)),
        tokens_per_image=4,
    )
    return config.build(renderer=renderer, seed=0)


def train_on(
    loader: PackedLoader, state: State, num_steps: int, world_size: int
) -> tuple[list[Row], State]:
    """The rows of all ranks in so many steps, and the state after them."""
    rows: list[Row] = []
    for step, _, after in islice(loader.plan_steps(state), num_steps):
        rows += [
            row
            for rank in range(world_size)
            for micro in loader.micro_batches(step, rank, world_size)
            for row in micro
        ]
        state = json.loads(json.dumps(after, sort_keys=True))
    return rows, state


def check_each_token_once_per_epoch(
    loader: PackedLoader, rows: list[tuple[str, int, int, int]], state: State
) -> None:
    """Each token of each document was seen once per epoch, is in a coming row of the
    window, or is carried."""
    assert state is not None
    mixture = MixtureState.from_json(state["mixture"])
    after = loader.mixture.window(
        mixture, WindowSettings(**state["settings"])
    ).state_after(state["row"], loader.mixture.names)
    for name, source in loader.sources.items():
        size = source.num_documents
        epochs = range(after.drawn[name] // size + 1)
        order = np.concatenate(
            [
                permute(np.arange(size), size, f"0/{name}/{epoch}")
                for epoch in epochs
            ]
        )
        due = np.bincount(order[: after.drawn[name]], minlength=size)
        num_tokens, _ = source.lengths(np.arange(size))
        times = np.zeros((size, num_tokens.max()), dtype=np.int64)
        for _, document, start, stop in (
            e[:4] for e in [*rows, *after.carried] if e[0] == name
        ):
            times[document, start:stop] += 1
        within = np.arange(times.shape[1]) < num_tokens[:, None]
        assert (times == due[:, None] * within).all()


def named(
    loader: PackedLoader, rows: list[Row]
) -> list[tuple[str, int, int, int]]:
    return [
        (loader.names[e.source], e.document, e.start, e.stop)
        for row in rows
        for e in row
    ]


def test_each_document_comes_once_per_epoch_over_24_interruptions_on_1_to_3_ranks(
    world: Path,
) -> None:
    chance = random.Random(0)
    loader = loader_of(world)
    state = None
    seen = []
    steps = 0
    for _, world_size in zip(range(24), cycle([1, 2, 3]), strict=False):
        num_steps = chance.randint(1, 4)
        rows, state = train_on(loader, state, num_steps, world_size)
        seen = seen + rows
        steps = steps + num_steps
        check_each_token_once_per_epoch(loader, named(loader, seen), state)
    assert state is not None
    assert (
        min(
            loader._gauges(MixtureState.from_json(state["mixture"]))[
                f"epoch/{n}"
            ]
            for n in loader.names
        )
        > 1
    )
    uninterrupted, _ = train_on(loader, None, steps, 1)
    # ranks hold the rows of a step in another order
    for i in range(0, 6 * steps, 6):
        assert Counter(seen[i : i + 6]) == Counter(uninterrupted[i : i + 6])


def test_each_token_comes_once_when_weights_sources_and_rows_change(
    world: Path,
) -> None:
    """Twenty interruptions; after some of them the run continues with other options."""
    few = {"weights": {"pages": 0.5, "captions": 0.5}, "leave_out": "text"}
    parts = [
        loader_of(world, **few),
        loader_of(world, weights={"pages": 0.2, "captions": 0.3, "text": 0.5}),
        loader_of(
            world,
            weights={"pages": 0.2, "captions": 0.8, "text": 0.0},
            weights_of="documents",
            packing_window=7,
        ),
        loader_of(
            world,
            schedule={61: {"pages": 1.0, "captions": 0.0, "text": 0.0}},
            sequence_length=80,
            batch_size=12,
        ),
        loader_of(world, weights_of="rows", sequence_length=80, max_images=9),
    ]
    chance = random.Random(1)
    state = None
    seen = []
    for loader in parts:
        for world_size in (1, 2, 3, 1):
            rows, state = train_on(
                loader, state, chance.randint(1, 3), world_size
            )
            seen += named(loader, rows)
            check_each_token_once_per_epoch(loader, seen, state)


def test_weights_change_at_the_step_of_the_schedule(world: Path) -> None:
    """Rows of a window hold what was left over before, so two more windows may contain
    pages."""
    loader = loader_of(
        world, schedule={5: {"pages": 0.0, "captions": 0.5, "text": 0.5}}
    )
    drawn = [
        after["mixture"]["drawn"]["pages"]
        for _, _, after in islice(loader.plan_steps(None), 12)
    ]
    begins = [
        after["mixture"]["rows"]
        for _, _, after in islice(loader.plan_steps(None), 12)
    ]
    assert 30 in begins  # a window begins with the row of step 5
    assert len(set(drawn[5:])) == 1


def batches(
    loader: PackedLoader,
    state: State,
    num_steps: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[Any]:
    steps = islice(
        loader.steps(state, rank=rank, world_size=world_size), num_steps
    )
    return [batch for step in steps for batch in step.micro_batches]


def bytes_of(batch: Any) -> tuple[bytes, ...]:
    return tuple(
        tensor.numpy().tobytes() for tensor in batch.tensors().values()
    )


def test_resumed_batches_are_byte_equal_on_any_number_of_ranks(
    world: Path,
) -> None:
    loader = loader_of(world)
    steps = list(islice(loader.steps(None, rank=0, world_size=1), 6))
    whole = [bytes_of(batch) for step in steps for batch in step.micro_batches]
    for done, world_size in ((1, 1), (3, 2), (5, 3)):
        ranks = [
            batches(loader, steps[done - 1].state, 6 - done, rank, world_size)
            for rank in range(world_size)
        ]
        resumed = [
            bytes_of(batch)
            for same_time in zip(*ranks, strict=True)
            for batch in same_time
        ]
        if world_size == 1:
            assert resumed == whole[6 * done :]
        for i in range(0, len(resumed), 6):
            assert Counter(resumed[i : i + 6]) == Counter(
                whole[6 * done :][i : i + 6]
            )


@pytest.mark.slow
def test_batches_do_not_depend_on_the_number_of_workers(world: Path) -> None:
    here = list(islice(loader_of(world).steps(None, rank=0, world_size=1), 5))
    there = list(
        islice(
            loader_of(world, workers=2).steps(
                here[0].state, rank=0, world_size=1
            ),
            4,
        )
    )
    for one, two in zip(here[1:], there, strict=True):
        assert (one.state, one.counts, one.gauges) == (
            two.state,
            two.counts,
            two.gauges,
        )
        assert list(map(bytes_of, one.micro_batches)) == list(
            map(bytes_of, two.micro_batches)
        )


def test_a_source_that_has_changed_is_refused(world: Path) -> None:
    loader = loader_of(world)
    _, state = train_on(loader, None, 2, 1)
    assert state is not None
    state["data"]["text"]["documents"] += 1
    with pytest.raises(
        ConfigError,
        match=r"loader\.sources\.text is not what .*: {'documents': \(42, 41\)}",
    ):
        next(loader.plan_steps(state))
    _, state = train_on(loader, None, 2, 1)
    with pytest.raises(
        ConfigError,
        match=r"the run has read from \['text'\], .* give it the weight 0",
    ):
        next(
            loader_of(
                world, weights={"pages": 0.5, "captions": 0.5}, leave_out="text"
            ).plan_steps(state)
        )


def test_pages_longer_than_a_row_are_cut_and_keep_the_images_of_their_tokens(
    world: Path,
) -> None:
    """Rows of 8 tokens hold no page of the world: 13 tokens, one image of 4."""
    loader = loader_of(
        world,
        sequence_length=8,
        weights={"pages": 1.0, "captions": 0.0, "text": 0.0},
    )
    shards = loader.sources["pages"].shards
    documents = (shards.document(n) for n in range(len(shards)))
    images = {
        loader.renderer.sub_images(i)[0].numpy().tobytes()
        for document in documents
        for i in document.images
    }
    steps = list(islice(loader.steps(None, rank=0, world_size=1), 8))
    micro_batches: list[Any] = [
        batch for step in steps for batch in step.micro_batches
    ]
    for batch in micro_batches:
        assert torch.equal(
            torch.nonzero(batch.tokens == 2).flatten(), batch.slots.flatten()
        )
        assert len(batch.images) == max(1, len(batch.slots))
        assert all(
            image.numpy().tobytes() in images
            for image in batch.images[: len(batch.slots)]
        )
    counts = sum((Counter(step.counts) for step in steps), Counter())
    assert counts["images"] >= 20
    assert counts["continued_documents"] >= 20
    rows, state = train_on(loader, None, 8, 1)
    check_each_token_once_per_epoch(loader, named(loader, rows), state)
    assert steps[-1].gauges["skipped_documents/pages"] == 0
    validation = json.loads((world / "pages" / "manifest.json").read_text())[
        "splits"
    ]["validation"]["images"]
    batches_of_pages: list[Any] = [
        b
        for b in loader.validation(rank=0, world_size=1)
        if b.source_names == ("pages",)
    ]
    assert sum(len(batch.slots) for batch in batches_of_pages) == validation
