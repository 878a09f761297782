"""The kernels that a step of MM1-3B stands on, each beside its floor.

    python benchmarks/kernels.py [--only product,encoder_attention] [--seconds 120]
    [--tiny] [--out note.md]

A floor is the larger of arithmetic at the rate of a large product and bytes at that of
a copy, both measured first. Everything runs in bf16 on random data, forward and
backward, and `first` is the very first call at a shape: what a plan or a compilation
costs.
`--tiny` runs the same on a CPU at toy sizes, to see that it runs.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Call = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """MM1-3B's: ViT-H/14 at 378 pixels, C-Abstractor, 2.9B decoder."""

    product: int = 8192
    copy: int = 1 << 30
    """Values of 4 bytes."""
    length: int = 4096
    dim: int = 3072
    heads: int = 24
    hidden: int = 8192
    encoder_dim: int = 1280
    encoder_heads: int = 16
    patches: int = 729
    images: int = 14
    """Of a sequence."""
    channels: int = 1024
    map_sides: tuple[int, ...] = (27, 12)
    patch_values: tuple[int, ...] = (588, 592)
    """Pixels of a patch; the second divides by 16."""


TINY = Sizes(
    product=64,
    copy=1 << 10,
    length=256,
    dim=64,
    heads=2,
    hidden=128,
    encoder_dim=80,
    encoder_heads=1,
    patches=25,
    images=1,
    channels=16,
    map_sides=(5, 3),
    patch_values=(48,),
)


class Bench:
    """Times calls, knows the floor, and writes lines as they come."""

    def __init__(self, *, tiny: bool, seconds: float, out: Path | None) -> None:
        self.began = time.perf_counter()
        self.seconds = seconds
        self.out = out
        self.cuda = torch.cuda.is_available() and not tiny
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.dtype = torch.bfloat16
        self.sizes = TINY if tiny else Sizes()
        self.product = float("nan")
        self.bandwidth = float("nan")

    def say(self, line: str) -> None:
        print(line, flush=True)
        if self.out:
            with self.out.open("a", encoding="utf-8") as note:
                note.write(line + "\n")

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.began

    def random(self, *shape: int, grad: bool = False) -> Tensor:
        x = torch.randn(*shape, device=self.device, dtype=self.dtype)
        return x.requires_grad_(grad)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def once(self, call: Call) -> float:
        """Milliseconds of one call by the host's clock."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return 1e3 * (time.perf_counter() - start)

    def milliseconds(self, call: Call, seconds: float = 0.2) -> float:
        """Of a call, by the device's clock over as many as fill `seconds`."""
        each = min(self.once(call), self.once(call))
        if not self.cuda:
            return each
        count = max(3, min(2000, int(1e3 * seconds / max(each, 1e-3))))
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        stop.record()
        self.wait()
        return start.elapsed_time(stop) / count

    def beside_floor(
        self, milliseconds: float, *, flops: float = 0.0, moved: float = 0.0
    ) -> str:
        """`1.23 ms, 456 TFLOP/s, 1.8 times its floor`."""
        floor = 1e3 * max(flops / self.product, moved / self.bandwidth)
        rate = (
            f"{flops / milliseconds / 1e9:.0f} TFLOP/s"
            if flops
            else f"{moved / milliseconds / 1e9:.2f} TB/s"
        )
        return (
            f"{milliseconds:.2f} ms, {rate}, {milliseconds / floor:.1f} times its"
            " floor"
        )


def both_ways(function: Callable[..., Tensor], *inputs: Tensor) -> Call:
    """A call that runs forward and backward."""
    gradient: list[Tensor] = []

    def call() -> object:
        output = function(*inputs)
        if not gradient:
            gradient.append(torch.randn_like(output))
        return torch.autograd.grad(output, inputs, gradient[0])

    return call


def product(bench: Bench) -> None:
    """The two rates that floors are made of: 2 s of one product, and a copy."""
    n = bench.sizes.product
    a = bench.random(n, n)
    b = bench.random(n, n)
    t = bench.milliseconds(lambda: a @ b, 2.0)
    bench.product = 2e3 * n**3 / t
    x = torch.randint(1 << 20, (bench.sizes.copy,), device=bench.device)
    x = x.to(torch.int32)
    y = torch.empty_like(x)
    t = bench.milliseconds(lambda: y.copy_(x))
    bench.bandwidth = 2e3 * x.nbytes / t
    bench.say(
        f"- product {n} x {n} x {n}: {bench.product / 1e12:.0f} TFLOP/s sustained;"
        f" copy: {bench.bandwidth / 1e12:.2f} TB/s read and written"
    )


def encoder_attention(bench: Bench) -> None:
    """Heads of 80 channels, by kernel; image counts that come anew cost `first`."""
    s = bench.sizes
    width = s.encoder_dim // s.encoder_heads

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q.transpose(1, 2)
        k = k.transpose(1, 2)
        v = v.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    backends = {"default": None}
    if bench.cuda:
        backends["cudnn"] = SDPBackend.CUDNN_ATTENTION
        backends["flash"] = SDPBackend.FLASH_ATTENTION
    for name, backend in backends.items():
        for images in (2 * s.images, 2 * s.images + 1, 3 * s.images):
            # Views of one tensor, as the linear map leaves them.
            shape = (images, s.patches, 3 * s.encoder_heads, width)
            qkv = bench.random(*shape, grad=True)
            call = both_ways(lambda x: attention(*x.chunk(3, 2)), qkv)
            only = nullcontext() if backend is None else sdpa_kernel(backend)
            with only:
                first = bench.once(call)
                t = bench.milliseconds(call)
                forward = bench.milliseconds(
                    lambda x=qkv: attention(*x.detach().chunk(3, 2))
                )
            flops = 12 * images * s.patches**2 * s.encoder_dim
            bench.say(
                f"- {name}, {images} images: first {first:.0f} ms, then"
                f" {bench.beside_floor(t, flops=flops)}; forward alone"
                f" {forward:.2f} ms"
            )


def depthwise(bench: Bench) -> None:
    """3 x 3 over maps with channels last, forward and backward."""
    channels = bench.sizes.channels

    def as_is(x: Tensor, w: Tensor) -> Tensor:
        y = F.conv2d(x.permute(0, 3, 1, 2), w, padding=1, groups=channels)
        return y.permute(0, 2, 3, 1)

    def contiguous(x: Tensor, w: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2).contiguous()
        y = F.conv2d(x, w, padding=1, groups=channels)
        return y.permute(0, 2, 3, 1).contiguous()

    def native(x: Tensor, w: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=False):
            return as_is(x, w)

    def shifts(x: Tensor, w: Tensor) -> Tensor:
        h, wide = x.shape[1:3]
        padded = F.pad(x, (0, 0, 1, 1, 1, 1))
        y = torch.zeros_like(x)
        for i in range(3):
            for j in range(3):
                y = y + padded[:, i : i + h, j : j + wide] * w[:, 0, i, j]
        return y

    variants = {
        "channels last": as_is,
        "contiguous": contiguous,
        "cuDNN off": native,
        "shifts": shifts,
    }
    if bench.cuda:
        variants["shifts, compiled"] = torch.compile(shifts, dynamic=True)
    for name, function in variants.items():
        for side in bench.sizes.map_sides:
            images = 3 * bench.sizes.images
            x = bench.random(images, side, side, channels, grad=True)
            w = bench.random(channels, 1, 3, 3, grad=True)
            call = both_ways(function, x, w)
            first = bench.once(call)
            t = bench.milliseconds(call)
            # forward reads and writes a map; backward reads two and writes one
            moved = 5 * x.nbytes
            bench.say(
                f"- {name}, {images} maps of {side} x {side}: first {first:.0f} ms,"
                f" then {bench.beside_floor(t, moved=moved)}"
            )


def pooling(bench: Bench) -> None:
    """The C-Abstractor's average pooling, forward and backward: torch's, and as a
    product with a matrix of weights along each side, which is exact but for rounding
    in between."""
    side, pooled = bench.sizes.map_sides

    def adaptive(x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), pooled)
        return y.permute(0, 2, 3, 1)

    each = F.adaptive_avg_pool1d(torch.eye(side)[None], pooled)[0].T
    weights = each.to(bench.device, torch.bfloat16)

    def as_products(x: Tensor) -> Tensor:
        rows = torch.einsum("ph,nhwc->npwc", weights, x)
        return torch.einsum("qw,npwc->npqc", weights, rows)

    images = 3 * bench.sizes.images
    x = bench.random(images, side, side, bench.sizes.channels, grad=True)
    exact = adaptive(x.detach().double())
    for name, function in (("torch's", adaptive), ("products", as_products)):
        call = both_ways(function, x)
        first = bench.once(call)
        t = bench.milliseconds(call)
        error = (function(x).double() - exact).abs().max().item()
        moved = 2 * (x.nbytes + exact.numel() * x.element_size())
        bench.say(
            f"- {name}, {images} maps of {side} x {side}: first {first:.0f} ms, then"
            f" {bench.beside_floor(t, moved=moved)}; off by {error:.1e} at most"
        )


def products(bench: Bench) -> None:
    """TFLOP/s of the linear maps, for one to three sequences a micro-batch."""
    s = bench.sizes
    patches = s.images * s.patches
    maps = {
        "decoder qkv": (s.length, s.dim, 3 * s.dim),
        "decoder out": (s.length, s.dim, s.dim),
        "decoder gate_up": (s.length, s.dim, 2 * s.hidden),
        "decoder down": (s.length, s.hidden, s.dim),
        "encoder qkv": (patches, s.encoder_dim, 3 * s.encoder_dim),
        "encoder out": (patches, s.encoder_dim, s.encoder_dim),
        "encoder up": (patches, s.encoder_dim, 4 * s.encoder_dim),
        "encoder down": (patches, 4 * s.encoder_dim, s.encoder_dim),
    }
    maps |= {
        f"patches of {values}": (patches, values, s.encoder_dim)
        for values in s.patch_values
    }
    counts = (1, 2, 3) if bench.cuda else (1,)
    bench.say(
        f"- output / input gradient / weight gradient at {counts} sequences:"
    )
    for name, (rows, inner, outer) in maps.items():
        rates = []
        for count in counts:
            x = bench.random(count * rows, inner)
            w = bench.random(outer, inner)
            g = bench.random(count * rows, outer)
            calls = (
                lambda x=x, w=w: x @ w.T,
                lambda g=g, w=w: g @ w,
                lambda g=g, x=x: g.T @ x,
            )
            flops = 2 * count * rows * inner * outer
            each = [
                f"{flops / bench.milliseconds(call, 0.1) / 1e9:.0f}"
                for call in calls
            ]
            rates.append("/".join(each))
        bench.say(f"  - {name}, {inner} -> {outer}: {', '.join(rates)} TFLOP/s")


def decoder_attention(bench: Bench) -> None:
    """`varlen_attn` over documents of captions, pages and a few long texts."""
    s = bench.sizes
    lengths: list[int] = []
    generator = torch.Generator().manual_seed(0)
    while (left := 3 * s.length - sum(lengths)) > 0:
        long = len(lengths) % 4 == 0
        span = (s.length // 16, s.length) if long else (s.length // 24,) * 2
        length = int(
            torch.randint(span[0], span[1] + 1, (), generator=generator)
        )
        lengths.append(min(length, left))
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    if not bench.cuda:
        bench.say(f"- {len(lengths)} documents, {pairs} pairs: needs CUDA")
        return
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *lengths], device=bench.device).cumsum(0)
    ends = ends.to(torch.int32)
    width = s.dim // s.heads
    qkv = [
        bench.random(3 * s.length, s.heads, width, grad=True) for _ in range(3)
    ]

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return varlen_attn(  # type: ignore[return-value]
            q, k, v, ends, ends, s.length, s.length, window_size=(-1, 0)
        )

    call = both_ways(attention, *qkv)
    first = bench.once(call)
    t = bench.milliseconds(call)
    bench.say(
        f"- {len(lengths)} documents, {pairs} pairs: first {first:.0f} ms, then"
        f" {bench.beside_floor(t, flops=12 * pairs * s.dim)}"
    )


SECTIONS = {
    section.__name__: section
    for section in (
        product,
        encoder_attention,
        decoder_attention,
        depthwise,
        pooling,
        products,
    )
}
"""In order of worth; `product` always runs, since floors need it."""


def run(bench: Bench, names: Sequence[str]) -> None:
    for name, section in SECTIONS.items():
        if name != "product" and name not in names:
            continue
        bench.say(f"\n#### {name}\n")
        if bench.spent > bench.seconds:
            bench.say("Left out: no time.")
            continue
        try:
            section(bench)
        except (RuntimeError, ImportError, TypeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            bench.say(f"- failed: {type(error).__name__}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="start nothing after"
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bench = Bench(
        tiny=arguments.tiny, seconds=arguments.seconds, out=arguments.out
    )
    where = torch.cuda.get_device_name() if bench.cuda else "CPU"
    bench.say(
        f"{time.strftime('%Y-%m-%d')}, {where}, torch {torch.__version__}, cuDNN"
        f" {torch.backends.cudnn.version()}"
    )
    run(bench, arguments.only.split(","))


if __name__ == "__main__":
    main()
