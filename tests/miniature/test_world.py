"""The miniature world: functions of (seed, n), tests apart from training, files that
the real readers take."""

import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow

from mm1.data.document import Image, Text
from mm1.miniature.world import examples, questions, scenes, text
from mm1.miniature.world.raw_files import (
    Amounts,
    write_four_objects,
    write_world,
)
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.instructions import Instructions
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts

SCENES = ("objects", "pair", "word", "digit", "four")


def test_records_depend_on_seed_and_number_alone():
    first = [examples.nth_caption(3, n).image.png for n in (5, 6)]
    examples.nth_image.cache_clear()
    assert [examples.nth_caption(3, n).image.png for n in (6, 5)] == first[::-1]
    assert examples.nth_caption(4, 5).image.png != first[0]
    assert examples.nth_page(3, 9, 100) == examples.nth_page(3, 9, 100)
    assert text.nth_text(3, 9) == text.nth_text(3, 9)


@pytest.mark.parametrize("kind", SCENES)
def test_test_scenes_never_occur_in_training(kind):
    rng = np.random.default_rng(0)
    train, test = (
        {scenes.random_scene(kind, rng, split) for _ in range(600)}
        for split in ("train", "test")
    )
    assert train
    assert test
    assert not train & test
    colours = {
        colour
        for scene in test
        for colour in getattr(scene, "colours", None) or (scene.colour,)
    }
    assert colours == set(scenes.COLOURS)


@pytest.mark.parametrize(
    "task", [task for task in examples.TASKS if task != "colour"]
)
def test_every_answer_of_a_task_occurs_in_both_splits(task):
    for split in ("train", "test"):
        answers = {
            questions.nth_question(0, task, n, split).answer for n in range(150)
        }
        assert answers == set(examples.TASKS[task].answers)


def test_four_objects_are_named_cell_by_cell_in_reading_order():
    for n in range(20):
        shown = examples.nth_four_objects(0, n)
        pixels = np.asarray(Pillow.open(io.BytesIO(shown.image.png)), dtype=int)
        words = shown.text.split()
        assert (shown.image.width, len(words)) == (48, 8)
        for cell, colour in enumerate(words[::2]):
            row, column = (24 * place for place in divmod(cell, 2))
            quarter = pixels[row : row + 24, column : column + 24].reshape(
                -1, 3
            )
            brightest = quarter[
                quarter.sum(-1).argmax()
            ]  # of the ink; the ground is dark
            assert abs(brightest - scenes.COLOURS[colour]).max() <= 14


def test_a_digit_never_stands_across_the_border_of_a_tile():
    rng = np.random.default_rng(0)
    border = scenes.TILE * scenes.CELL
    for _ in range(100):
        pixels = np.asarray(
            scenes.draw(scenes.random_scene("digit", rng, "train"), 6, rng),
            dtype=int,
        )
        rows, columns = np.nonzero((pixels - pixels[0, 0]).max(-1) > 60)
        for places in (rows, columns):
            assert (places < border).all() or (places >= border).all()


@pytest.mark.parametrize(
    ("grid", "num_sub_images"), [("near", 1), ("wide", 1), ("far", 5)]
)
def test_only_far_pictures_are_cut_into_tiles_at_48_pixels(
    grid, num_sub_images
):
    from mm1.data.image_processing import ImageProcessor

    shown = examples.make_image(
        "digit", grid, "train", np.random.default_rng(0)
    )
    cut = ImageProcessor((48, 48), max_tiles=4)
    assert (
        len(cut.positions(cut.choose_grid(shown.width, shown.width)))
        == num_sub_images
    )


def test_new_labels_are_consistent_within_an_episode():
    for n in range(5):
        episode = questions.nth_new_labels(0, n, 8)
        names = {(each.image.scene.colour, each.answer) for each in episode}
        assert len(names) == len({colour for colour, _ in names}) <= 2
        assert episode[-1] == questions.nth_new_labels(0, n, 2)[-1]


def test_facts_are_true():
    assert (
        dict(text.fact(np.random.default_rng(n)) for n in range(300))[
            "two plus two is"
        ]
        == "four"
    )


def test_the_files_are_read_by_the_sources_of_real_data(tmp_path):
    write_world(
        tmp_path,
        seed=0,
        amounts=Amounts(captions=40, pages=8, texts=5, conversations=6),
    )
    write_four_objects(tmp_path / "four", seed=0, num=7)
    for source, folder, num in (
        (Captions, "captions", 40),
        (Captions, "four", 7),
        (Interleaved, "pages", 8),
        (Texts, "text", 5),
        (Instructions, "instructions", 6),
    ):
        reader = source.Config().build()
        paths = [
            path
            for pattern in source.PATTERNS
            for path in sorted((tmp_path / folder).glob(pattern))
        ]
        documents = [
            reader.document(record.data)
            for path in paths
            for record in reader.read(path)
        ]
        assert len(documents) == num
        assert all(
            any(isinstance(part, Text) for part in document.parts)
            for document in documents
        )
        pictured = [
            any(isinstance(part, Image) for part in document.parts)
            for document in documents
        ]
        assert all(pictured) == (folder != "text")
    assert (
        json.loads((tmp_path / "instructions" / "llava.json").read_text())[0][
            "conversations"
        ][0]["from"]
        == "human"
    )
