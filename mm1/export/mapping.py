"""Between our tensors and a published family's: one list of links says it for both
directions.

    decoder.norm.weight            <->  model.norm.weight                           Link: the same tensor
    ...attention.qkv.weight        <->  q_proj.weight, k_proj.weight, v_proj.weight  Rows: laid below one another
    ...feed_forward.gate_up        <->  experts.0.w1.weight, experts.0.w3.weight ... Experts: rows, then stacked
    encoder.patchify.weight        <->  patch_embedding.weight                       Reshaped: same numbers

A family makes its links for one config, so every name is written out and whatever is
missing or left over is known before a number is read. `join` makes ours of theirs,
`split` theirs of ours; both must work on meta tensors, which is how shapes are checked
and files laid out beforehand. Another kind of link is a subclass with these two
methods; it may have several tensors on either side.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.export.weights import Layout, Weights

Shape = tuple[int, ...]
Read = Callable[[str], Tensor]


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
    """Ours is theirs laid below one another: q, k, v; gate and up."""

    sizes: tuple[int, ...]
    """Rows of each of theirs."""

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.cat(list(theirs))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return list(ours[0].split(self.sizes))


@dataclass(frozen=True, slots=True)
class Experts(Link):
    """Ours is one stack over experts; theirs are the `sizes` rows of expert 0, then
    those of expert 1 ..."""

    sizes: tuple[int, ...]

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        num = len(self.sizes)
        return [
            torch.stack(
                [
                    torch.cat(list(theirs[i : i + num]))
                    for i in range(0, len(theirs), num)
                ]
            )
        ]

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
class Grown(Link):
    """Ours has rows for new tokens, each the mean of theirs: as likely as an average
    token, and near the others."""

    num_new: int

    def join(self, theirs: Sequence[Tensor]) -> list[Tensor]:
        mean = theirs[0].float().mean(0, keepdim=True).to(theirs[0].dtype)
        return [torch.cat((theirs[0], mean.expand(self.num_new, -1)))]

    def split(self, ours: Sequence[Tensor]) -> list[Tensor]:
        return [ours[0][: -self.num_new]]


def same(names: Mapping[str, str]) -> list[Link]:
    """Links of tensors that are equal, from our names to theirs."""
    return [Link((ours,), (theirs,)) for ours, theirs in names.items()]


def check(
    links: Sequence[Link],
    wanted: Mapping[str, Shape],
    weights: Weights,
    *,
    unused: str = r"(?!)",
) -> None:
    """Do the links, our model's tensors (`wanted`: name -> shape) and theirs
    (`weights`) fit together?

    Their tensors whose names match `unused` from the start to the end are left out.

    Raises:
        ConfigError: tensors of theirs are missing, left over or of another shape; all
            of them are named.
        RuntimeError: the links do not cover our tensors: a mistake of ours.
    """
    ours = [name for link in links for name in link.ours]
    if sorted(ours) != sorted(wanted):
        raise RuntimeError(
            f"links and model differ in {sorted(set(ours) ^ set(wanted))}"
        )
    expected = theirs_of(
        links,
        {name: torch.empty(shape, device="meta") for name, shape in wanted.items()},
    )
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
        if name in weights.names and weights.layout(name).shape != tuple(tensor.shape)
    ]
    if missing or extra or wrong:
        raise ConfigError(
            f"{weights.origin} does not fit its config: "
            + "; ".join(_faults(missing, extra, wrong))
        )


def _faults(missing: list[str], extra: list[str], wrong: list[str]) -> Iterator[str]:
    if missing:
        yield f"missing {_some(missing)} (is the download whole?)"
    if extra:
        yield (
            f"not known to this family {_some(extra)} (is it another kind of model, or"
            " an adapter?)"
        )
    if wrong:
        yield _some(wrong)


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (
        f" and {len(names) - most} more" if len(names) > most else ""
    )


def theirs_of(links: Sequence[Link], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of theirs, from all of ours: for meta tensors, or small models."""
    pairs = (
        zip(link.theirs, link.split([ours[name] for name in link.ours]), strict=True)
        for link in links
    )
    return {name: tensor for pair in pairs for name, tensor in pair}


def ours_layout(links: Sequence[Link], weights: Weights) -> dict[str, Layout]:
    """Types and shapes of what `joined` will give."""
    return {name: Layout.of(tensor) for name, tensor in _joined(links, weights.meta)}


def theirs_layout(links: Sequence[Link], weights: Weights) -> dict[str, Layout]:
    """Types and shapes of what `parted` will give."""
    return {name: Layout.of(tensor) for name, tensor in _parted(links, weights.meta)}


def joined(links: Sequence[Link], weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Ours, link by link: no more than one link's tensors are in memory."""
    return _joined(links, weights.tensor)


def parted(links: Sequence[Link], weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Theirs, link by link, from weights with our names."""
    return _parted(links, weights.tensor)


def _joined(links: Sequence[Link], read: Read) -> Iterator[tuple[str, Tensor]]:
    for link in links:
        yield from zip(
            link.ours, link.join([read(name) for name in link.theirs]), strict=True
        )


def _parted(links: Sequence[Link], read: Read) -> Iterator[tuple[str, Tensor]]:
    for link in links:
        yield from zip(
            link.theirs, link.split([read(name) for name in link.ours]), strict=True
        )
