"""A plan and a measurement side by side, as text, numbers and for the page."""

from typing import Any

from mm1 import dist
from mm1.plan.here import Measurement
from mm1.plan.plan import GIB

HEAD = ("", "planned", "measured", "measured / planned")
TIMED = "a step, by units timed one by one"
BY_FILE = "a step, by the rates of its file"


def conditions(measured: Measurement) -> str:
    """What was measured, and on what."""
    outcome = measured.outcome
    planner = measured.planner
    ranks = dist.world_size()
    whole = planner.timed(outcome.setting).num_micro_batches
    part = (
        f", of {whole:,} of the recipe's"
        if whole > outcome.num_micro_batches
        else ""
    )
    return (
        f"measured on {ranks} x {planner.gpu.name}:"
        f" {len(measured.seconds)} steps of {outcome.num_micro_batches}"
        f" micro-batches{part}; synthetic rows of the recipe's shapes, no data is read"
    )


def rows(measured: Measurement) -> list[tuple[str, str, str, str]]:
    """As `HEAD` says; what is not known is empty."""
    outcome = measured.outcome
    lines = [
        _line(name, size / GIB, _gib(measured.state.get(name)), "GiB")
        for name, size in outcome.memory.items()
    ]
    return [
        *lines,
        _line(
            "memory together",
            outcome.total_memory / GIB,
            _gib(measured.memory),
            "GiB",
        ),
        _line(TIMED, outcome.even_step_seconds, measured.step_seconds, "s"),
        *(
            [
                _line(
                    BY_FILE,
                    measured.data_sheet.even_step_seconds,
                    measured.step_seconds,
                    "s",
                )
            ]
            if measured.data_sheet
            else []
        ),
    ]


def _gib(size: int | None) -> float | None:
    return None if size is None else size / GIB


def _line(
    name: str, planned: float, measured: float | None, unit: str
) -> tuple[str, str, str, str]:
    if measured is None:
        return name, f"{planned:,.3f} {unit}", "", ""
    ratio = f"{measured / planned:.3f}" if planned else ""
    return name, f"{planned:,.3f} {unit}", f"{measured:,.3f} {unit}", ratio


def comparison_text(measured: Measurement) -> str:
    """For people."""
    table = [HEAD, *rows(measured)]
    return "\n".join(
        [
            conditions(measured),
            *(
                f"  {name:34} {planned:>14} {seen:>14} {ratio:>20}".rstrip()
                for name, planned, seen, ratio in table
            ),
        ]
    )


def comparison_dict(measured: Measurement) -> dict[str, Any]:
    """In bytes and seconds."""
    outcome = measured.outcome
    sheet = measured.data_sheet
    return {
        "where": measured.planner.gpu.name,
        "ranks": dist.world_size(),
        "data": "synthetic",
        "micro_batches_per_step": outcome.num_micro_batches,
        "planned_memory": outcome.memory,
        "planned_memory_total": outcome.total_memory,
        "measured_memory": measured.state,
        "measured_memory_total": measured.memory,
        "memory_ratio": measured.memory_ratio,
        "planned_step_seconds": outcome.even_step_seconds,
        "planned_step_seconds_by_file": sheet and sheet.even_step_seconds,
        "measured_step_seconds": measured.seconds,
        "time_ratio": measured.time_ratio,
    }
