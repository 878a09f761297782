"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685), by peft: fine-tuning with
little memory.

For each chosen linear layer only the product of two thin matrices is trained, and
merged into its weights at the end, so a finished run is a plain model again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from mm1.config import ConfigError, Configurable, nearest
from mm1.extras import needs_extra
from mm1.nn.linear import Linear
from mm1.nn.model import Model
from mm1.nn.shards import fused_widths, in_whole_order, tensor_ranks
from mm1.ranges import PositiveFloat, PositiveInt
from mm1.runs.weights_writer import LazyTensor

FIRST = ".lora_A.default.weight"
SECOND = ".lora_B.default.weight"
BASE = ".base_layer"


class Lora(Configurable):
    """Which linear layers have adapters, and of what rank."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        rank: PositiveInt = 16
        alpha: PositiveFloat = 32.0
        """The adapters' output is multiplied by alpha / rank."""
        parts: tuple[str, ...] = ("decoder",)
        """Parts whose weights are frozen and have adapters instead; the others are
        trained as usual."""
        targets: tuple[str, ...] = ("qkv", "out", "gate_up", "down")
        """Linear layers by the last part of their names; here all those of a
        decoder's dense blocks."""

        def build(self) -> "Lora":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config

    def inject(self, model: Model) -> None:
        """Freezes the parts and gives them adapters.

        Raises:
            ConfigError: peft is missing, or there is no such part or no such layer in
                it.
        """
        with needs_extra("lora", "lora"):
            from peft import LoraConfig, inject_adapter_in_model  # type: ignore[import-not-found]
        c = self.config
        parts = model.parts()
        for name in c.parts:
            if name not in parts:
                raise ConfigError(
                    f"lora.parts names the part {name!r}{nearest(name, parts)}"
                )
            own = {
                path.rpartition(".")[2]
                for path, _ in parts[name].named_modules()
            }
            if missing := [target for target in c.targets if target not in own]:
                raise ConfigError(
                    f"lora.targets names {missing[0]!r}, which {name}"
                    f" lacks{nearest(missing[0], own)}"
                )
            parts[name].requires_grad_(False)
            inject_adapter_in_model(
                LoraConfig(
                    r=c.rank, lora_alpha=c.alpha, target_modules=list(c.targets)
                ),  # type: ignore[arg-type]
                parts[name],
            )
        for layer in model.modules():
            seconds: Any = getattr(layer, "lora_B", {})
            for name, second in seconds.items():
                # peft's own start, also where weights are drawn after the injection:
                # the first matrix is drawn as torch's layers are, the second is zero.
                with second.weight.device:
                    seconds[name] = Linear(
                        second.in_features, second.out_features, gain=0.0
                    )

    @staticmethod
    def plain_name(name: str) -> str | None:
        """What a parameter is called in a model without adapters; None for adapters."""
        if ".lora_" in name:
            return None
        return name.replace(BASE, "")

    def merge(self, weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """A layer's weights with its adapter's two matrices added to them."""
        return weight + self.config.alpha / self.config.rank * (second @ first)


def plain_state(model: Model, lora: Lora | None) -> dict[str, LazyTensor]:
    """The state dict of a plain model, sharded as the model is; adapters are merged
    into the weights one tensor at a time, as they are written."""
    state: dict[str, Any] = get_model_state_dict(model)
    fused = fused_widths(model)
    plain = {
        name.replace(BASE, ""): _lazy(tensor, fused.get(name, ()))
        for name, tensor in state.items()
        if lora is None or not name.endswith((FIRST, SECOND))
    }
    if lora is not None:
        for name in state:
            if name.endswith(FIRST):
                path = name.removesuffix(FIRST)
                layout, parts, _ = plain[f"{path}.weight"]
                plain[f"{path}.weight"] = LazyTensor(
                    layout,
                    (*parts, state[name], state[path + SECOND]),
                    lora.merge,
                )
    return plain


def _lazy(tensor: Tensor, widths: Sequence[int]) -> LazyTensor:
    """`widths` are those of a fused map, whose rows are put into the order that they
    have on one rank."""
    ranks = tensor_ranks(tensor)
    if ranks == 1 or not widths:
        return LazyTensor.of(tensor)
    join = partial(in_whole_order, widths=widths, ranks=ranks)
    return LazyTensor.of(tensor)._replace(join=join)
