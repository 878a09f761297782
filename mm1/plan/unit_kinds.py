"""The units of a model by kind: those of one kind take equally long."""

from collections.abc import Sequence

from torch import nn

from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.model import Model

REST = "embedding and loss"
"""What is in no unit: the encoder's patches, too."""


def unit_kinds(model: Model) -> dict[str, list[nn.Module]]:
    """In the order of execution; a kind of which there are several is `blocks`."""
    parts = model.parts()
    kinds: dict[str, list[nn.Module]] = {}
    for part in ("encoder", "connector"):
        if part in parts:
            blocks = list(getattr(parts[part], "blocks", [parts[part]]))
            kinds[f"{part} blocks" if part == "encoder" else part] = blocks
    decoder = parts["decoder"]
    assert isinstance(decoder, Decoder)
    blocks = list(decoder.blocks)
    kinds["sparse decoder blocks"] = [b for b in blocks if moes([b])]
    kinds["decoder blocks"] = [b for b in blocks if not moes([b])]
    return {name: units for name, units in kinds.items() if units}


def moes(modules: Sequence[nn.Module]) -> list[MoE]:
    """The mixtures of experts in these modules."""
    return [m for each in modules for m in each.modules() if isinstance(m, MoE)]
