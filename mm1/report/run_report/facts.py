"""What each run is, in a table with a column for each, and how their configs differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mm1.report.page import (
    NOTHING,
    Child,
    Html,
    badge,
    count,
    duration,
    join,
    missing,
    plural,
    section,
    table,
    tag,
)
from mm1.runs.results import RunFolder, finite_numbers

ABSENT = "(not there)"
"""Shown for a key that a run's config does not have."""


def overview_section(runs: Mapping[str, RunFolder]) -> Html:
    facts = [_facts(run) for run in runs.values()]
    names = dict.fromkeys(name for each in facts for name in each)
    rows = [
        (name, *(each.get(name) or NOTHING for each in facts))
        for name in names
        if any(each.get(name) for each in facts)
    ]
    return section(
        "Runs" if len(runs) > 1 else "The run",
        table(("", *runs), rows),
        anchor="runs",
    )


def _facts(run: RunFolder) -> dict[str, Child]:
    summary = run.summary
    model = summary.get("model") or run.setting("model", "class")
    loss = run.curve("loss")
    held = run.curve("validation")
    tokens = run.worked("tokens_per_second")
    images = run.worked("images_per_second")
    return {
        "Folder": tag("code", str(run.path)),
        "State": _state(run),
        "Model": _class_name(model) if isinstance(model, str) else None,
        "Parameters": _lines(
            f"{part} {count(number)}"
            for part, number in finite_numbers(summary.get("params")).items()
        ),
        "Starts from": _starts(run),
        "Data": _lines(_data(summary.get("data"))),
        "Training time": duration(run.seconds) if run.seconds else None,
        "Seen": _lines(
            f"{count(number)} {what}"
            for number, what in ((tokens, "tokens"), (images, "images"))
            if number
        ),
        "Loss": f"{loss[0][1]:.3f} → {loss[-1][1]:.3f}" if loss else None,
        "Held out": f"{held[-1][1]:.3f}" if held else None,
        "Not finite": _not_finite(run),
        "Hardware": _hardware(summary),
    }


def _lines(lines: Any) -> Html | None:
    return join(*(tag("div", line) for line in lines)) or None


def _state(run: RunFolder) -> Html:
    steps = finite_numbers(run.config).get("steps")
    reached = max((x for x, _ in run.curve("loss")), default=0)
    origin = run.summary.get("origin")
    if isinstance(origin, dict):
        return join("imported from ", tag("code", str(origin.get("name"))))
    if not run.config:
        return join(badge("scores alone", "plain"))
    end = f" of {steps:,.0f}" if steps else ""
    if run.summary.get("finished"):
        return join(badge("finished", "good"), f" {_steps(steps or 0)}")
    what = (
        f" {reached:,.0f}{end} steps logged" if reached else " no step logged"
    )
    return join(badge("not finished", "bad"), what)


def _steps(steps: float) -> str:
    return f"{steps:,.0f} step{'' if steps == 1 else 's'}"


def _starts(run: RunFolder) -> Html | None:
    init = run.setting("init")
    if not isinstance(init, dict):
        return None
    return _lines(f"{part}: {_short(origin)}" for part, origin in init.items())


def _data(data: Any) -> Sequence[str]:
    if not isinstance(data, dict):
        return ()
    return [
        f"{source}: {count(finite_numbers(facts).get('documents', 0))} documents"
        for source, facts in data.items()
    ]


def _not_finite(run: RunFolder) -> Html | None:
    """Says where the curves have gaps that are no gaps in the log."""
    steps = [
        line.get("step")
        for line in run.metrics
        if "loss" in line and "loss" not in finite_numbers(line)
    ]
    if not steps:
        return None
    what = (
        f"the loss at {plural(len(steps), 'logged step')}, first at {steps[0]}"
    )
    return badge(what, "bad")


def _hardware(summary: Mapping[str, Any]) -> Html | None:
    ranks = finite_numbers(summary).get("world_size")
    versions = summary.get("versions")
    known = [
        str(summary["hardware"]) if summary.get("hardware") else None,
        plural(int(ranks), "rank") if ranks else None,
        *(
            f"{name} {version}"
            for name, version in (
                versions.items() if isinstance(versions, dict) else ()
            )
        ),
    ]
    return _lines(filter(None, known))


def config_section(runs: Mapping[str, RunFolder]) -> Html | None:
    """What differs between the runs; of one run, every key, to be unfolded."""
    configs = {
        name: leaves(run.config) for name, run in runs.items() if run.config
    }
    if not configs:
        return None
    keys = sorted({key for each in configs.values() for key in each})
    parts = [_whole(name, config) for name, config in configs.items()]
    if len(configs) == 1:
        return section("Config", *parts, anchor="config")
    differing = [
        key
        for key in keys
        if len({_text(each.get(key, ABSENT)) for each in configs.values()}) > 1
    ]
    note = (
        f"{len(differing)} of {len(keys)} keys. Marked: what is not as in the first"
        " run. What a run lacks altogether is one line."
    )
    rows = [
        (tag("code", name), *_marked(texts))
        for name, texts in _difference_rows(differing, list(configs.values()))
    ]
    what = (
        table(("Key", *configs), rows)
        if rows
        else missing("The configs are the same.")
    )
    return section(
        "Config differences", what, *parts, note=note, anchor="config"
    )


def _difference_rows(
    keys: Sequence[str], configs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[str]]]:
    """(key, text for each run). Keys of a component that some run lacks and that is the
    same in the others are one row."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        known = {_text(each[key]) for each in configs if key in each}
        group = key if len(known) > 1 else _lacking(key, configs)
        groups.setdefault(group, []).append(key)
    return [
        (own[0], [_text(each.get(own[0], ABSENT)) for each in configs])
        if len(own) == 1
        else (f"{group}.*", [_number_of(own, each) for each in configs])
        for group, own in groups.items()
    ]


def _lacking(key: str, configs: Sequence[Mapping[str, Any]]) -> str:
    """The shortest beginning of a key of which some run has nothing."""
    names = key.split(".")
    for end in range(1, len(names)):
        beginning = ".".join(names[:end])
        if not all(
            any(f"{k}.".startswith(f"{beginning}.") for k in each)
            for each in configs
        ):
            return beginning
    return key


def _number_of(keys: Sequence[str], config: Mapping[str, Any]) -> str:
    number = sum(key in config for key in keys)
    return plural(number, "key") if number else ABSENT


def _marked(texts: Sequence[str]) -> Sequence[Html]:
    return [
        tag("code", text, class_=None if text == texts[0] else "differs")
        for text in texts
    ]


def _whole(name: str, config: Mapping[str, Any]) -> Html:
    rows = [
        (tag("code", key), tag("code", _text(value)))
        for key, value in config.items()
    ]
    return tag(
        "details",
        tag("summary", f"The whole config of {name}, {len(rows)} keys"),
        table(("Key", "Value"), rows),
        class_="below",
    )


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Key -> value of a config's JSON, as `mm1 diff` names the keys; a component's
    class stands under the component's own key. What is empty has no keys."""
    if not isinstance(value, dict):
        return {path: value}
    found = {}
    for key, inner in value.items():
        if key == "class":
            found[path or key] = _class_name(str(inner))
        else:
            found |= leaves(inner, f"{path}.{key}" if path else key)
    return found


def _class_name(path: str) -> str:
    """A class of this package without its module; any other in full."""
    return path.rpartition(":")[2] if path.startswith("mm1.") else path


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False)


def _short(origin: Any) -> str:
    return Path(origin).name if isinstance(origin, str) else _text(origin)
