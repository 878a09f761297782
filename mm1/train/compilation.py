"""Units compiled by `torch.compile`, with few graphs, and whether it happened."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mm1 import dist
from mm1.config import UserError
from mm1.nn.experts import methods_of_unit

GRAPHS_PER_KIND = 16
"""The compiler gives up a function at this many graphs, and all units share one."""


class NotCompilable(UserError):
    """`compile=true`, and the compiler cannot take a unit as a whole."""


class CompiledUnits:
    """Compiles the units' `forward` for training; outside of training they run
    uncompiled, since prompts come in too many shapes.

    Of a block whose experts are on other ranks, attention alone is compiled: what comes
    from those ranks has a size that the host must wait for.

    Units of one kind share their graphs. There are at most two of each: the first for
    the shapes of the first micro-batch, the second for any number of images or
    documents.
    """

    def __init__(
        self,
        units: Sequence[nn.Module],
        *,
        backend: str | Callable[..., Any],
        fullgraph: bool,
    ) -> None:
        """With `fullgraph`, a unit that is not compiled as a whole is an error. It is
        meant for CUDA in half precision; elsewhere some operations have no compiled
        form (see `warn_once`)."""
        # Imported here because it imports the compiler, which takes seconds.
        import torch._dynamo

        self.graphs: Counter[str] = Counter()
        """Kind of unit -> graphs compiled so far."""
        self.backend = torch._dynamo.lookup_backend(backend)
        self.fullgraph = fullgraph
        self.checked: bool = False
        self.kinds: dict[str, Callable[..., Any]] = {}
        for unit in units:
            kind = _kind(unit)
            if kind not in self.kinds:
                self.kinds[kind] = self._counting_backend(kind)
            setattr(
                *methods_of_unit(unit)[0],
                self._compiled(unit, self.kinds[kind]),
            )
        limit = GRAPHS_PER_KIND * len(self.kinds)
        torch._dynamo.config.recompile_limit = limit
        torch._dynamo.config.accumulated_recompile_limit = 4 * limit

    def _counting_backend(self, kind: str) -> Callable[..., Any]:
        def count_and_compile(graph: Any, inputs: Any, **options: Any) -> Any:
            self.graphs[kind] += 1
            return self.backend(graph, inputs, **options)

        return count_and_compile

    def _compiled(
        self, unit: nn.Module, backend: Callable[..., Any]
    ) -> Callable[..., Any]:
        from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported

        uncompiled = getattr(*methods_of_unit(unit)[0])
        compiled = torch.compile(
            uncompiled, backend=backend, fullgraph=self.fullgraph
        )
        refusals = (Unsupported, FailOnRecompileLimitHit)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not unit.training:
                return uncompiled(*args, **kwargs)
            try:
                return compiled(*args, **kwargs)
            except refusals as error:
                raise NotCompilable(
                    f"compile=true: {_kind(unit)} cannot be compiled"
                    f" ({_first_line(error)}); set compile=false"
                ) from error

        return forward

    def keep_to_budget(self, share: float) -> None:
        """Activations that are kept take at most this share of all."""
        import torch._functorch.config

        torch._functorch.config.activation_memory_budget = share

    def warn_once(self) -> None:
        """Says which kinds of units have not been compiled; call it after a step, in
        which they all ran."""
        if self.checked:
            return
        self.checked = True
        missing = [kind for kind in self.kinds if not self.graphs[kind]]
        if missing:
            reasons = torch._dynamo.utils.counters["graph_break"]
            reason = _first_line(
                next(iter(reasons), "the compiler says no more")
            )
            dist.say(
                f"compile=true, but not compiled: {', '.join(missing)} ({reason})"
            )


def _kind(unit: nn.Module) -> str:
    """Its class and what tells one of its kind from another."""
    name = type(unit).__name__.removeprefix("FSDP")
    first = next(iter(unit.parameters()), None)
    return name if first is None else f"{name} of width {first.shape[-1]}"


def _first_line(words: object) -> str:
    return next(iter(str(words).splitlines()), "")
