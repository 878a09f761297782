"""Linear maps that multiply in float8 while training: twice the bf16 rate of a Hopper
GPU's tensor cores, with 2 or 3 bits of mantissa.

Each tensor is scaled dynamically, by one factor that puts its largest magnitude at the
end of float8's range (tensorwise scaling, Micikevicius et al. 2022, arXiv:2209.05433;
torchao and torchtitan call it so):

    y      = q(x) q(w)^T        q: e4m3, 3 bits of mantissa, up to 448
    grad x = r(g) q(w)          r: e5m2, 2 bits of mantissa, up to 57,344
    grad w = r(g)^T q(x)

Sums are fp32. Weights, their gradients and everything between two products keep their
types, so checkpoints are those of any other run.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float8e4m3fn, Float8e5m2
from torch import Tensor

from mm1.config import ConfigError
from mm1.nn.decoder import LanguageModel
from mm1.nn.experts import MoE
from mm1.nn.linear import Linear
from mm1.nn.model import Model

MULTIPLE = 16
"""The tensor cores' float8 products need widths that this divides."""

FORWARD = torch.float8_e4m3fn
BACKWARD = torch.float8_e5m2


class Scaled(NamedTuple):
    """A float8 matrix, and the factor that its values are to be multiplied by."""

    values: Float8e4m3fn[Tensor, "n k"] | Float8e5m2[Tensor, "n k"]
    scale: Float[Tensor, ""]

    def transpose(self) -> "Scaled":
        return Scaled(self.values.t(), self.scale)


def quantize(x: Float[Tensor, "n k"], dtype: torch.dtype) -> Scaled:
    """Rounds to float8 after scaling the largest magnitude to the end of its range.

    A tensor of zeros stays one. Infinities and NaN make all of it NaN, as they would
    after a product.
    """
    limit = torch.finfo(dtype).max
    largest = x.detach().abs().amax().float()
    scale = largest.clamp(min=torch.finfo(torch.float32).tiny * limit) / limit
    scaled = (x.float() / scale).clamp(-limit, limit)
    return Scaled(scaled.to(dtype), scale)


def scaled_product(
    a: Scaled, b: Scaled, out_dtype: torch.dtype, *, fast: bool
) -> Float[Tensor, "n m"]:
    """a @ b.T; `fast` adds up in the tensor cores' own precision, about 14 bits."""
    # the kernel takes rows of the first factor and columns of the second
    return torch._scaled_mm(
        a.values.contiguous(),
        b.values.contiguous().t(),
        scale_a=a.scale,
        scale_b=b.scale,
        out_dtype=out_dtype,
        use_fast_accum=fast,
    )


class _Float8Product(torch.autograd.Function):
    """x @ weight.T and its gradients, each one product of float8 matrices."""

    @staticmethod
    def forward(
        ctx, x: Float[Tensor, "T i"], weight: Float[Tensor, "o i"]
    ) -> Float[Tensor, "T o"]:
        x8 = quantize(x, FORWARD)
        # The input is kept in float8, the weight as it is: it is in memory anyway.
        ctx.save_for_backward(*x8, weight)
        return scaled_product(x8, quantize(weight, FORWARD), x.dtype, fast=True)

    @staticmethod
    def backward(
        ctx, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grad_outputs
        *parts, weight = ctx.saved_tensors
        x8 = Scaled(*parts)
        g8 = quantize(grad, BACKWARD)
        grad_x = None
        grad_w = None
        if ctx.needs_input_grad[0]:
            w8 = quantize(weight, FORWARD)
            grad_x = scaled_product(g8, w8.transpose(), grad.dtype, fast=False)
        if ctx.needs_input_grad[1]:
            grad_w = scaled_product(
                _whole(g8).transpose(),
                _whole(x8).transpose(),
                grad.dtype,
                fast=False,
            )
        return grad_x, grad_w


def _whole(x: Scaled) -> Scaled:
    """With zero rows up to a multiple of 16: rows are what the weight's gradient sums
    over."""
    missing = -len(x.values) % MULTIPLE
    if not missing:
        return x
    # torch pads no float8, but zero is a zero byte
    padded = F.pad(x.values.view(torch.uint8), (0, 0, 0, missing))
    return Scaled(padded.view(x.values.dtype), x.scale)


class Float8Linear(Linear):
    """Products in float8 in training mode; otherwise those of `Linear`, so that
    validation and answers are the same as with the saved weights."""

    @classmethod
    def of(cls, linear: Linear) -> "Float8Linear":
        """The same map with the same parameters."""
        with torch.device("meta"):
            new = cls(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                gain=linear.gain,
                fused=linear.fused,
            )
        new.weight = linear.weight
        new.bias = linear.bias
        return new

    def forward(
        self,
        input: Float[Tensor, "*batch i"],  # noqa: A002 (nn.Linear's name)
    ) -> Float[Tensor, "*batch o"]:
        if not self.training:
            return super().forward(input)
        y = _Float8Product.apply(input.flatten(0, -2), self.weight)
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, input.shape[:-1])


def use_float8(model: Model, device: torch.device) -> int:
    """Replaces the linear maps of the decoder's blocks by float8 ones, in place;
    returns how many.

    Left as they are: widths that 16 does not divide, and mixtures of experts with their
    routers. Embeddings and the output map are outside the blocks.

    Raises:
        ConfigError: there is no decoder or no such map in it, or the GPU has no float8
            products (before Ada and Hopper).
    """
    if not isinstance(model, LanguageModel):
        raise ConfigError(
            f"float8 is for decoders, and {type(model).__name__} has none"
        )
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (
        8,
        9,
    ):
        raise ConfigError(
            f"{torch.cuda.get_device_name(device)} multiplies no float8 numbers: set"
            " float8=false"
        )
    fitting = [
        (parent, name, child)
        for parent in model.decoder.blocks.modules()
        for name, child in parent.named_children()
        if type(child) is Linear
        and not isinstance(parent, MoE)
        and child.in_features % MULTIPLE == 0
        and child.out_features % MULTIPLE == 0
    ]
    if not fitting:
        raise ConfigError(
            f"float8 needs widths that {MULTIPLE} divides, and no linear map of the"
            " decoder has two"
        )
    for parent, name, child in fitting:
        setattr(parent, name, Float8Linear.of(child))
    return len(fitting)
