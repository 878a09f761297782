"""Our tensors and a published family's: one list of links serves both directions.

    decoder.norm.weight       <->  model.norm.weight
        Link: the same tensor
    ...attention.qkv.weight   <->  q_proj.weight, k_proj.weight, v_proj.weight
        Rows: concatenated along the first axis
    ...feed_forward.gate_up   <->  experts.0.w1.weight, experts.0.w3.weight ...
        StackedExperts: rows, then stacked
    encoder.patchify.weight   <->  patch_embedding.weight
        Reshaped: the same numbers in the same order

A family makes its links for one config, so every name is written out, and whatever is
missing or left over is known before a number is read. `join` makes our tensors from
theirs, `split` theirs from ours. Both must work on meta tensors: that is how shapes are
checked and files are laid out beforehand. Another kind of link is a subclass with these
two methods; it may have several tensors on either side.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.weight_files import Layout, WeightFiles

Shape = tuple[int, ...]
Read = Callable[[str], Tensor]

NOTHING = r"(?!)"
"""A regular expression that matches no name."""


@dataclass(frozen=True, slots=True)
class Link:
    """Tensors of ours and of theirs that hold the same numbers; here one of each,
    equal."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return list(theirs)

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return list(ours)


@dataclass(frozen=True, slots=True)
class Rows(Link):
    """Ours is theirs, concatenated: q, k, v; gate and up."""

    sizes: tuple[int, ...]
    """Rows of each of theirs."""

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(theirs))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return list(ours[0].split(self.sizes))


@dataclass(frozen=True, slots=True)
class StackedExperts(Link):
    """Ours is one stack over experts; theirs are the tensors of expert 0, of `sizes`
    rows, then those of expert 1 ..."""

    sizes: tuple[int, ...]

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        num_experts = len(theirs) // len(self.sizes)
        # In one step: large stacks are in memory once.
        return [torch.cat(list(theirs)).unflatten(0, (num_experts, -1))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [part for expert in ours[0] for part in expert.split(self.sizes)]


@dataclass(frozen=True, slots=True)
class Reshaped(Link):
    """The same numbers in the same order."""

    our_shape: Shape
    their_shape: Shape

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [theirs[0].reshape(self.our_shape)]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0].reshape(self.their_shape)]


@dataclass(frozen=True, slots=True)
class MeanRows(Link):
    """Ours has rows for new tokens, each the mean of theirs: as likely as an average
    token, and close to the others."""

    num_new: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        mean = theirs[0].float().mean(0, keepdim=True).to(theirs[0].dtype)
        return [torch.cat((theirs[0], mean.expand(self.num_new, -1)))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0][: -self.num_new]]


def same(names: Mapping[str, str]) -> list[Link]:
    """Links of tensors that are equal, from our names to theirs."""
    return [Link((ours,), (theirs,)) for ours, theirs in names.items()]


def check_import(
    links: Sequence[Link],
    model: nn.Module,
    weights: WeightFiles,
    *,
    unused: str = NOTHING,
) -> None:
    """Checks that links, our `model` and their `weights` fit together.

    Their tensors whose whole names match `unused` are left out.

    Raises:
        ConfigError: tensors of theirs are missing, left over or of another shape; all
            of them are named.
        RuntimeError: links and model do not have the same tensors, which is our
            mistake.
    """
    ours = _linked(links, model)
    missing, extra, wrong = _differences(
        theirs_of(links, ours), weights, unused
    )
    faults = []
    if missing:
        faults.append(f"missing {_some(missing)} (is the download complete?)")
    if extra:
        faults.append(
            f"not known to this family {_some(extra)} (is it another kind of model, or"
            " an adapter?)"
        )
    if wrong:
        faults.append(_some(wrong))
    if faults:
        raise ConfigError(
            f"{weights.origin} does not fit its config: {'; '.join(faults)}"
        )


def check_export(
    links: Sequence[Link],
    model: nn.Module,
    weights: WeightFiles,
    *,
    unused: str = NOTHING,
) -> None:
    """Checks that every tensor of our `model` and of a run's `weights` is written.

    The run's tensors whose whole names match `unused` are left out.

    Raises:
        ConfigError: the run's weights do not fit its config.
        RuntimeError: the links leave out tensors of the model, which is our mistake.
    """
    ours = _linked(links, model)
    missing, extra, wrong = _differences(ours, weights, unused)
    if missing or extra or wrong:
        raise ConfigError(
            f"{weights.origin} does not fit the run's config: missing"
            f" {_some(missing)}; left over {_some(extra)}; misshapen {_some(wrong)}"
        )


def _linked(links: Sequence[Link], model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by name, each of which must be in exactly one link."""
    ours = model.state_dict()
    linked = [name for link in links for name in link.ours]
    if sorted(linked) != sorted(ours):
        differ = _some(sorted(set(linked) ^ set(ours)) or sorted(linked))
        raise RuntimeError(
            f"the links of this format and {type(model).__name__} differ in {differ}:"
            " every tensor of the model needs one link (see mm1/export/mapping.py)"
        )
    return {
        name: torch.empty(tensor.shape, device="meta")
        for name, tensor in ours.items()
    }


def _differences(
    expected: Mapping[str, Tensor], weights: WeightFiles, unused: str
) -> tuple[list[str], list[str], list[str]]:
    """Names of missing and of left-over tensors, and what is wrong about shapes."""
    missing = sorted(expected.keys() - weights.names)
    extra = sorted(
        name
        for name in weights.names - expected.keys()
        if not re.fullmatch(unused, name)
    )
    wrong = [
        f"{name} is {list(weights.layout(name).shape)}, the config asks for"
        f" {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights.names
        and weights.layout(name).shape != tuple(tensor.shape)
    ]
    return missing, extra, wrong


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def theirs_of(
    links: Sequence[Link], ours: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All of theirs from all of ours: for meta tensors, or small models."""
    theirs = {}
    for link in links:
        tensors = link.split([ours[name] for name in link.ours])
        theirs.update(zip(link.theirs, tensors, strict=True))
    return theirs


def ours_layout(
    links: Sequence[Link], weights: WeightFiles
) -> dict[str, Layout]:
    """Types and shapes of what `joined` will give."""
    return {
        name: Layout.of(tensor) for name, tensor in _joined(links, weights.meta)
    }


def theirs_layout(
    links: Sequence[Link], weights: WeightFiles
) -> dict[str, Layout]:
    """Types and shapes of what `parted` will give."""
    return {
        name: Layout.of(tensor) for name, tensor in _parted(links, weights.meta)
    }


def joined(
    links: Sequence[Link], weights: WeightFiles
) -> Iterator[tuple[str, Tensor]]:
    """Ours from their `weights`; only one link's tensors are in memory at a time."""
    return _joined(links, weights.tensor)


def parted(
    links: Sequence[Link], weights: WeightFiles
) -> Iterator[tuple[str, Tensor]]:
    """Theirs from our `weights`; only one link's tensors are in memory at a time."""
    return _parted(links, weights.tensor)


def _joined(links: Sequence[Link], read: Read) -> Iterator[tuple[str, Tensor]]:
    for link in links:
        ours = link.join([read(name) for name in link.theirs])
        yield from zip(link.ours, ours, strict=True)


def _parted(links: Sequence[Link], read: Read) -> Iterator[tuple[str, Tensor]]:
    for link in links:
        theirs = link.split([read(name) for name in link.ours])
        yield from zip(link.theirs, theirs, strict=True)
