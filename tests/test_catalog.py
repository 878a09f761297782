"""Every study can be planned and judges what it measures; what `mm1 list` says."""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mm1 import config as configs
from mm1 import recipes
from mm1.catalog import (
    LESSONS,
    ROLES,
    Entry,
    all_recipes,
    all_studies,
    entries,
    names_of,
    recipe,
    studies_named,
)
from mm1.cli.list import GROUPS, print_entries
from mm1.cli.study import study_by_name
from mm1.config import ConfigError
from mm1.miniature.lr_law import lr_study
from mm1.study.plan import StudyPlan
from mm1.study.statement import statement
from mm1.study.study import Study
from mm1.train.origins import RANDOM, origin_runs

FAMILIES = (
    "lessons",
    "miniature_pixels_or_width",
    "in_context",
    "induction",
    "photographs",
    "photographs_smollm2",
)
"""What is stated before it is run; each is corrected for by itself."""

every_study = pytest.mark.parametrize(
    "make", all_studies().values(), ids=all_studies().keys()
)


@every_study
def test_its_lessons_are_about_its_rows_and_measures(
    make: Callable[[], Study], tmp_path: Path
) -> None:
    made = make()
    plan = StudyPlan(tmp_path)
    rows = made.rows(plan, 0)
    assert len(set(rows.values())) == len(rows), "two rows are the same run"
    assert set(rows) == set(made.rows(plan, 1))
    assert set(rows.values()) <= set(plan.runs)
    for lesson in made.lessons:
        assert lesson.measure in made.measures
        for contrast in lesson.contrasts:
            assert set(contrast) <= set(rows)
            assert math.isclose(sum(contrast.values()), 0, abs_tol=1e-9)
    for measure, numbers in made.paper.items():
        assert measure in made.measures
        assert set(numbers) <= set(rows)
        assert "second-hand" in made.paper_source


@every_study
def test_its_configs_survive_json_and_start_from_known_runs(
    make: Callable[[], Study], tmp_path: Path
) -> None:
    plan = StudyPlan(tmp_path)
    make().rows(plan, 0)
    for folder, config in plan.runs.items():
        assert configs.from_json(configs.to_json(config)) == config
        assert " " not in Path(folder).name
        for origin in map(str, origin_runs(config.init).values()):
            assert origin in plan.runs or origin.startswith("runs/")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in all_recipes()
        if name.startswith("pretrain_")
        and not name.startswith("pretrain_laptop")
    ],
)
def test_pre_training_starts_from_what_other_recipes_train(name: str) -> None:
    """Of the very shape that it goes on with; from scratch only where that is said."""
    run = recipe(name)
    assert set(run.init) == {"encoder", "decoder"}
    if name == "pretrain_small":
        assert set(run.init.values()) == {RANDOM}
        return
    for part, origin in origin_runs(run.init).items():
        folder, _, made_by = str(origin).partition("/")
        assert folder == "runs"
        trained = recipe(made_by).model
        assert getattr(trained, part) == getattr(run.model, part)
    assert run.shots == (0, 4, 8, 16)


def test_the_laptop_starts_from_published_weights_then_from_its_connector() -> (
    None
):
    first = recipe("pretrain_laptop_connector")
    assert set(first.init) == {"encoder", "decoder"} == set(first.frozen)
    assert not set(first.init.values()) & {RANDOM}
    second = recipe("pretrain_laptop")
    assert set(second.init) == {"encoder", "connector", "decoder"}
    assert len(set(second.init.values())) == 1
    assert not second.frozen
    assert second.model == first.model


def test_table_1_is_with_the_decoder_of_the_paper(tmp_path: Path) -> None:
    plan = StudyPlan(tmp_path)
    rows = all_studies()["encoder_loss"]().rows(plan, 0)
    for row, folder in rows.items():
        run = plan.runs[folder]
        assert run.init["decoder"] == "runs/language_model_3b"
        assert run.model.decoder == recipe("pretrain_3b").model.decoder
        assert (run.init["encoder"] == RANDOM) == row.startswith("untrained")
    assert plan.runs[rows["CLIP H, 336 px"]].model.encoder.image_size == 336


def test_the_committed_statement_is_that_of_the_code() -> None:
    """A lesson that changes needs new seeds, a new date, and this file written anew:

    python -m mm1.cli study lessons --state, and so on for each family in it.
    """
    text = (Path(__file__).parents[1] / "studies" / "stated.md").read_text()
    for family in FAMILIES:
        said = statement(studies_named([family]))
        assert f"# `mm1 study {family}`\n\n{said}" in text


@pytest.mark.parametrize("name", ["lr-law-starts", "lr-law-mm1"])
def test_the_laws_are_stated_too(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study_by_name([name], None, state=True)
    said = capsys.readouterr().out
    text = (Path(__file__).parents[1] / "studies" / "stated.md").read_text()
    assert f"# `mm1 study {name}`\n\n{said}" in text
    taken = {
        seed
        for family in FAMILIES
        for study in studies_named([family]).values()
        for seed in study.seeds
    }
    assert not set(lr_study(name).seeds) & ({*range(7)} | taken)
    with pytest.raises(ConfigError, match="run a law by itself"):
        study_by_name([name, "lessons"], None, state=True)


def test_stated_seeds_are_fresh(tmp_path: Path) -> None:
    """Seeds 0 to 6 had been run when the lessons took their form."""
    for family in FAMILIES:
        for study in studies_named([family]).values():
            assert study.stated
            assert min(study.seeds) > 6
            assert all(lesson.text for lesson in study.lessons)


def test_lessons_share_runs(tmp_path: Path) -> None:
    """Of 24 pre-trained rows two are the base, which fine-tuning starts from too; three
    of the text study are the mixture's. Those of isolation are asked in packed rows,
    too.
    """
    plan = StudyPlan(tmp_path)
    rows = 0
    for name in LESSONS:
        rows += len(all_studies()[name]().rows(plan, 0))
    stages = list(plan.stages.values())
    assert stages.count("decoder") == 1
    assert stages.count("encoder") == 2
    assert rows == 27
    assert stages.count("pretrain") == 20


def test_the_example_of_the_docs_is_a_study(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "studies.md").read_text()
    found: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], found)
    assert list(found["warmup"]().rows(StudyPlan(tmp_path), 0)) == [
        "0 steps",
        "30 steps",
        "100 steps",
    ]


def test_an_unknown_study_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mixture'"):
        study_by_name(["mixtur"], tmp_path, seeds=(0,), jobs=1)
    with pytest.raises(ConfigError, match="a study needs --out"):
        study_by_name(["mixture"], None, seeds=(0,), jobs=1)


MINE = """
from mm1.recipes.pretrain import pretrain_small
from mm1.recipes.finetune_ablations import resolution
from mm1.study.study import Study
from mm1.train.trainer import Trainer

def my_recipe():
    return pretrain_small()

def my_sized_recipe(steps) -> Trainer.Config:
    return pretrain_small()

def my_complete_recipe(steps: int = 3) -> "Trainer.Config":
    return pretrain_small()

def my_study():
    return resolution()
"""


@pytest.fixture
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file of one's own among the recipes."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    yield
    sys.modules.pop("mm1.recipes.mine", None)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("my_recipe", "annotate its return as -> Trainer.Config"),
        ("my_sized_recipe", "give a default to steps"),
    ],
)
@pytest.mark.usefixtures("own_file")
def test_what_a_function_lacks_to_be_a_recipe_is_said(
    name: str, missing: str
) -> None:
    assert "my_complete_recipe" in all_recipes()
    assert name not in all_recipes()
    with pytest.raises(ConfigError) as error:
        recipe(name)
    assert (
        str(error.value)
        == f"{name} in mm1/recipes/mine.py is no recipe yet: {missing}"
    )


@pytest.mark.usefixtures("own_file")
def test_what_a_function_lacks_to_be_a_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no study yet: annotate its return as -> Study$"
    ):
        study_by_name(["my_study"], tmp_path / "out", seeds=(0,))


def test_a_function_that_returns_something_else_is_not_taken_for_a_recipe() -> (
    None
):
    with pytest.raises(ConfigError, match="no recipe 'filters_named'"):
        recipe("filters_named")


@pytest.fixture(scope="module")
def listed() -> dict[str, list[Entry]]:
    """Group -> its lines; the models of all recipes are built, which takes seconds."""
    return {group: entries(group) for group in GROUPS}


def test_the_list_has_every_group_and_says_what_each_is(
    listed: dict[str, list[Entry]],
) -> None:
    assert set(listed) == {"recipes", "studies", *ROLES}
    for group, lines in listed.items():
        names = [entry.name for entry in lines]
        assert names == names_of(group)
        assert len(set(names)) == len(names) > 1
        assert all(entry.summary for entry in lines)
        assert group != "recipes" or all(entry.size for entry in lines)


def test_sizes_are_parameters_without_the_vocabulary_and_runs_of_a_seed(
    listed: dict[str, list[Entry]],
) -> None:
    """10,230,016 parameters of the 9M decoder: golden_params.txt."""
    recipes = {entry.name: entry for entry in listed["recipes"]}
    assert recipes["language_model_9m"].size == "10.2M"
    assert recipes["sft_3b"].size == recipes["pretrain_3b"].size == "3.61B"
    assert (
        recipes["sft_3b"].needs == "needs data/instructions, runs/pretrain_3b"
    )
    studies = {entry.name: entry for entry in listed["studies"]}
    assert studies["mixture"].size == "5 runs"
    assert studies["mixture"].needs.startswith(
        "needs data/interleaved, data/captions"
    )
    assert studies["miniature_mixture"].needs == "needs mm1[miniature]"


def test_needs_come_from_configs_and_docstrings() -> None:
    benchmarks = {entry.name: entry.needs for entry in entries("benchmarks")}
    assert benchmarks["coco"].startswith(
        "options annotations, images, train_annot"
    )
    assert "retrieval" not in benchmarks["coco"]
    assert benchmarks["probe"] == "options data.test, data.train, data.names"
    assert benchmarks["miniature"] == "needs mm1[miniature]"
    sources = {entry.name: entry.needs for entry in entries("sources")}
    assert sources["captions"] == "reads *.tar"


def test_on_a_terminal_the_list_is_wrapped(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    listed: dict[str, list[Entry]],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_entries(listed["studies"])
    studies = len(listed["studies"])
    assert len(capsys.readouterr().out.splitlines()) == studies
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_entries(listed["studies"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > studies
    assert max(map(len, lines)) <= 80
    column = lines[0].index("Three connectors")
    assert all(line[:column].strip() == "" for line in lines if line[2] == " ")
