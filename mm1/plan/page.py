"""A plan as a page: memory by part, and the time of a step."""

from pathlib import Path

from mm1.files import write_text
from mm1.plan.comparison import HEAD, conditions, rows
from mm1.plan.here import Measurement
from mm1.plan.plan import GIB, Outcome, Planner, needed, worth_a_change
from mm1.plan.tables import as_dict, assumptions
from mm1.report.bars import BarSegment, bars
from mm1.report.page import (
    Html,
    card,
    html_page,
    key_figures,
    section,
    table,
    tag,
)

TONES = tuple(f"tone-{number}" for number in range(1, 9))


def write_plan_page(
    path: Path,
    name: str,
    planner: Planner,
    outcome: Outcome,
    best: Outcome | None,
    *,
    measured: Measurement | None = None,
) -> None:
    """Writes a self-contained page about the recipe or run of that name; `best` is
    shown below, if it is better, and what was measured beside what was planned."""
    others = [best] if best and worth_a_change(planner, outcome, best) else []
    body = [
        tag("h1", f"Plan of {name}"),
        tag(
            "p",
            f"{planner.num_params / 1e9:,.2f}B parameters on {planner.nodes} x"
            f" {planner.gpus_per_node} {planner.gpu.name}",
            class_="lead",
        ),
        *(tag("p", line) for line in needed(outcome, planner)),
        *([_measured_section(measured)] if measured else []),
        _outcome_section("As configured", planner, outcome),
        *(
            _outcome_section("The fastest that fits", planner, other)
            for other in others
        ),
        section(
            "Assumed",
            *(tag("p", line.strip()) for line in assumptions(planner)[1:]),
        ),
    ]
    write_text(path, html_page(f"Plan of {name}", *body))


def _measured_section(measured: Measurement) -> Html:
    ratio = measured.memory_ratio
    return section(
        "Measured beside planned",
        tag("p", conditions(measured)),
        key_figures(
            (
                (f"{measured.time_ratio:.2f}", "time, measured over planned"),
                (
                    "unknown" if ratio is None else f"{ratio:.2f}",
                    "memory, measured over planned",
                ),
            )
        ),
        table(HEAD, rows(measured), numbers=(1, 2, 3)),
    )


def _outcome_section(title: str, planner: Planner, outcome: Outcome) -> Html:
    facts = as_dict(planner, outcome)
    return section(
        title,
        tag("p", tag("code", facts["setting"])),
        key_figures(
            (
                (f"{facts['step_seconds']:,.2f} s", "a step"),
                (f"{facts['mfu']:.0%}", "of the peak"),
                (f"{facts['days']:,.1f}", f"days, {facts['steps']:,} steps"),
                (f"{facts['gpu_hours']:,.0f}", "GPU hours"),
                (
                    f"{facts['checkpoint_bytes'] / 1e9:,.0f} GB",
                    "a checkpoint",
                ),
            )
        ),
        card(
            _memory_bar(planner, outcome),
            _memory_legend(outcome),
            title="Memory on each rank",
        ),
        card(_timeline(outcome), title="One micro-batch"),
        _units_table(outcome),
    )


def _memory_bar(planner: Planner, outcome: Outcome) -> Html:
    whole = max(outcome.total_memory, planner.memory_limit)
    segments = [
        BarSegment(
            share=size / whole,
            tone=tone,
            hover=f"{name}: {size / GIB:,.1f} GiB",
            text=name if size / whole > 0.12 else "",
        )
        for tone, (name, size) in zip(
            TONES, outcome.memory.items(), strict=False
        )
    ]
    free = planner.memory_limit - outcome.total_memory
    if free > 0:
        segments.append(
            BarSegment(
                share=free / whole,
                tone="",
                hover=f"free: {free / GIB:,.1f} GiB",
                padding=True,
            )
        )
    after = (
        f"{outcome.total_memory / GIB:,.1f} of"
        f" {planner.memory_limit / GIB:,.1f} GiB"
    )
    return bars([("memory", segments, after)])


def _memory_legend(outcome: Outcome) -> Html:
    shown = ", ".join(
        f"{name} {size / GIB:,.1f}" for name, size in outcome.memory.items()
    )
    return tag("p", f"GiB, from left to right: {shown}", class_="legend")


def _timeline(outcome: Outcome) -> Html:
    longest = max(unit.total for unit in outcome.units) or 1.0
    lines = []
    for tone, unit in zip(TONES, outcome.units, strict=False):
        hidden = min(unit.moves, unit.computes)
        exposed = max(0.0, unit.moves - unit.computes)
        parts = (
            (unit.computes, f"computes {1e3 * unit.computes:,.1f} ms", False),
            (exposed, f"weights on their way {1e3 * exposed:,.1f} ms", True),
            (unit.waits, f"waits {1e3 * unit.waits:,.1f} ms", True),
        )
        lines.append(
            (
                unit.name,
                [
                    BarSegment(
                        share=seconds / longest,
                        tone=tone,
                        hover=f"{unit.name}: {text};"
                        f" {1e3 * hidden:,.1f} ms hidden",
                        light=light,
                    )
                    for seconds, text, light in parts
                    if seconds
                ],
                f"{1e3 * unit.total:,.1f} ms",
            )
        )
    return bars(lines)


def _units_table(outcome: Outcome) -> Html:
    return table(
        ("unit", "number", "computes, ms", "moves, ms", "waits, ms"),
        [
            (
                unit.name,
                unit.count,
                f"{1e3 * unit.computes:,.1f}",
                f"{1e3 * unit.moves:,.1f}",
                f"{1e3 * unit.waits:,.1f}",
            )
            for unit in outcome.units
        ],
        numbers=(1, 2, 3, 4),
    )
