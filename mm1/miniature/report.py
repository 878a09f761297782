"""The demo's report: what was trained, the losses, the scores, and right and wrong
answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm1.miniature.score_sections import scores_section
from mm1.report.axes import axis
from mm1.report.charts import WIDE, Frame, Series, line_chart, tones
from mm1.report.data_sections import (
    mixture_section,
    packed_sources,
    packing_section,
)
from mm1.report.page import (
    NOTHING,
    Html,
    badge,
    card,
    card_grid,
    count,
    duration,
    html_page,
    join,
    key_figures,
    missing,
    plural,
    section,
    table,
    tag,
)
from mm1.report.questions import questions_section
from mm1.runs.results import RunFolder, read_json_if_any

STAGES = {
    "encoder": (
        "Image encoder",
        (
            "A vision transformer and a text tower learn which caption goes with which"
            " image."
        ),
    ),
    "decoder": ("Language model", "A decoder learns from text alone."),
    "pretrain": (
        "Pre-training",
        (
            "Encoder, connector and decoder learn together on a mixture of sources;"
            " nothing is frozen."
        ),
    ),
    "finetune": (
        "Fine-tuning",
        "The same model learns to answer instructions, at a higher resolution.",
    ),
}


def write_report(demo_folder: Path, out: Path) -> None:
    """Writes the page of the runs in `demo_folder`, which names what is missing."""
    runs = {name: RunFolder(demo_folder / name) for name in STAGES}
    checks = read_json_if_any(demo_folder / "checks.json") or []
    names = [
        name
        for run in runs.values()
        for kind in ("loss", "tokens")
        for name in run.sources(kind)
    ]
    names += [name for run in runs.values() for name in packed_sources(run)]
    tone = tones(list(dict.fromkeys(names)))
    multimodal = {
        STAGES[name][0]: runs[name] for name in ("pretrain", "finetune")
    }
    parts = {
        "checks": _checks(checks),
        "stages": _stages(runs),
        "losses": _losses(runs, tone),
        "scores": scores_section(runs),
        "mixture": mixture_section(multimodal, tone),
        "packing": packing_section(multimodal, tone),
        "questions": questions_section(runs["pretrain"], runs["finetune"]),
    }
    links = tag(
        "nav", *(tag("a", name.capitalize(), href=f"#{name}") for name in parts)
    )
    page_text = html_page(
        "MM1 in miniature",
        _head(runs, checks),
        links,
        *parts.values(),
        _foot(runs),
    )
    out.write_text(page_text, encoding="utf-8")


def _head(runs: Mapping[str, RunFolder], checks: list[dict[str, Any]]) -> Html:
    lead = (
        "Every stage of MM1 at toy size: an image encoder, a language model, multimodal"
        " pre-training and fine-tuning, trained here from nothing and then asked"
        " questions about images that it has never seen."
    )
    passed = sum(bool(c.get("passed")) for c in checks)
    seconds = sum(run.seconds for run in runs.values())
    model = (
        runs["finetune"].summary.get("params")
        or runs["pretrain"].summary.get("params")
        or {}
    )
    pairs = [
        (f"{passed} of {len(checks)}" if checks else NOTHING, "checks passed"),
        (duration(seconds) if seconds else NOTHING, "of training"),
        (count(sum(model.values())) if model else NOTHING, "parameters"),
        (
            count(sum(r.worked("images_per_second") for r in runs.values())),
            "images seen",
        ),
        (
            count(sum(r.worked("tokens_per_second") for r in runs.values())),
            "tokens read",
        ),
    ]
    return tag(
        "header",
        tag("h1", "MM1 in miniature"),
        tag("p", lead, class_="lead"),
        key_figures(pairs),
    )


def _checks(checks: list[dict[str, Any]]) -> Html:
    note = "What the demo claims, tested on the numbers of this very run."
    if not checks:
        return section(
            "Checks",
            missing(
                "checks.json is missing: the demo has not come to its end."
            ),
            anchor="checks",
        )
    rows = [
        (
            badge("passed", "good")
            if c.get("passed")
            else badge("failed", "bad"),
            c.get("name", ""),
            c.get("detail", ""),
        )
        for c in checks
    ]
    return section(
        "Checks",
        table(("", "Check", "Numbers"), rows),
        note=note,
        anchor="checks",
    )


def _stages(runs: Mapping[str, RunFolder]) -> Html:
    note = (
        "Four runs of the same loop. Tokens are those of documents, without padding;"
        " time is that of training steps."
    )
    return section(
        "Stages",
        card_grid(*(_stage(run) for run in runs.values())),
        note=note,
        anchor="stages",
    )


def _stage(run: RunFolder) -> Html:
    title, story = STAGES[run.name]
    if not run.metrics:
        what = f"Not trained yet: {run.name}/metrics.jsonl is missing or empty."
        return card(tag("p", story, class_="note"), tag("p", what), title=title)
    params = run.summary.get("params") or {}
    data = run.summary.get("data") or {}
    tokens = run.worked("tokens_per_second")
    images = run.worked("images_per_second")
    loss = run.curve("loss")
    held = run.curve("validation")
    facts = {
        "Parts": _listed(
            {part: f"{count(n)} parameters" for part, n in params.items()}
        ),
        "Starts from": _listed(
            {
                part: f"from {_stage_of(origin)}"
                for part, origin in (run.setting("init") or {}).items()
            }
        ),
        "Pictures": _resolution(run),
        "Data": _listed(
            {
                source: _read(run, source, facts)
                for source, facts in data.items()
            }
        ),
        "Steps": (
            f"{run.summary.get('steps', NOTHING)} in {duration(run.seconds)}"
            if run.speed
            else None
        ),
        "Seen": " and ".join(
            f"{count(n)} {what}"
            for n, what in ((tokens, "tokens"), (images, "images"))
            if n
        ),
        "Loss": f"{loss[0][1]:.2f} → {loss[-1][1]:.2f}" if loss else None,
        "Held out": f"{held[-1][1]:.2f}" if held else None,
    }
    cells = (
        cell
        for name, fact in facts.items()
        if fact
        for cell in (tag("dt", name), tag("dd", fact))
    )
    unfinished = (
        None
        if run.summary.get("finished")
        else join(" ", badge("not finished", "bad"))
    )
    head = (tag("h3", title, unfinished), tag("p", story, class_="note"))
    return card(*head, tag("dl", *cells, class_="facts"))


def _read(run: RunFolder, source: str, facts: Mapping[str, Any]) -> str:
    epochs = run.curve(f"epoch/{source}") or run.curve("epoch")
    times = f", read {epochs[-1][1]:.2g} times" if epochs else ""
    return f"{count(facts.get('documents', 0))} documents{times}"


def _stage_of(origin: str) -> str:
    name = Path(origin).name
    return STAGES[name][0] if name in STAGES else name


def _resolution(run: RunFolder) -> str | None:
    size, patch = (
        run.setting("model", "encoder", key)
        for key in ("image_size", "patch_size")
    )
    tiles = run.setting("loader", "max_tiles") or 1
    if not size:
        return None
    cut = f", large ones also in up to {tiles} sub-images" if tiles > 1 else ""
    shown = (
        " x ".join(map(str, size))
        if isinstance(size, list)
        else f"{size} x {size}"
    )
    return f"{shown} pixels, patches of {patch}{cut}"


def _listed(pairs: Mapping[str, str]) -> Html | None:
    return (
        join(
            *(
                tag("div", name, " ", tag("span", value, class_="note"))
                for name, value in pairs.items()
            )
        )
        or None
    )


def _losses(runs: Mapping[str, RunFolder], tone: Mapping[str, str]) -> Html:
    charts = [_loss(run, tone) for run in runs.values()]
    note = (
        "Every logged step, not smoothed; the legend gives the last value. Rings:"
        " held-out documents, never trained on."
    )
    return section("Losses", card_grid(*charts), note=note, anchor="losses")


def _loss(run: RunFolder, tone: Mapping[str, str]) -> Html:
    sources = run.sources()
    keys = (
        [(f"/{name}", name, tone[name]) for name in sources]
        if len(sources) != 1
        else []
    )
    series = []
    for end, name, colour in [
        *keys,
        ("", "all" if keys else "training", "tone-0"),
    ]:
        points = run.curve(f"loss{end}")
        held = run.curve(f"validation{end}")
        key = f"{name} {points[-1][1]:.2f}" if points else name
        key += f" (held out {held[-1][1]:.2f})" if held else ""
        if points:
            series.append(Series(name, points, colour, key, strong=not end))
        if held:
            series.append(
                Series(
                    f"{name}, held out", held, colour, dashed=True, dots=True
                )
            )
    title = STAGES[run.name][0]
    if not series:
        return card(
            tag(
                "p",
                f"{run.name}/metrics.jsonl is missing or holds no loss.",
                class_="note",
            ),
            title=title,
        )
    points = [point for each in series for point in each.points]
    steps = axis([0.0, *(x for x, _ in points)], "step")
    losses = axis([y for _, y in points], "loss", air=0.06)
    return line_chart(title, series, Frame(steps, losses, WIDE))


def _foot(runs: Mapping[str, RunFolder]) -> Html:
    facts = next(
        (run.summary for run in reversed(list(runs.values())) if run.summary),
        {},
    )
    known = [
        f"{name} {version}"
        for name, version in (facts.get("versions") or {}).items()
    ]
    known += [str(facts["hardware"])] if "hardware" in facts else []
    known += (
        [plural(facts["world_size"], "rank")] if "world_size" in facts else []
    )
    return tag("footer", " · ".join(known))
