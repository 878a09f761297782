import pytest

from mm1.catalog import all_recipes, recipe
from mm1.config import ConfigError
from mm1.launch.batches import micro_batch_override
from mm1.overrides import override


def test_micro_batches_are_made_to_fit() -> None:
    config = recipe("pretrain_small")
    override(config, "loader.batch_size=24")
    override(config, "loader.micro_batch_size=8")
    assert micro_batch_override(config, 3) is None
    assert micro_batch_override(config, 2) == "loader.micro_batch_size=6"
    assert micro_batch_override(config, 24) == "loader.micro_batch_size=1"
    with pytest.raises(ConfigError, match="does not divide over the 5 ranks"):
        micro_batch_override(config, 5)
    override(config, "layout.tensor=2")
    assert micro_batch_override(config, 6) is None


def test_every_recipe_can_be_shared_by_two() -> None:
    for make in all_recipes().values():
        micro_batch_override(make(), 2)
