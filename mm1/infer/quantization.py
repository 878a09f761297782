"""Quantised inference: linear maps with integer weights, by torchao.

A row of weights becomes integers of 8 bits and one scale; what flows through the model
keeps its type. Embeddings, the head, norms, convolutions and experts stay as they are.
torchao's scheme that also rounds activations to 8 bits was tried and changes far more
of what a model says (docs/chat.md).
"""

import logging
from typing import Literal, get_args

from torch import nn

from mm1.config import ConfigError
from mm1.extras import needs_extra
from mm1.nn.model import Model

Quantization = Literal["int8"]


def quantize_weights(model: Model, kind: Quantization) -> None:
    """Quantises the linear maps of a model's blocks and connector, in place.

    Raises:
        ConfigError: there is no such kind, the model has no linear maps there, or the
            extra is not installed.
    """
    if kind not in get_args(Quantization):
        raise ConfigError(
            f"quantization={kind!r}: it must be {' or '.join(get_args(Quantization))}"
        )
    # On a machine without CUDA it logs which of its kernels it cannot load.
    logging.getLogger("torchao").setLevel(logging.CRITICAL)
    with needs_extra("quantize", f"{kind} quantization"):
        from torchao.quantization import (  # type: ignore[import-not-found]
            Int8WeightOnlyConfig,
            quantize_,
        )
    inside = {
        module
        for unit in model.units()
        for module in unit.modules()
        if isinstance(module, nn.Linear)
    }
    if not inside:
        raise ConfigError(
            f"a {type(model).__name__} has no linear maps to quantise"
        )
    schemes = {"int8": Int8WeightOnlyConfig()}
    quantize_(
        model, schemes[kind], filter_fn=lambda module, _: module in inside
    )
