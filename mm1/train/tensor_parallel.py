"""Tensor parallelism of decoders: the ranks of a node share each product and read the
same data (Shoeybi et al. 2019, arXiv:1909.08053), by DTensor's styles.

    attention      queries, keys, values columnwise, each rank with heads of its own;
                   output rowwise
    feed-forward   gate and up columnwise, down rowwise
    vocabulary     the table of embeddings and the output map by rows; the loss is
                   computed without gathering logits

Between a columnwise and a rowwise map everything is a plain tensor of the rank's own
channels, so `mm1.nn` knows nothing of it. Activations outside are whole on each rank:
there is no sequence parallelism. Norms, experts, encoder and connector are computed by
every rank alike; weights of theirs are sharded by FSDP2 alone.
"""

from functools import partial

import torch
import torch.distributed._functional_collectives as funcol
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInputOutput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from mm1.config import ConfigError
from mm1.nn.attention import Attention
from mm1.nn.block import AttentionBlock, SwiGLU
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.float8 import MULTIPLE, Float8Linear
from mm1.nn.linear import Linear
from mm1.nn.losses import VocabularyPart
from mm1.nn.model import Model
from mm1.nn.shards import in_order_of_ranks


def apply_tensor_parallelism(model: Model, mesh: DeviceMesh) -> None:
    """Shares the decoder's products among the ranks of a one-dimensional mesh, in
    place.

    Raises:
        ConfigError: there is no decoder, or the ranks do not divide its heads or
            widths, leave float8 no multiples of 16, or are too many for its vocabulary.
    """
    if not isinstance(model, LanguageModel):
        raise ConfigError(
            f"layout.tensor={mesh.size()} is for decoders, and"
            f" {type(model).__name__} has none: set layout.tensor=1"
        )
    decoder = model.decoder
    ranks = mesh.size()
    if decoder.vocab_size <= (ranks - 1) * _share_of(decoder.vocab_size, ranks):
        raise ConfigError(
            f"layout.tensor={ranks} leaves a rank none of the {decoder.vocab_size}"
            " tokens of the vocabulary"
        )
    for block in decoder.blocks:
        assert isinstance(block, AttentionBlock)
        _check_divides(block, ranks)
        _share_attention(block.attention, mesh)
        if isinstance(block.feed_forward, SwiGLU):
            _parallelize(
                block.feed_forward,
                mesh,
                gate_up=FusedColwiseParallel(),
                down=RowwiseParallel(),
            )
    _share_vocabulary(decoder, mesh)
    model.chunk_loss.vocabulary = SharedVocabulary(mesh, decoder.vocab_size)


class FusedColwiseParallel(ColwiseParallel):
    """Gives each rank its share of each of the maps that a linear map fuses
    (`mm1.nn.shards`)."""

    def _partition_linear_fn(
        self, name: str, module: nn.Module, device_mesh: DeviceMesh
    ) -> None:
        assert isinstance(module, Linear)
        for key, whole in list(module.named_parameters()):
            ordered = in_order_of_ranks(
                whole.detach(), module.fused, device_mesh.size()
            )
            shared = distribute_tensor(
                ordered, device_mesh, [Shard(0)], src_data_rank=None
            )
            setattr(
                module,
                key,
                nn.Parameter(shared, requires_grad=whole.requires_grad),
            )


class VocabularyParallel(RowwiseParallel):
    """An embedding by rows. Its output is waited for: a compiled block takes one that
    is still on its way, and loses the gradient."""

    @staticmethod
    def _prepare_output_fn(
        output_layouts: tuple[Placement, ...],
        use_local_output: bool,
        mod: nn.Module,
        outputs: DTensor,
        device_mesh: DeviceMesh,
    ) -> Tensor:
        return outputs.redistribute(placements=output_layouts).to_local()


class SharedVocabulary(VocabularyPart):
    """The tokens of one rank of tensor parallelism: of V tokens on n ranks, V / n,
    rounded up; the last ranks may have fewer."""

    def __init__(self, mesh: DeviceMesh, vocab_size: int) -> None:
        share = _share_of(vocab_size, mesh.size())
        self.mesh = mesh
        self.vocab_size = vocab_size
        self.start = min(vocab_size, mesh.get_local_rank() * share)
        self.stop = min(vocab_size, self.start + share)

    def own_rows(self, head: Float[Tensor, "V D"]) -> Float[Tensor, "own D"]:
        assert isinstance(head, DTensor)
        return head.to_local(grad_placements=[Shard(0)])

    def places(
        self, targets: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, "n 1"], Float[Tensor, "n 1"]]:
        places = targets[:, None] - self.start
        own = (places >= 0) & (places < self.stop - self.start)
        return places.where(own, 0), own.float()

    def largest(
        self, logits: Float[Tensor, "n own"]
    ) -> tuple[Float[Tensor, "n 1"], Int[Tensor, "n 1"]]:
        own, best = logits.max(-1, keepdim=True)
        largest = funcol.all_reduce(own, "max", self.mesh)
        first = (best + self.start).where(own == largest, self.vocab_size)
        return largest, funcol.all_reduce(first, "min", self.mesh)

    def sum(self, shares: Float[Tensor, "n any"]) -> Float[Tensor, "n any"]:
        return funcol.all_reduce(shares, "sum", self.mesh)

    def gather(self, logits: Float[Tensor, "n own"]) -> Float[Tensor, "n V"]:
        shape = (len(logits), self.vocab_size)
        return DTensor.from_local(
            logits,
            self.mesh,
            [Shard(1)],
            run_check=False,
            shape=torch.Size(shape),
            stride=(self.vocab_size, 1),
        ).full_tensor()


def _share_of(vocab_size: int, ranks: int) -> int:
    """Tokens of each rank, but that the last ones may have fewer."""
    return -(-vocab_size // ranks)


def _share_attention(attention: Attention, mesh: DeviceMesh) -> None:
    of_heads = partial(SequenceParallel, sequence_dim=1, use_local_output=True)
    of_all_heads = partial(
        PrepareModuleInputOutput,
        input_layouts=Shard(-1),
        desired_input_layouts=Replicate(),
        use_local_input=True,
        output_layouts=Replicate(),
        desired_output_layouts=Shard(-1),
    )
    norm = of_all_heads if attention.qk_norm == "full" else of_heads
    norms = {"q_norm": norm(), "k_norm": norm()} if attention.qk_norm else {}
    _parallelize(
        attention,
        mesh,
        qkv=FusedColwiseParallel(),
        out=RowwiseParallel(),
        **norms,
    )
    queries, keys, values = (heads // mesh.size() for heads in attention.heads)
    attention.heads = (queries, keys, values)


def _share_vocabulary(decoder: Decoder, mesh: DeviceMesh) -> None:
    _parallelize(
        decoder,
        mesh,
        embedding=VocabularyParallel(input_layouts=Replicate()),
    )
    if decoder.output is not None:
        _parallelize(decoder, mesh, output=ColwiseParallel())


def _parallelize(
    module: nn.Module, mesh: DeviceMesh, **styles: ParallelStyle
) -> None:
    # Every rank has drawn the same weights, so none is sent any.
    parallelize_module(module, mesh, styles, src_data_rank=None)


def _check_divides(block: AttentionBlock, ranks: int) -> None:
    sizes = {
        "num_heads": block.attention.heads[0],
        "num_kv_heads": block.attention.heads[1],
    }
    if isinstance(block.feed_forward, SwiGLU):
        sizes["hidden_dim"] = block.feed_forward.down.in_features
    for name, size in sizes.items():
        if size % ranks:
            raise ConfigError(
                f"layout.tensor={ranks} does not divide model.decoder.{name}={size}"
            )
    for module in block.modules():
        if isinstance(module, Float8Linear):
            width = module.out_features if module.fused else module.in_features
            if width % (ranks * MULTIPLE):
                raise ConfigError(
                    f"layout.tensor={ranks} leaves a rank {width // ranks} of {width}"
                    f" channels, and float8 needs multiples of {MULTIPLE}: set"
                    " float8=false"
                )
