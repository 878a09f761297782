import torch
from jaxtyping import Bool
from torch import Tensor

from mm1.nn import mask


def picture(of: Bool[Tensor, "L L"]) -> str:
    return " ".join(
        "".join("x" if seen else "." for seen in row) for row in of.tolist()
    )


def test_causal() -> None:
    assert picture(mask.causal(4)) == "x... xx.. xxx. xxxx"


def test_document() -> None:
    assert (
        picture(mask.document(torch.tensor([0, 2, 5])))
        == "xx... xx... ..xxx ..xxx ..xxx"
    )


def test_document_skips_empty_documents() -> None:
    assert picture(mask.document(torch.tensor([0, 1, 1, 3]))) == "x.. .xx .xx"


def test_prefix() -> None:
    assert picture(mask.prefix(4, 2)) == "xx.. xx.. xxx. xxxx"
