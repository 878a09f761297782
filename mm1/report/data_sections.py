"""Report sections about the training data: the mixture, and the packed rows."""

from collections.abc import Mapping

from mm1.report.bars import BarSegment, bars
from mm1.report.charts import legend
from mm1.report.page import Html, card, missing, plural, section, tag
from mm1.runs.results import RunFolder, finite_numbers


def packed_sources(run: RunFolder) -> list[str]:
    """The sources in a run's packing.json."""
    pieces = [piece for row in run.packing.get("rows", []) for piece in row]
    return list(
        dict.fromkeys(
            piece["source"] for piece in pieces if not piece.get("padding")
        )
    )


def mixture_section(
    runs: Mapping[str, RunFolder], tone: Mapping[str, str]
) -> Html:
    note = "Shares of tokens: what the recipe asks for, and what the logged steps held."
    lines = []
    for title, run in runs.items():
        wanted = finite_numbers(run.setting("loader", "weights"))
        seen = {
            name: sum(y for _, y in run.curve(f"tokens/{name}"))
            for name in run.sources("tokens")
        }
        for label, shares in (
            ("wanted", wanted),
            ("seen", {n: seen[n] for n in wanted if n in seen}),
        ):
            if sum(shares.values()) > 0:
                lines.append((f"{title}, {label}", _shares(shares, tone), ""))
    if not lines:
        return section(
            "Mixture",
            missing("No run has logged tokens by source."),
            note=note,
            anchor="mixture",
        )
    keys = legend([(name, colour, "block") for name, colour in tone.items()])
    return section(
        "Mixture", card(bars(lines), keys), note=note, anchor="mixture"
    )


def _shares(
    amounts: Mapping[str, float], tone: Mapping[str, str]
) -> list[BarSegment]:
    total = sum(amounts.values())
    return [
        BarSegment(
            n / total,
            tone.get(name, "tone-0"),
            f"{name}: {n / total:.2%}",
            f"{n / total:.1%}",
        )
        for name, n in amounts.items()
        if n > 0
    ]


def packing_section(
    runs: Mapping[str, RunFolder], tone: Mapping[str, str]
) -> Html:
    note = (
        "Each line is a row that the model computes at once, each box a document in it."
        " Documents of a row never see one another. Hatched: padding."
    )
    blocks = [
        _rows(title, run, tone)
        for title, run in runs.items()
        if run.packing.get("rows")
    ]
    if not blocks:
        blocks = [
            missing(
                "packing.json is missing: no run has written down how its rows were"
                " packed."
            )
        ]
    return section("Packed rows", *blocks, note=note, anchor="packing")


def _rows(title: str, run: RunFolder, tone: Mapping[str, str]) -> Html:
    length = run.packing["sequence_length"]
    most = run.packing.get("max_images")
    rows = run.packing["rows"]
    lines = []
    useful = 0
    images = 0
    shown = {}
    for number, row in enumerate(rows, 1):
        pieces = []
        for i, p in enumerate(row):
            n = p["stop"] - p["start"]
            padding = bool(p.get("padding"))
            source = p.get("source", "")
            useful = useful + n * (not padding)
            images = images + p.get("images", 0)
            hover = (
                f"padding: {n} tokens"
                if padding
                else f"{source}: {n} tokens, {plural(p.get('images', 0), 'image')}"
            )
            pieces.append(
                BarSegment(
                    n / length,
                    tone.get(source, "tone-0"),
                    hover,
                    light=i % 2 == 1,
                    padding=padding,
                )
            )
            shown |= {} if padding else {source: tone.get(source, "tone-0")}
        lines.append(
            (f"{number}", pieces, f"{sum(p.get('images', 0) for p in row)}")
        )
    keys = legend(
        [
            *((name, colour, "block") for name, colour in shown.items()),
            ("padding", "tone-0", "pad"),
        ]
    )
    facts = (
        f"{len(rows)} rows of {length} tokens, at most {most} images:"
        f" {useful / (length * len(rows)):.1%} of the slots filled,"
        f" {images / len(rows):.1f} images a row (the number at the right)."
    )
    body = (tag("p", facts, class_="note"), bars(lines, thin=True), keys)
    return card(*body, title=title)
