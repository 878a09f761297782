"""The model of a run on its ranks: built without memory, then each rank's share of it
is filled.

In between, it is sharded (`mm1.train.parallel`): no rank ever holds the whole model,
only its share and the tensor it is reading or drawing.
"""

from collections.abc import Mapping, Sequence

import torch

from mm1.data.tokenizer import Tokenizer
from mm1.nn.initialization import initialize_buffers, initialize_weights
from mm1.nn.model import Model
from mm1.runs.weights import check_part, load_part
from mm1.train.lora import Lora
from mm1.train.origins import origin_runs
from mm1.train.parallel import freeze


def build_on_meta(
    config: Model.Config,
    *,
    vocab_size: int,
    lora: Lora | None,
    frozen: Sequence[str],
) -> Model:
    """The model without values, with adapters, and with frozen parts."""
    with torch.device("meta"):
        model = config.build(vocab_size=vocab_size)
        if lora is not None:
            lora.inject(model)
    freeze(model, frozen)
    return model


def fill_weights(
    model: Model,
    *,
    device: torch.device,
    seed: int,
    init: Mapping[str, str],
    tokenizer: Tokenizer,
    lora: Lora | None,
    resumed: bool,
) -> None:
    """Gives a model from the meta device its memory, this rank's share of its initial
    weights, and parts of other runs by `init`. If `resumed`, all of them are left for a
    checkpoint to fill.

    Raises:
        ConfigError: a part does not fit, or modules leave parameters as they are.
    """
    model.to_empty(device=device)
    if resumed:
        initialize_buffers(model)
        return
    initialize_weights(model, seed)
    for part in init:
        check_part(model, part)
    for part, origin in origin_runs(init).items():
        load_part(
            model,
            part,
            origin,
            tokenizer=tokenizer,
            plain_name=lora.plain_name if lora else str,
        )
