"""A whole model's weights move to another resolution."""

from dataclasses import replace

import torch
from nn.batches import DECODER, ENCODER, PLACES, VOCABULARY

from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.mm1 import MM1
from mm1.nn.model import adapt


def make(image_size: tuple[int, int]) -> MM1:
    connector = CAbstractor.Config(num_tokens=PLACES, dim=16, depth=1)
    encoder = replace(ENCODER, image_size=image_size)
    return MM1.Config(
        encoder=encoder, connector=connector, decoder=DECODER
    ).build(vocab_size=VOCABULARY)


def test_positions_are_interpolated_and_the_rest_stays() -> None:
    old = make((8, 12)).state_dict()
    new = make((16, 24))
    adapted = adapt(new, old)
    changed = {
        name for name, value in adapted.items() if value is not old[name]
    }
    assert changed == {"encoder.position", "connector.position"}
    assert adapted["encoder.position"].shape == (8, 12, 16)
    new.load_state_dict(adapted)


def test_one_part_adapts_by_itself() -> None:
    old = make((8, 12))
    new = make((4, 6))
    new.encoder.load_state_dict(adapt(new.encoder, old.encoder.state_dict()))
    assert new.encoder.position.shape == (2, 3, 16)


def test_equal_grids_change_nothing_and_unknown_names_pass() -> None:
    model = make((8, 12))
    state = model.state_dict() | {"stranger": torch.zeros(1)}
    adapted = adapt(model, state)
    assert all(adapted[name] is value for name, value in state.items())
    assert list(adapted) == list(state)
