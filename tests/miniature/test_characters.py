"""Episodes of unseen characters, on drawings made here in Omniglot's layout."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from mm1.config import ConfigError, UserError
from mm1.data.document import Document, Text
from mm1.miniature import in_context_benchmark
from mm1.miniature.characters import prepared
from mm1.miniature.characters.episodes import (
    HELD_OUT,
    NAMES,
    NUM_PAGE_NAMES,
    PAGE_NAMES,
    Episode,
    binding_episode,
    fixed_episode,
    fixed_names,
    fixed_page_names,
    rule_characters,
    rule_episode,
    split_drawings,
)
from mm1.miniature.characters.omniglot import (
    VARIABLE,
    Characters,
    omniglot_files,
    read_characters,
    unseen_characters,
)
from mm1.miniature.in_context import in_context
from mm1.miniature.in_context_benchmark import InContext
from mm1.runs.results import RunFolder

PEOPLE = 20


def drawing(number: int) -> bytes:
    """A picture whose first row is the number in binary."""
    image = Pillow.new("1", (105, 105), 1)
    for bit in range(16):
        image.putpixel((bit, 0), int(number >> bit & 1 == 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_zip(path: Path, alphabets: dict[str, int], first: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        number = first
        for alphabet, characters in alphabets.items():
            for character in range(1, characters + 1):
                folder = f"images/{alphabet}/character{character:02d}"
                for person in range(1, PEOPLE + 1):
                    archive.writestr(
                        f"{folder}/0001_{person:02d}.png", drawing(number)
                    )
                    number += 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("omniglot")
    write_zip(made / "train.zip", {"Elvish": 3, "Runes": 2}, 0)
    write_zip(made / "test.zip", {"Runes": 2, "Ogham": 4}, 1000)
    return made


def train(folder: Path) -> Characters:
    return read_characters(folder / "train.zip")


def names_of(episode: Episode) -> list[str]:
    return [item.name for item in episode.items]


def test_alphabets_of_both_files_are_no_test(folder: Path) -> None:
    seen = train(folder)
    assert list(seen)[:2] == ["Elvish/character01", "Elvish/character02"]
    assert {len(drawings) for drawings in seen.values()} == {PEOPLE}
    unseen = unseen_characters(read_characters(folder / "test.zip"), seen)
    assert {name.split("/")[0] for name in unseen} == {"Ogham"}
    assert len(unseen) == 4


def test_a_page_that_may_teach_has_names_of_its_own(folder: Path) -> None:
    characters = train(folder)
    called = fixed_page_names(characters)
    fresh = set()
    for seed in range(30):
        made = binding_episode(characters, np.random.default_rng(seed), 8)
        by_drawing = {item.pngs[0]: item.name for item in made.items}
        for character, drawings in characters.items():
            shown = {by_drawing[png] for png in drawings if png in by_drawing}
            assert len(shown) <= 1
            fresh |= {(character, name) for name in shown}
        fixed = fixed_episode(characters, np.random.default_rng(seed), 8)
        for item in fixed.items:
            owner = next(
                c for c, each in characters.items() if item.pngs[0] in each
            )
            assert item.name == called[owner]
    assert len(fresh) > 40
    assert {name for _, name in fresh} <= set(PAGE_NAMES)


def test_names_of_pages_are_no_names_of_captions(folder: Path) -> None:
    assert len(NAMES) == len(set(NAMES)) > 200
    assert len(set(PAGE_NAMES)) == NUM_PAGE_NAMES
    many = {str(i): (b"",) for i in range(len(NAMES) - NUM_PAGE_NAMES)}
    assert not set(fixed_names(many).values()) & set(PAGE_NAMES)
    with pytest.raises(ValueError, match="191 characters, but 190 names"):
        fixed_names(many | {"more": (b"",)})
    # several characters share a name: never two of one page
    two = dict.fromkeys(list(many)[: NUM_PAGE_NAMES + 2], (b"a", b"b"))
    for seed in range(200):
        made = fixed_episode(two, np.random.default_rng(seed), 2)
        assert len(set(made.items[0].choices)) == 2


def test_paired_shots_show_both_and_a_page_any(folder: Path) -> None:
    characters = train(folder)
    made = binding_episode(
        characters, np.random.default_rng(0), 17, paired=True
    )
    names = names_of(made)[:-1]
    assert all(
        set(names[i : i + 2]) == set(made.items[0].choices)
        for i in range(0, 16, 2)
    )
    orders = {
        tuple(
            name == made.items[0].choices[0]
            for name in names_of(
                binding_episode(characters, np.random.default_rng(seed), 2)
            )
        )
        for seed in range(40)
    }
    assert len(orders) > 1


def test_a_rule_names_one_of_two_all_along(folder: Path) -> None:
    characters = train(folder)
    rules = set()
    for seed in range(10):
        made = rule_episode(characters, np.random.default_rng(seed), 6)
        named = {item.choices.index(item.name) for item in made.items}
        assert len(named) == 1
        rules |= named
    assert rules == {0, 1}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        one = rule_episode(characters, rng, 6, rules=(0,))
        assert {item.choices.index(item.name) for item in one.items} == {0}
    called = fixed_names(characters)
    for item in made.items:
        for png, name in zip(item.pngs, item.choices, strict=True):
            assert any(
                png in drawings and called[key] == name
                for key, drawings in characters.items()
            )


def test_rules_are_about_a_few_characters_of_many_alphabets() -> None:
    characters = {
        f"{alphabet}/{number}": (f"{alphabet}{number}".encode(),)
        for alphabet in "ABCDEFGHIJKL"
        for number in range(13)
    }
    few = rule_characters(characters)
    assert len(few) == len(set(few)) == 10
    assert len({key.split("/")[0] for key in few}) >= 9
    made = rule_episode(characters, np.random.default_rng(0), 500)
    shown = {png for item in made.items for png in item.pngs}
    assert shown == {characters[key][0] for key in few}


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_context_benchmark, "NUM_EPISODES", 20)


def words(prompt: Document) -> list[str]:
    return [part.content for part in prompt.parts if isinstance(part, Text)]


@pytest.mark.parametrize("task", ["binding", "induction"])
def test_names_that_trade_places_flip_the_answer(
    task: str, folder: Path
) -> None:
    config = {"folder": str(folder), "task": task}
    plain = InContext.Config(**config).build()
    moved = InContext.Config(**config, shot_labels="moved").build()
    answers = set()
    for number in range(20):
        question, prompt = plain.question_and_prompt(number, 8, 0)
        other, traded = moved.question_and_prompt(number, 8, 0)
        assert prompt.images == traded.images
        assert set(question.choices) == {question.answer, other.answer}
        assert all(
            a != b for a, b in zip(words(prompt), words(traded), strict=True)
        )
        answers.add(question.choices.index(question.answer))
        # whoever takes no notice of shots is right in one of the two
        said = [question.choices[0]]
        scores = [
            plain.score(said, [each.answers])[0] for each in (question, other)
        ]
        assert sum(scores) == 1
    assert answers == {0, 1}


def test_the_test_shows_no_drawing_of_training(folder: Path) -> None:
    shown, held_out = split_drawings(train(folder))
    assert {len(each) for each in held_out.values()} == {HELD_OUT}
    trained = {png for each in shown.values() for png in each}
    assert not trained & {png for each in held_out.values() for png in each}
    for new, given in ((True, held_out), (False, shown)):
        asked = InContext.Config(
            folder=str(folder), task="induction", held_out=new
        )
        drawn = {
            png
            for record in asked.build().test
            for item in record.items
            for png in item.pngs
        }
        assert drawn <= {png for each in given.values() for png in each}
    binding = InContext.Config(folder=str(folder)).build()
    for record in binding.test[:20]:
        assert not trained & {png for item in record.items for png in item.pngs}
    question, prompt = binding.question_and_prompt(3, 2, 0)
    assert set(words(prompt)) == set(question.choices)
    assert len({image.data for image in prompt.images}) == 3
    last = [png for item in binding.test[3].items[-3:] for png in item.pngs]
    assert [image.data for image in prompt.images] == last


def test_missing_or_damaged_drawings_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"no images_background_small2\.zip in"):
        omniglot_files()
    for name in ("a_small1.zip", "a_small2.zip"):
        (tmp_path / name).write_bytes(b"PK no zip")
    assert set(omniglot_files()) == {"train", "test"}
    with pytest.raises(UserError, match="get it again"):
        read_characters(tmp_path / "a_small1.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(UserError, match="holds no drawings"):
        read_characters(tmp_path / "b.zip")
    with pytest.raises(ConfigError, match="belong to their question"):
        InContext.Config(draws=2).build()
    with pytest.raises(ConfigError, match="held_out is for induction"):
        InContext.Config(held_out=False).build()


def test_folders_are_prepared_by_the_real_sources(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "x_small1.zip").write_bytes((folder / "test.zip").read_bytes())
    (given / "x_small2.zip").write_bytes((folder / "train.zip").read_bytes())
    monkeypatch.setenv(VARIABLE, str(given))
    monkeypatch.setattr(prepared, "NUM_PAGES", 12)
    monkeypatch.setattr(prepared, "NUM_TEXTS", 12)
    out = tmp_path / "characters"
    prepared.prepare_characters(out, ("fresh", "fixed"))
    first = {"captions", "fresh", "fixed", "text"}
    assert {path.name for path in (out / "raw").iterdir()} == first
    times = {name: (out / "raw" / name).stat().st_mtime_ns for name in first}
    # those of another study are added, and the others stay as they are
    prepared.prepare_characters(out, ("rules", "one_rule"))
    for name in (*first, "rules", "one_rule"):
        assert (out / name / "manifest.json").is_file()
    assert times == {
        name: (out / "raw" / name).stat().st_mtime_ns for name in first
    }


def test_the_measure_is_the_mean_of_names_as_they_are_and_traded() -> None:
    class Scores(RunFolder):
        def shots(self, name: str) -> Any:
            known = {"binding": 0.9, "binding, moved labels": 0.7}
            return {8: {"score": known[name]}} if name in known else {}

    measures = in_context().measures
    assert measures["binding"].read(Scores(Path())) == pytest.approx(0.8)
    assert measures["induction"].read(Scores(Path())) is None


def test_the_loss_halfway_is_the_first_of_several(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    lines = [{"step": 5, "validation/fresh": 1.5}]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = in_context().measures["pages, halfway"].read
    assert read(RunFolder(tmp_path)) is None
    lines.append({"step": 10, "validation/fresh": 1.0})
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read(RunFolder(tmp_path)) == -1.5
