"""Losses on documents that are never trained on."""

import torch

from mm1 import dist
from mm1.batch import move
from mm1.loader.loader import Loader
from mm1.nn.model import Model
from mm1.train.metrics import Meter


@torch.no_grad()
def validation_losses(
    model: Model, loader: Loader, device: torch.device
) -> dict[str, float]:
    """`validation/<source>`, and `validation` over all of them; every rank must call
    this."""
    model.eval()
    meter = Meter(device)
    for batch in loader.validation(
        rank=dist.data_rank(), world_size=dist.data_size()
    ):
        meter.add(model(move(batch, device)).means)
    model.train()
    return {
        name.replace("loss", "validation", 1): value
        for name, value in meter.read().items()
        if name == "loss" or name.startswith("loss/")
    }
