"""A training step never waits for the device: shown on a made-up one, whose tensors
have no values, and, where there is a GPU, by torch's own check."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nn.batches import DECODER, multimodal_model, packed
from torch import Tensor
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import contrastive, make_world, pretrain, reconstructive

from mm1.batch import Batch, ImageBatch, PairBatch
from mm1.loader.loader import StepBatches
from mm1.nn import attention
from mm1.nn.aim import AIM
from mm1.nn.clip import CLIP
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.experts import MoE
from mm1.nn.model import Model
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.train import accumulation
from mm1.train.layout import ParallelLayout
from mm1.train.optimizers.adamw import AdamW
from mm1.train.reporting import Reporter
from mm1.train.schedulers import WarmupCosine
from mm1.train.shutdown import GracefulShutdown
from mm1.train.trainer import Trainer

DEVICE = torch.device("meta")
READS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
}
ENCODER = ViT.Config(image_size=8, patch_size=4, depth=1, dim=16, num_heads=2)


class Waits(AssertionError):
    """An operation for which the host waits for the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses reads of values on the device and copies that block."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().partition(".")[0]
        tensors = [
            x
            for x in torch.utils._pytree.tree_leaves(args)
            if isinstance(x, Tensor)
        ]
        on_device = any(x.device.type == "meta" for x in tensors)
        if on_device and name in READS:
            raise Waits(str(func))
        by_mask = any(x.dtype == torch.bool for x in tensors[1:])
        if on_device and name == "aten::index" and by_mask:
            raise Waits(f"{func} by a mask")
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and name in (
            "aten::_to_copy",
            "aten::copy_",
        ):
            devices = {x.device.type for x in (*tensors, out)}
            if len(devices) > 1 and not _non_blocking(args, kwargs):
                raise Waits(f"{func} between {devices}")
        return out


def _non_blocking(args: Any, kwargs: Any) -> bool:
    return bool(kwargs.get("non_blocking", len(args) > 2 and args[2]))


def _images(count: int) -> Tensor:
    return torch.zeros(count, 3, 8, 8, dtype=torch.uint8)


def pairs() -> PairBatch:
    return PairBatch(
        images=_images(4),
        tokens=torch.ones(4, 6, dtype=torch.int64),
        lengths=torch.tensor([3, 6, 2, 4]),
        caption_ids=torch.arange(4),
    )


def clip() -> Model:
    text = TextTower.Config(depth=1, dim=16, num_heads=2, max_length=6)
    return CLIP.Config(encoder=ENCODER, text=text, dim=8).build(vocab_size=31)


def aim() -> Model:
    config = AIM.Config(encoder=ENCODER, head_depth=1, head_dim=16)
    return config.build(vocab_size=31)


def dense() -> Model:
    return multimodal_model(CAbstractor.Config(num_tokens=4, dim=8, depth=1))


def sparse() -> Model:
    experts = MoE.Config(num_experts=4, capacity_factor=1.0)
    return multimodal_model(decoder=replace(DECODER, experts=experts))


def step(model: Any, batches: list[Batch], monkeypatch: Any) -> None:
    """`Trainer.train_step`, of a trainer that has what it needs for one."""
    monkeypatch.setattr(
        accumulation, "set_gradient_sync", lambda *_, **__: None
    )
    monkeypatch.setattr(attention, "has_varlen_kernel", lambda x: True)
    monkeypatch.setattr(
        optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"]
    )
    made = object.__new__(Trainer)
    made.config = Trainer.Config()
    made.device = DEVICE
    made.model = model().to(DEVICE, torch.bfloat16)
    made.step = 0
    made.compiled = None
    made.layout = ParallelLayout.Config().build(torch.device("cpu"))
    made.reporter = Reporter(DEVICE, peak_flops=1.0)
    made.shutdown = GracefulShutdown()
    made.optimizer = AdamW.Config().build(model=made.model)
    made.scheduler = WarmupCosine.Config().build(peak_lr=1e-3, steps=10)
    with NoWaiting():
        made.train_step(StepBatches(batches, {}, {}, {}))


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (dense, packed([9, 7, 8], num_pictures=2)),
        (sparse, packed([9, 7, 8], num_pictures=2)),
        (clip, pairs()),
        (aim, ImageBatch(images=_images(4))),
    ],
)
def test_no_step_waits_for_the_device(
    model: Any, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(model, [batch, batch], monkeypatch)


def test_a_wait_would_be_seen() -> None:
    def read(x: Tensor) -> None:
        x.sum().item()

    def mask(x: Tensor) -> None:
        x[x > 0]

    def upload(x: Tensor) -> None:
        torch.ones(3).to(x.device)

    with NoWaiting():
        x = torch.ones(3, device=DEVICE)
        for wait in (read, mask, upload):
            with pytest.raises(Waits):
                wait(x)


@pytest.mark.gpu
@pytest.mark.parametrize("make", [pretrain, contrastive, reconstructive])
def test_no_step_waits_for_a_gpu(make: Any, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    run = make(world, precision="bf16").build(folder=tmp_path / "run")
    data = next(run.loader.steps(None, rank=0, world_size=1))
    run.model.train()
    run.train_step(data)  # kernels are loaded, plans are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.train_step(data)
    finally:
        torch.cuda.set_sync_debug_mode("default")
