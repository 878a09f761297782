"""How likely a model holds documents to be."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mm1.batch import PackedBatch
from mm1.nn.decoder import LanguageModel


@torch.no_grad()
def score(
    model: LanguageModel, batch: PackedBatch
) -> tuple[Float[Tensor, " S"], Bool[Tensor, " S"]]:
    """The log-likelihood of each packed document's targets, in nats, and is each of
    them the most likely token?

    0 and true for a document without any. All ranks must call this together.
    """
    log_probs, hits = model.log_probs(batch)
    lengths = batch.cu_seqlens.diff()
    documents = torch.repeat_interleave(lengths, output_size=len(log_probs))
    zeros = log_probs.new_zeros(len(lengths))
    misses = zeros.index_add(0, documents, (~hits).to(zeros.dtype))
    return zeros.index_add(0, documents, log_probs), misses == 0
