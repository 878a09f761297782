import torch
from jaxtyping import Bool
from nn import masks
from torch import Tensor


def picture(of: Bool[Tensor, "L L"]) -> str:
    return " ".join(
        "".join("x" if seen else "." for seen in row) for row in of.tolist()
    )


def test_causal() -> None:
    assert picture(masks.causal_mask(4)) == "x... xx.. xxx. xxxx"


def test_document() -> None:
    assert (
        picture(masks.document_mask(torch.tensor([0, 2, 5])))
        == "xx... xx... ..xxx ..xxx ..xxx"
    )


def test_document_skips_empty_documents() -> None:
    assert (
        picture(masks.document_mask(torch.tensor([0, 1, 1, 3])))
        == "x.. .xx .xx"
    )


def test_prefix() -> None:
    assert picture(masks.prefix_mask(4, 2)) == "xx.. xx.. xxx. xxxx"
