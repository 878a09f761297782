"""What a plan must know of a GPU and its links: small files in `gpus/`, or one of your
own with the same keys."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from mm1.config import ConfigError
from mm1.files import read_object
from mm1.plan.roofline import Rates

GPUS = Path(__file__).parent / "gpus"
BANDWIDTH_SHARE = 0.9
"""Of a data sheet's memory bandwidth that a copy reaches."""
LINK_SHARE = 0.8
"""Of a link's rate that NCCL's large collectives reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One GPU, and what connects it to others."""

    name: str
    memory_gib: float
    """That torch can use."""
    peak_flops: float
    """FLOP/s of dense products in the precision of the computation."""
    memory_bandwidth: float
    """Bytes/s."""
    gpu_link: float
    """Bytes/s that it sends, while it receives as many, within a node."""
    node_link: float
    """Bytes/s that its network card sends, while it receives as many, to other
    nodes."""
    source: str
    """Where the figures are from."""
    product_share: float = 0.70
    """Of the peak that the decoder's products sustain."""
    reserved_gib: float = 5.0
    """For CUDA, NCCL and fragments."""
    device: str = "cuda"
    """As torch calls it; `cpu` has no such file: it is measured (`mm1.plan.here`)."""

    def rates(self) -> Rates:
        """What its kernels sustain: the shares of the peak that an H200 is taken to
        reach, unless `product_share` says otherwise."""
        h200 = Rates()
        scale = self.product_share * self.peak_flops / h200.decoder_products

        def attention(rates: tuple[float, float]) -> tuple[float, float]:
            return rates[0] * scale, rates[1] * scale

        return Rates(
            decoder_products=h200.decoder_products * scale,
            encoder_products=h200.encoder_products * scale,
            connector_products=h200.connector_products * scale,
            decoder_attention=attention(h200.decoder_attention),
            encoder_attention=attention(h200.encoder_attention),
            bandwidth=BANDWIDTH_SHARE * self.memory_bandwidth,
        )


def accelerator(name: str) -> Accelerator:
    """A GPU of `gpus/` by name, or one that a JSON file describes.

    Raises:
        ConfigError: there is neither, or the file lacks or adds a key.
    """
    known = sorted(path.stem for path in GPUS.glob("*.json"))
    path = GPUS / f"{name}.json" if name in known else Path(name)
    example = GPUS / f"{known[0]}.json"
    if not path.is_file():
        raise ConfigError(
            f"--gpu {name} is neither a file that describes a GPU, as {example} does,"
            f" nor one of {', '.join(known)}"
        )
    values = read_object(path, f"write it as {example} is")
    fields = dataclasses.fields(Accelerator)
    needed = {f.name for f in fields if f.default is dataclasses.MISSING}
    missing = sorted(needed - values.keys())
    extra = sorted(values.keys() - {f.name for f in fields})
    texts = {"name", "source", "device"}
    wrong = [
        key
        for key, value in values.items()
        if isinstance(value, str) != (key in texts)
        or (key not in texts and not _positive(value))
    ]
    if missing or extra or wrong:
        raise ConfigError(
            f"{path} does not describe a GPU: missing {missing}, not known {extra}, not"
            f" a positive number or not a text {wrong}"
        )
    return Accelerator(**values)


def _positive(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value < float("inf")
    )
