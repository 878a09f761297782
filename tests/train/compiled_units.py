"""Compiled units against eager ones over twenty real micro-batches;
`test_compiled_units.py` runs it as a process: `compiled_units.py MODE FOLDER`.

It prints graphs by kind of unit, products in them, and the worst difference of a
gradient.
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tiny
import torch
import varlen_on_cpu
from functorch.compile import (
    make_boxed_func,
    min_cut_rematerialization_partition,
)
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.batch import PackedBatch
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.loader.collate import RenderedSegment, collate
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT
from mm1.train.activation_checkpointing import KEPT, checkpoint_activations
from mm1.train.compilation import CompiledUnits
from mm1.train.layout import ParallelLayout
from mm1.train.parallel import shard

MICRO_BATCHES = 20
SIDE = 24


def micro_batches(renderer: Renderer, count: int) -> list[PackedBatch]:
    """Two rows of 96 tokens each with 2 to 12 images in documents of many layouts."""
    draw = random.Random(0)
    documents = [renderer(document) for document in tiny.prompts(60)]
    made = []
    while len(made) < count:
        rows = []
        for _ in range(2):
            row: list[RenderedSegment] = []
            length = 0
            while True:
                document = draw.choice(documents)
                length += len(document.tokens)
                if length > 96 or len(row) == draw.randint(3, 9):
                    break
                row.append(RenderedSegment.whole(document))
            rows.append(row)
        batch = collate(rows, renderer, sequence_length=96)
        if len(batch.images) > 1:
            made.append(batch)
    return made


def model(vocab_size: int) -> MM1:
    """To be run in bf16: the grouped product of experts has no compiled form in
    fp32."""
    torch.manual_seed(0)
    return MM1.Config(
        encoder=ViT.Config(
            image_size=SIDE, patch_size=2, depth=2, dim=16, num_heads=2
        ),
        connector=CAbstractor.Config(num_tokens=4, dim=8, depth=1),
        decoder=Decoder.Config(
            depth=4,
            dim=32,
            num_heads=2,
            hidden_dim=48,
            experts=MoE.Config(num_experts=4),
        ),
    ).build(vocab_size=vocab_size)


class Products:
    """A backend that counts the operations that "selective" keeps, by graph."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {"forward": [], "backward": []}
        self.backend = aot_autograd(
            fw_compiler=lambda g, i: self.count("forward", g),
            bw_compiler=lambda g, i: self.count("backward", g),
            partition_fn=min_cut_rematerialization_partition,
        )

    def count(self, direction: str, graph: Any) -> Any:
        kept = Counter(
            node.target.name().partition(".")[0]
            for node in graph.graph.nodes
            if isinstance(node.target, torch._ops.OpOverload)
        )
        self.counts[direction].append(sum(kept[name] for name in KEPT))
        return make_boxed_func(graph.forward)


def full(gradient: Any) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def gradients(module: nn.Module, batch: PackedBatch) -> dict[str, Tensor]:
    module.zero_grad()
    (module(batch).objective / batch.num_targets).backward()
    return {
        name: full(parameter.grad).clone()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def main(mode: Any, folder: Path) -> None:
    varlen_on_cpu.imitate()
    tokenizer = tiny.tokenizer(folder)
    renderer = Renderer(
        tokenizer, ImageProcessor((SIDE, SIDE)), tokens_per_image=4
    )
    batches = micro_batches(renderer, MICRO_BATCHES)
    eager, compiled = (model(tokenizer.vocab_size) for _ in range(2))
    products = Products()
    checkpoint_activations(compiled.units(), mode)
    units = CompiledUnits(
        [*compiled.units(), *compiled.functions()],
        backend=products.backend,
        fullgraph=True,
    )
    for sharded in (eager, compiled):
        layout = ParallelLayout.Config().build(dist.start())
        shard(sharded, layout, precision="bf16", by_unit=True)
    worst = 0.0
    for batch in batches:
        expected = gradients(eager, batch)
        for name, gradient in gradients(compiled, batch).items():
            scale = expected[name].abs().max().clamp(min=1e-12)
            difference = (gradient - expected[name]).abs().max() / scale
            worst = max(worst, float(difference))
    result = {
        "images": sorted({len(batch.images) for batch in batches}),
        "documents": sorted({len(batch.cu_seqlens) for batch in batches}),
        "graphs": dict(units.graphs),
        "products": products.counts,
        "worst": worst,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
