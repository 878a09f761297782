"""Two layers at the width of the real models: sums a hundred times as long as the tiny
ones', and real head widths."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity.encoders import normed, pictures
from published import TEXTS, write_tokenizer
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from mm1.data.document import Document, Text
from mm1.export.import_model import import_model
from mm1.loader.collate import RenderedSegment, collate
from mm1.nn.attention import PackedAttention
from mm1.runs.weights import load_model

pytestmark = pytest.mark.long


def randomised(model: Any) -> Any:
    """Norms and biases away from where they start; maps that keep the size of what goes
    through them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(std=0.2).add_(
                    float("norm" in name and name.endswith("weight"))
                )
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.eval()


@torch.no_grad()
def test_vit_h_14_at_378(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 2,
        "num_attention_heads": 16,
    }
    theirs = randomised(
        CLIPVisionModel(
            CLIPVisionConfig(**shape, image_size=378, patch_size=14)
        )
    )
    theirs.save_pretrained(tmp_path / "published")
    import_model(str(tmp_path / "published"), tmp_path / "run")
    model: Any = load_model(tmp_path / "run", torch.device("cpu"))[0]
    images = pictures(378, 378)[:1]
    expected = theirs.post_layernorm(
        theirs(normed(images, model.encoder)).last_hidden_state
    )
    # Features of unit size, fp32, sums of up to 5120 products in another order;
    # measured 5.7e-6.
    torch.testing.assert_close(
        model.encoder.tokens(images), expected, atol=3e-5, rtol=0
    )


@torch.no_grad()
def test_a_decoder_3072_wide(tmp_path: Path) -> None:
    shape = {
        "hidden_size": 3072,
        "intermediate_size": 4096,
        "num_hidden_layers": 2,
    }
    heads = {"num_attention_heads": 24, "num_key_value_heads": 8}
    rows = write_tokenizer(tmp_path / "published")
    theirs = randomised(
        LlamaForCausalLM(
            LlamaConfig(**shape, **heads, vocab_size=rows, eos_token_id=1)
        )
    )
    theirs.save_pretrained(tmp_path / "published")
    import_model(str(tmp_path / "published"), tmp_path / "run")
    model, renderer, _ = load_model(tmp_path / "run", torch.device("cpu"))
    ours: Any = model
    sequence = renderer(Document((Text(" ".join(TEXTS) * 3),)), end=False)
    batch = collate([[RenderedSegment.whole(sequence)]], renderer)
    hidden = ours.decoder(
        ours.inputs(batch),
        batch.positions,
        PackedAttention(batch.cu_seqlens, batch.max_seqlen),
    )
    logits = (hidden @ ours.decoder.head.T)[
        :, :rows
    ]  # the import has added tokens
    expected = theirs(
        input_ids=torch.as_tensor(sequence.tokens)[None].long()
    ).logits[0]
    # Logits of unit size, fp32, sums of up to 4096 products in another order; measured
    # 4.5e-6 (with 8192).
    torch.testing.assert_close(logits, expected, atol=3e-5, rtol=0)
