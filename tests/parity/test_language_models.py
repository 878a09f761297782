"""Every family of language models, tiny and random: imported, exported and imported
again, against transformers' own classes."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from published import FAMILIES, TEXTS, write_model
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import AutoTokenizer

from mm1.data.document import Document, Text
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.infer.predictor import Predictor
from mm1.loader.collate import RenderedSegment, collate
from mm1.nn.attention import PackedAttention
from mm1.runs.weights import load_model

LOGITS = 1e-4
"""In standard deviations of the logits, fp32: three blocks whose products are summed in
another order. Measured at most 3e-5 (llama; the other families 2e-6 to 2e-5)."""

CPU = torch.device("cpu")


def logits(run: Path, texts: list[str]) -> list[torch.Tensor]:
    """Of each text, as packed documents of one row."""
    model, renderer, _ = load_model(run, CPU)
    sequences = [renderer(Document((Text(text),)), end=False) for text in texts]
    batch = collate([[RenderedSegment.whole(s) for s in sequences]], renderer)
    hidden = model.decoder(
        model.inputs(batch),
        batch.positions,
        PackedAttention(batch.cu_seqlens, batch.max_seqlen),
    )  # type: ignore[attr-defined]
    return list(
        (hidden @ model.decoder.head.T).split(
            [len(s.tokens) for s in sequences]
        )
    )  # type: ignore[attr-defined]


@torch.no_grad()
def assert_same_logits(run: Path, theirs: Any, tokenizer: Any) -> None:
    """Only of the tokens that both have: an import may have added some."""
    rows = theirs.get_input_embeddings().num_embeddings
    for text, ours in zip(TEXTS, logits(run, TEXTS), strict=True):
        ids = tokenizer(text, split_special_tokens=True, return_tensors="pt")[
            "input_ids"
        ]
        expected = theirs(input_ids=ids).logits[0]
        assert expected.std() > 1
        torch.testing.assert_close(
            ours[:, :rows],
            expected,
            atol=LOGITS * expected.std().item(),
            rtol=0,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_in_and_out_and_in_again(family: str, tmp_path: Path) -> None:
    original = write_model(
        tmp_path / "published", family, begin="llama" in family
    )
    import_model(str(tmp_path / "published"), tmp_path / "run")
    assert_same_logits(
        tmp_path / "run",
        original,
        AutoTokenizer.from_pretrained(tmp_path / "published"),
    )

    export_run(tmp_path / "run", tmp_path / "exported")
    opened, loading = AutoModelForCausalLM.from_pretrained(
        tmp_path / "exported", output_loading_info=True
    )
    assert type(opened) is type(original)
    assert not any(
        loading.values()
    )  # nothing missing, left over or of another shape
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert_same_logits(tmp_path / "run", opened.eval(), tokenizer)
    assert greedy_texts(opened, tokenizer) == our_greedy_texts(tmp_path / "run")

    import_model(str(tmp_path / "exported"), tmp_path / "again")
    for name in (
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "special_tokens.json",
    ):
        assert (tmp_path / "again" / name).read_bytes() == (
            tmp_path / "run" / name
        ).read_bytes()


def greedy_texts(model: Any, tokenizer: Any) -> list[str]:
    found = []
    for text in TEXTS:
        ids = tokenizer(
            text,
            split_special_tokens=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        length = ids["input_ids"].shape[1]
        said = model.generate(**ids, max_new_tokens=12)[0, length:]
        found.append(tokenizer.decode(said, skip_special_tokens=True))
    assert len(set(found)) == len(TEXTS)
    return found


def our_greedy_texts(run: Path) -> list[str]:
    model, renderer, _ = load_model(run, CPU)
    return Predictor(model, renderer, CPU).generate(
        [Document((Text(text),)) for text in TEXTS], max_tokens=12
    )


@pytest.mark.long
def test_two_blocks_at_the_width_of_3b() -> None:
    """Measured at most 9e-6."""
    shape = {
        "hidden_size": 3072,
        "num_hidden_layers": 2,
        "num_attention_heads": 24,
        "intermediate_size": 8192,
    }
    with TemporaryDirectory() as name:  # 2 GB, which pytest would keep
        folder = Path(name)
        original = write_model(
            folder / "published",
            "qwen3",
            **shape,
            num_key_value_heads=8,
            head_dim=128,
        )
        import_model(str(folder / "published"), folder / "run")
        assert_same_logits(
            folder / "run",
            original,
            AutoTokenizer.from_pretrained(folder / "published"),
        )
