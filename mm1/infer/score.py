"""How likely a model holds documents to be."""

import torch
from jaxtyping import Float
from torch import Tensor

from mm1.batch import PackedBatch
from mm1.nn.decoder import LanguageModel


@torch.no_grad()
def log_likelihood(model: LanguageModel, batch: PackedBatch) -> Float[Tensor, " S"]:
    """The log-likelihood of each packed document's targets, in nats; 0 for a document without any.

    All ranks must call this together.
    """
    log_probs = model.log_probs(batch)
    lengths = batch.boundaries.diff()
    documents = torch.repeat_interleave(lengths, output_size=len(log_probs))
    return log_probs.new_zeros(len(lengths)).index_add(0, documents, log_probs)
