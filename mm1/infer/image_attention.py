"""How much of the attention of an answer's tokens goes to image tokens.

A mean over layers and heads: it shows where the model looked, and explains nothing
(Jain and Wallace 2019, arXiv:1902.10186).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mm1.data.document import Document
from mm1.infer.predictor import Predictor, continued
from mm1.nn.attention import AttentionContext


class RecordedAttention(AttentionContext):
    """One causal document; adds up the attention of its last tokens."""

    def __init__(self, num_tokens: int, num_recorded: int) -> None:
        self.num_recorded = num_recorded
        self.total: Float[Tensor, "recorded T"] = torch.zeros(
            num_recorded, num_tokens
        )
        self.num_added = 0

    def attend(
        self,
        q: Float[Tensor, "T heads d"],
        k: Float[Tensor, "T kv_heads d"],
        v: Float[Tensor, "T kv_heads d"],
    ) -> Float[Tensor, "T heads d"]:
        share = q.shape[1] // k.shape[1]
        length = len(q)
        seen = torch.ones(
            length, length, dtype=torch.bool, device=q.device
        ).tril()
        mixed = []
        # head by head: all scores at once would be large
        for head in range(q.shape[1]):
            keys = k[:, head // share].float()
            scores = q[:, head].float() @ keys.T * q.shape[-1] ** -0.5
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            self.total += weights[-self.num_recorded :].cpu()
            self.num_added += 1
            mixed.append(weights @ v[:, head // share].float())
        return torch.stack(mixed, 1).to(q.dtype)


@torch.no_grad()
def image_attention(
    predictor: Predictor, document: Document, said: Sequence[int]
) -> Float[Tensor, "said image_tokens"]:
    """For each token of an answer the attention, from the position that chose it, to
    each of the prompt's image tokens in order; a row sums to at most 1.

    Raises:
        ValueError: there is no token of an answer.
    """
    if not said:
        raise ValueError("there is no answer")
    prompt = predictor.renderer(document, end=False)
    batch = predictor._collate([continued(prompt, said[:-1])], [0])
    context = RecordedAttention(len(batch.tokens), len(said))
    predictor.model.decoder(
        predictor.model.inputs(batch), batch.positions, context
    )
    mean = context.total / context.num_added
    return mean[:, batch.slots.flatten().cpu()]
