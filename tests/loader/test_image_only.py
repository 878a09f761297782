"""The loader of images: every image of any documents, the same on any number of ranks
and workers and from any state."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import raw_files
import torch
from torch import Tensor
from worlds import make_world

from mm1.batch import ImageBatch
from mm1.config import ConfigError
from mm1.data.image_processing import ImageError, ImageProcessor, decode_image
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.loader.image_only import ImageLoader
from mm1.loader.loader import StepBatches
from mm1.prepare.pipeline import prepare

SOURCES = ("captions", "pages", "text")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 captions; 40 pages of one image; a page of three images; texts. A fifth of
    each is validation."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    raw = folder / "raw" / "b.parquet"
    images = [
        raw_files.jpeg(500),
        None,
        raw_files.jpeg(501),
        raw_files.jpeg(502),
    ]
    raw_files.write_pages(
        raw, [{"images": images, "texts": [None, "page shows", None, None]}]
    )
    prepare("interleaved", [raw], folder / "many", folder / "tokenizer.json")
    return folder


def build(
    world: Path,
    *,
    batch: int = 8,
    micro: int | None = None,
    workers: int = 0,
    names: tuple[str, ...] = SOURCES,
):
    sources = tuple(str(world / name) for name in names)
    config = ImageLoader.Config(
        sources=sources,
        batch_size=batch,
        micro_batch_size=micro,
        workers=workers,
    )
    tokenizer = Tokenizer.Config(path=config.tokenizer()).build()
    loader: ImageLoader = config.build(
        renderer=Renderer(tokenizer, ImageProcessor((8, 8))), seed=3
    )  # type: ignore[assignment]
    return loader


def pixels(steps: list[StepBatches]) -> Tensor:
    return torch.cat(
        [
            b.images
            for step in steps
            for b in step.micro_batches
            if isinstance(b, ImageBatch)
        ]
    )


def take(
    loader: ImageLoader,
    num: int,
    state: dict | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> list[StepBatches]:
    return list(
        islice(loader.steps(state, rank=rank, world_size=world_size), num)
    )


def whole(world: Path, names: tuple[str, ...], split: str) -> Tensor:
    """Every image of a split, in the order of folders, documents and parts."""
    processor = ImageProcessor((8, 8))
    images = []
    for folder in (world / name for name in names):
        shards = Shards(folder, split)
        images += [
            processor(decode_image(image.data))[0]
            for n in range(len(shards))
            for image in shards.document(n).images
        ]
    return torch.stack(images)


def ordered(images: Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)


def test_an_epoch_holds_every_image_once(world: Path) -> None:
    names = ("captions", "many", "pages")
    expected = whole(world, names, "train")
    loader = build(world, batch=len(expected), names=names)
    assert loader.size == len(expected) > 60
    first, second = (pixels([step]) for step in take(loader, 2))
    assert ordered(first) == ordered(second) == ordered(expected)
    assert not torch.equal(first, second)


def test_texts_are_ignored(world: Path) -> None:
    assert build(world).size == build(world, names=("captions", "pages")).size
    with pytest.raises(
        ConfigError, match=r"loader.batch_size=8 .* at most 0 images"
    ):
        take(build(world, names=("text",)), 1)


def test_resuming_with_another_number_of_images_is_refused(world: Path) -> None:
    loader = build(world)
    with pytest.raises(
        ConfigError,
        match=(
            rf"held {loader.size - 1} images when .* stopped, and hold"
            rf" {loader.size} now"
        ),
    ):
        take(loader, 1, {"images": 16, "of": loader.size - 1})


def test_resuming_continues_identically(world: Path) -> None:
    steps = take(build(world), 12)
    for stop in (1, 5, 11):
        again = take(build(world), 12 - stop, steps[stop - 1].state)
        assert [step.state for step in again] == [
            step.state for step in steps[stop:]
        ]
        assert torch.equal(pixels(again), pixels(steps[stop:]))


def test_ranks_and_micro_batches_divide_the_images_of_a_step(
    world: Path,
) -> None:
    one = take(build(world), 3)
    ranks = [
        take(build(world, micro=2), 3, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for i, step in enumerate(one):
        halves = [pixels([steps[i]]) for steps in ranks]
        assert torch.equal(torch.stack(halves, 1).flatten(0, 1), pixels([step]))
        assert [len(batch.images) for batch in ranks[0][i].micro_batches] == [
            2,
            2,
        ]
        assert ranks[0][i].state == ranks[1][i].state == step.state


def test_resumes_on_another_number_of_ranks_with_another_batch_size(
    world: Path,
) -> None:
    loader = build(world, batch=4)
    numbers = loader.items(np.arange(24)).tolist()
    state = take(loader, 2)[-1].state
    rest = [
        take(build(world, batch=16), 1, state, rank=rank, world_size=2)[0]
        for rank in (0, 1)
    ]
    halves = torch.stack([pixels([step]) for step in rest], 1).flatten(0, 1)
    assert torch.equal(
        halves, whole(world, ("captions", "pages"), "train")[numbers[8:]]
    )


@pytest.mark.slow
def test_batches_do_not_depend_on_the_number_of_workers(world: Path) -> None:
    here = take(build(world, micro=4), 5)
    there = take(build(world, micro=4, workers=2), 5)
    assert [step.state for step in here] == [step.state for step in there]
    assert torch.equal(pixels(here), pixels(there))


def test_counts_gauges_and_state(world: Path) -> None:
    loader = build(world)
    step = take(loader, 2)[-1]
    assert step.counts == {"images": 8}
    assert step.gauges == {"epoch": round(16 / loader.size, 4)}
    assert step.state == {"images": 16, "of": loader.size}
    assert (
        loader.describe()["pages"]["images"]
        == loader.size - loader.describe()["captions"]["images"]
    )


def test_validation_reads_each_image_once(world: Path) -> None:
    expected = whole(world, ("captions", "pages"), "validation")
    loader = build(world)
    seen = torch.cat(
        [batch.images for batch in loader.validation(rank=0, world_size=1)]
    )
    assert torch.equal(seen, expected)
    split = [
        [batch.images for batch in loader.validation(rank=rank, world_size=2)]
        for rank in (0, 1)
    ]
    assert [len(images) for images in split[0]] == [
        len(images) for images in split[1]
    ]
    joined = torch.cat([images for rank in split for images in rank])
    assert set(ordered(joined)) <= set(ordered(expected))
    assert len(joined) == len(expected) // 2 * 2


def test_no_validation_split_gives_no_batches(world: Path) -> None:
    assert (
        list(build(world, names=("many",)).validation(rank=0, world_size=1))
        == []
    )


@pytest.mark.parametrize(("batch", "micro"), [(7, None), (8, 3), (1000, None)])
def test_a_batch_size_that_does_not_divide_is_an_error(
    world: Path, batch: int, micro: int | None
) -> None:
    loader = build(world, batch=batch, micro=micro)
    with pytest.raises(
        ConfigError, match=f"loader.batch_size={batch} must divide over 2 ranks"
    ):
        take(loader, 1, rank=0, world_size=2)


def test_no_sources_or_no_encoder_is_an_error(world: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"loader.sources is empty.*loader.sources=\['data/captions'\]",
    ):
        ImageLoader.Config().tokenizer()
    config = ImageLoader.Config(sources=(str(world / "captions"),))
    tokenizer = Tokenizer.Config(path=config.tokenizer()).build()
    with pytest.raises(
        ConfigError, match="images needs a model with an image encoder"
    ):
        config.build(renderer=Renderer(tokenizer, None), seed=0)


def test_a_damaged_image_is_named(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = build(world, names=("captions",))

    def refuse(*_: object, **__: object) -> None:
        raise ImageError("damaged image")

    monkeypatch.setattr("mm1.data.render.decode_image", refuse)
    with pytest.raises(ImageError, match=r"a\.tar#.*: damaged image"):
        take(loader, 1)
