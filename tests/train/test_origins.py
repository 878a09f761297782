"""Runs that start from parts of other runs, imported ones among them: the parts bring
their shape along."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import worlds

from mm1 import config as configs
from mm1.api import open_trainer
from mm1.catalog import recipe, run_config
from mm1.config import ConfigError
from mm1.files import write_json
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.overrides import override
from mm1.runs.layout import checkpoint_path
from mm1.train.origins import (
    RANDOM,
    MissingOrigin,
    adopt_architectures,
    check_resumable,
    check_startable,
    origin_runs,
    say_config_differences,
)
from mm1.train.trainer import Trainer


def write_config(folder: Path, config: Trainer.Config) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", configs.to_json(config))
    return folder


def joint(tmp_path: Path, **decoder: object) -> Path:
    """The config of a run with an encoder of 16 pixels and a decoder 32 wide."""
    config = MM1.Config(
        encoder=replace(worlds.encoder(), image_size=16),
        decoder=replace(worlds.decoder(), **decoder),
    )
    return write_config(tmp_path / "joint", Trainer.Config(model=config))


def test_a_part_takes_the_shape_of_its_origin_and_what_changed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe("pretrain_small")
    origin = joint(tmp_path, qk_norm="head")
    assert isinstance(config.model, MM1.Config)
    connector = config.model.connector
    adopt_architectures(config, {"decoder": origin})
    assert config.model.decoder == replace(worlds.decoder(), qk_norm="head")
    assert config.model.connector == connector
    said = capsys.readouterr().err
    assert f"init.decoder={origin} brings its architecture:" in said
    assert "model.decoder.dim 256 -> 32" in said
    assert "model.decoder.qk_norm None -> head" in said


def test_the_size_of_pictures_is_the_recipes(tmp_path: Path) -> None:
    config = recipe("pretrain_small")
    adopt_architectures(config, {"encoder": joint(tmp_path)})
    assert config.model.encoder == replace(worlds.encoder(), image_size=96)


def test_experts_stay_where_the_origin_is_dense_and_losses_are_the_recipes(
    tmp_path: Path,
) -> None:
    config = recipe("pretrain_small")
    config.model.decoder.experts = MoE.Config(num_experts=4, balance_loss=0.5)
    adopt_architectures(config, {"decoder": joint(tmp_path)})
    experts = MoE.Config(num_experts=4, balance_loss=0.5)
    assert config.model.decoder == replace(worlds.decoder(), experts=experts)
    adopt_architectures(
        config,
        {
            "decoder": joint(
                tmp_path,
                experts=MoE.Config(num_experts=8, every=1, balance_loss=0.1),
            )
        },
    )
    experts = MoE.Config(num_experts=8, every=1, balance_loss=0.5)
    assert config.model.decoder == replace(worlds.decoder(), experts=experts)


def test_a_wish_that_contradicts_an_origin_is_an_error(tmp_path: Path) -> None:
    config = recipe("pretrain_small")
    origin = joint(tmp_path)
    wishes = [
        "model.decoder.dim=64",
        "model.decoder.num_heads=2",
        "model.encoder.image_size=24",
    ]
    for wish in wishes:
        override(config, wish)
    with pytest.raises(
        ConfigError,
        match=(
            rf"model.decoder.dim=64 contradicts init.decoder={origin}, where it is 32"
        ),
    ):
        adopt_architectures(
            config, {"encoder": origin, "decoder": origin}, wishes
        )
    adopt_architectures(config, {"encoder": origin}, wishes)
    assert config.model.encoder.image_size == 24


def test_only_origins_named_on_the_command_line_are_looked_into(
    tmp_path: Path,
) -> None:
    config = worlds.pretrain(
        tmp_path, init={"encoder": "nowhere"}
    )  # a recipe's own: the run may not be made yet
    write_config(tmp_path, config)
    assert run_config(str(tmp_path), ["steps=3"]).model == config.model
    with pytest.raises(
        ConfigError, match=r"init\.encoder=elsewhere: .* no such run"
    ):
        run_config(str(tmp_path), ["init.encoder=elsewhere"])


def test_a_run_that_is_missing_is_named_with_ways_to_get_it(
    tmp_path: Path,
) -> None:
    config = worlds.pretrain(tmp_path, init={"decoder": str(tmp_path / "lm")})
    with pytest.raises(ConfigError) as caught:
        check_startable(tmp_path / "run", config, resume=False)
    for words in (
        f"init.decoder={tmp_path / 'lm'}",
        f"mm1 train RECIPE --out {tmp_path / 'lm'}",
        f"mm1 import PATH_OR_ID --out {tmp_path / 'lm'}",
        "init.decoder=random",
    ):
        assert words in str(caught.value)
    config.init = {"decoder": RANDOM}
    check_startable(tmp_path / "run", config, resume=False)


@pytest.mark.parametrize(
    ("recipe_name", "said"),
    [
        (
            "pretrain_laptop",
            "Train it first (`mm1 train pretrain_laptop_connector --out"
            " runs/laptop_connector`) or name another run",
        ),
        (
            "clip_h14_378",
            "Train it (`mm1 train clip_h14_224 --out runs/clip_h14_224`), import",
        ),
        (
            "pretrain_laptop_connector",
            "Train it (`mm1 train RECIPE --out runs/clip_b32`, `mm1 list",
        ),
    ],
)
def test_a_run_of_a_recipe_is_proposed_by_its_name(
    recipe_name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_trainer(recipe_name, [], tmp_path / "run", resume=False)
    assert said in str(caught.value)


def test_a_missing_run_crosses_between_ranks() -> None:
    error = MissingOrigin("encoder", Path("a"), "clip_small")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_part_from_scratch_is_asked_for_by_name(tmp_path: Path) -> None:
    """What an override says instead of a recipe's run, without looking for one."""
    own = run_config("pretrain_3b", ["init.encoder=random"])
    assert own.init["encoder"] == RANDOM
    assert own.model == recipe("pretrain_3b").model
    assert list(origin_runs(own.init)) == ["decoder"]


def test_a_recipe_takes_the_shape_of_its_run_where_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = replace(
        recipe("clip_h14_378").model.encoder, activation="quick_gelu"
    )
    made = recipe("clip_h14_378")
    made.model.encoder = encoder
    Path("runs/clip_h14_378").mkdir(parents=True)
    write_config(Path("runs/clip_h14_378"), made)
    assert run_config("pretrain_7b").model.encoder == encoder


def test_a_resumed_run_needs_no_origin(tmp_path: Path) -> None:
    write_config(tmp_path, worlds.pretrain(tmp_path, init={"decoder": "gone"}))
    resumed = run_config(
        str(tmp_path), ["init.decoder=gone", "steps=3"]
    )  # all that was given before, once more
    assert (resumed.init, resumed.steps) == ({"decoder": "gone"}, 3)


def test_a_run_with_checkpoints_goes_on_without_its_origin_as_far_as_it_likes(
    tmp_path: Path,
) -> None:
    config = worlds.pretrain(tmp_path, init={"decoder": "gone"}, steps=4)
    write_config(tmp_path, config)
    with pytest.raises(FileExistsError, match="holds a run already"):
        check_startable(tmp_path, config, resume=False)
    with pytest.raises(ConfigError, match="no such run"):
        check_startable(tmp_path, config, resume=True)  # it has no checkpoint
    checkpoint = checkpoint_path(tmp_path, 3)
    checkpoint.mkdir(parents=True)
    check_startable(tmp_path, config, resume=True)
    config.steps = 2
    with pytest.raises(ConfigError, match="with steps=2: it has trained 3"):
        check_startable(tmp_path, config, resume=True)


def test_a_run_that_goes_on_says_what_it_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "pretrain_small"
    config = recipe(name)
    say_config_differences(tmp_path, config, name, recipe(name))
    assert capsys.readouterr().err == ""
    for wish in ("steps=3", "seed=4"):
        override(config, wish)
    say_config_differences(tmp_path, config, name, recipe(name))
    assert capsys.readouterr().err.endswith(
        "resumes with its own config, unlike pretrain_small: steps=3, seed=4\n"
    )


@pytest.mark.parametrize(
    "wish",
    [
        "model.decoder.dim=64",
        "frozen=('encoder',)",
        "optimizer=mm1.train.optimizers.adafactor:AdaFactor",
    ],
)
def test_a_run_cannot_go_on_with_another_model(
    wish: str, tmp_path: Path
) -> None:
    config = recipe("pretrain_small")
    write_config(tmp_path, config)
    override(config, "steps=3")
    check_resumable(tmp_path, config)
    override(config, wish)
    with pytest.raises(
        ConfigError,
        match=(
            rf"cannot resume with {wish.partition('=')[0]} \S+.*: its checkpoints hold"
        ),
    ):
        check_resumable(tmp_path, config)
