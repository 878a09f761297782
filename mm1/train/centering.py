"""Features whose mean over images is zero, from the first step on.

All images share the mean of an encoder's features, and a decoder that must tell images
apart by them, as in-context learning asks, learns it later:
docs/evidence.md. It is taken off the bias of the encoder's last norm, so nothing else
changes: neither the architecture, nor checkpoints, nor exports.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from mm1 import dist
from mm1.batch import Batch, PackedBatch, move
from mm1.config import ConfigError
from mm1.nn.mm1 import MM1
from mm1.nn.model import Model


def check_centering(model: Model.Config) -> None:
    """Raises ConfigError unless the model has an encoder whose last norm has a bias."""
    if not isinstance(model, MM1.Config):
        raise ConfigError("center_features=True needs a model with a connector")
    if model.encoder.norm == "rms":
        raise ConfigError(
            "center_features=True needs a bias in the encoder's last norm, and"
            " model.encoder.norm=rms has none"
        )


@torch.no_grad()
def center_features(
    model: Model, micro_batches: Sequence[Batch], device: torch.device
) -> None:
    """Takes the mean of the patches' features, over the images of one step of all
    ranks, off the bias of the encoder's last norm. Every rank must call this.

    Raises:
        ConfigError: the step has no images.
    """
    assert isinstance(model, MM1)
    total = torch.zeros(model.encoder.dim + 1, dtype=torch.float64)
    num_images = 0

    def add(_module: object, _inputs: object, features: Tensor) -> None:
        seen = features[:num_images].flatten(0, 1).double().cpu()
        total[:-1] += seen.sum(0)
        total[-1] += len(seen)

    hook = model.encoder.register_forward_hook(add)
    try:
        for batch in micro_batches:
            assert isinstance(batch, PackedBatch)
            num_images = len(batch.slots)
            model(move(batch, device))
    finally:
        hook.remove()
    dist.sum_over_ranks(total)
    if total[-1] == 0:
        raise ConfigError(
            "center_features=True: there is no image in the first step"
        )
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # else the next forward has the weights of this one
    bias = model.encoder.norm.bias
    assert isinstance(bias, Tensor)
    mean = (total[:-1] / total[-1]).to(bias.device, bias.dtype)
    if isinstance(bias, DTensor):
        mean = distribute_tensor(mean, bias.device_mesh, bias.placements)
    bias.sub_(mean)
