"""`mm1 report` of runs of every kind: what the folder holds, and what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from html_pages import parse
from made_runs import CONFIG, make_run, write
from object_store import running_store

from mm1.config import ConfigError
from mm1.report.run_report.curves import chart_data, thinned
from mm1.report.run_report.facts import leaves
from mm1.report.run_report.write import write_run_report
from mm1.runs.results import RunFolder
from mm1.storage.remote_path import as_path


def answer_files(report: Path) -> list[dict[str, Any]]:
    """The content of the files of answers, in the order of the page's list."""
    texts = [
        (report / "answers" / f"{i + 1}.js").read_text()
        for i in range(len(list((report / "answers").iterdir())))
    ]
    return [json.loads(t[t.index("{") : t.rindex(")")]) for t in texts]


def words(report: Path) -> str:
    return " ".join(parse(report / "index.html").words)


def test_report_of_one_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mint")
    page = write_run_report([run], tmp_path / "report")
    assert page == tmp_path / "report" / "index.html"
    said = words(page.parent)
    assert "finished" in said
    assert "30 steps" in said
    assert "mine.optim:Lion" in said
    assert "herbs, wrong labels" in said
    first, *_ = contents = answer_files(page.parent)
    assert len(contents) == 3
    assert first["left_out"] == 1
    question = first["questions"][0]
    assert question["prompts"][0]["text"].count("<image>") == 2
    assert "mint<|end|>" in question["prompts"][0]["text"]
    assert question["truth"] == ["</script>sage"]
    assert first["images"][0].startswith("data:image/png;base64,")
    assert first["images"][1] is None  # outside the run folder


def test_runs_are_compared(tmp_path: Path) -> None:
    longer = CONFIG | {"steps": 60, "seed": 5}
    runs = [
        make_run(tmp_path / "a" / "sage"),
        make_run(tmp_path / "b" / "sage", config=longer, gain=1),
    ]
    write_run_report(runs, tmp_path / "report")
    said = words(tmp_path / "report")
    assert "2 of 7 keys" in said
    assert "(not there)" in said  # the seed
    for run in runs:
        assert str(run) in said
    question = answer_files(tmp_path / "report")[0]["questions"][1]
    assert [g["score"] for g in question["given"]] == [0.0, 1.0]
    assert len(question["prompts"]) == 1


def test_what_a_run_lacks_is_a_line_and_not_a_line_for_each_key(
    tmp_path: Path,
) -> None:
    encoder = {"class": "mm1.nn.vit:ViT", "dim": 8, "depth": 2, "init": {}}
    models = (
        {"encoder": encoder, "dim": 1},
        {"encoder": encoder | {"depth": 3}, "dim": 1},
        {"dim": 1},
    )
    runs = [
        make_run(tmp_path / f"run{i}", config=CONFIG | {"model": model})
        for i, model in enumerate(models)
    ]
    write_run_report(runs, tmp_path / "report")
    said = [
        word.strip() for word in parse(tmp_path / "report" / "index.html").words
    ]
    at = said.index("model.encoder.*")
    assert said[at + 1 : at + 4] == ["2 keys", "2 keys", "(not there)"]
    at = said.index("model.encoder.depth")
    assert said[at + 1 : at + 4] == ["2", "3", "(not there)"]


def test_page_loads_nothing_and_no_text_ends_its_scripts(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "</script><script>alert(1)")
    page = write_run_report([run], tmp_path / "report")
    tree = parse(page)
    assert not [t for t, _ in tree.tags if t in ("link", "iframe", "base")]
    scripts = [attributes for t, attributes in tree.tags if t == "script"]
    assert len(scripts) == 3
    assert not any("src" in attributes for attributes in scripts)


@pytest.mark.parametrize(
    "gone",
    [
        ("metrics.jsonl", "speed.jsonl", "summary.json"),
        ("scores.json", "predictions"),
        ("config.json", "metrics.jsonl", "speed.jsonl", "summary.json"),
        ("summary.json", "predictions"),
    ],
)
def test_a_run_need_not_have_everything(
    tmp_path: Path, gone: tuple[str, ...]
) -> None:
    run = make_run(tmp_path / "dill")
    for name in gone:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    other = make_run(tmp_path / "whole")
    for runs in ([run], [run, other], [other, run]):
        write_run_report(runs, tmp_path / "report")
        parse(tmp_path / "report" / "index.html")


def test_what_is_no_run_is_said_in_a_line(tmp_path: Path) -> None:
    make_run(tmp_path / "study" / "seed0")
    out = tmp_path / "report"
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        write_run_report([tmp_path / "nowhere"], out)
    with pytest.raises(FileNotFoundError, match=r"mm1 report .*study/seed0"):
        write_run_report([tmp_path / "study"], out)
    with pytest.raises(ConfigError, match="is given twice"):
        write_run_report([tmp_path / "study" / "seed0"] * 2, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"steps"'),
        ("summary.json", "[1]"),
        ("scores.json", '{"herbs": 3}'),
        ("scores.json", '{"herbs": {"shots": {"two": {}}}}'),
        ("scores.json", '{"herbs": {"shots": {}, "chance": "even"}}'),
        ("packing.json", '{"rows": [[]], "sequence_length": "long"}'),
        ("packing.json", '{"rows": [["pages"]], "sequence_length": 9}'),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, name: str, content: str
) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        write_run_report([run], tmp_path / "report")


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    out = tmp_path / "report"
    write_run_report([run], out)
    (run / "scores.json").unlink()
    write_run_report([run], out)
    assert [path.name for path in out.iterdir()] == ["index.html"]
    with pytest.raises(ConfigError, match="no part of a report"):
        write_run_report([run], run)
    (out / "index.html").write_text("mine")
    with pytest.raises(ConfigError, match=r"index\.html"):
        write_run_report([run], out)


def test_thinning_keeps_the_ends_and_every_spike() -> None:
    points = [(float(i), math.sin(i / 900)) for i in range(50_000)]
    points[31_007] = (31_007.0, 40.0)
    points[9] = (9.0, -40.0)
    kept = thinned(points, 500)
    assert len(kept) <= 500
    assert {points[0], points[9], points[31_007], points[-1]} <= set(kept)
    assert kept == sorted(kept)


def test_charts_of_sources_clocks_and_what_is_left_out(tmp_path: Path) -> None:
    one = chart_data({"run": RunFolder(make_run(tmp_path / "run"))})
    (losses,) = one["losses"]
    assert [line["key"] for line in losses["lines"]] == ["loss", "validation"]
    assert [chart["title"] for chart in one["speed"]] == ["MFU"]
    assert one["others"] == ["lr"]
    assert one["clocks"][0]["hours"] == [[0, 10, 20, 30], [0, 0.5, 1, 1.5]]
    assert one["clocks"][0]["tokens"] == [[0, 10, 20, 30], [0, 60, 120, 180]]


def test_losses_that_are_not_finite_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "summary.json").unlink()
    lines = ({"step": s, "loss": math.nan} for s in (20, 30))
    write(run / "metrics.jsonl", {"step": 10, "loss": 2.5}, *lines)
    write_run_report([run], tmp_path / "report")
    said = words(tmp_path / "report")
    assert "the loss at 2 logged steps, first at 20" in said
    assert "not finished" in said
    assert "10 of 30 steps logged" in said


@pytest.mark.slow
def test_a_run_at_an_object_store_gives_the_same_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "thyme")
    with running_store(monkeypatch):
        there = as_path("s3://data/runs/thyme")
        for path in run.rglob("*"):
            if path.is_file():
                target = there / path.relative_to(run).as_posix()
                target.write_bytes(path.read_bytes())
        write_run_report([run], tmp_path / "here")
        write_run_report([there], tmp_path / "there")
        with pytest.raises(FileNotFoundError, match="it holds runs"):
            write_run_report([there.parent], tmp_path / "none")
    assert answer_files(tmp_path / "here") == answer_files(tmp_path / "there")
    pages = [
        (tmp_path / name / "index.html").read_text()
        for name in ("here", "there")
    ]
    assert pages[0].replace(str(run), str(there)) == pages[1]


def test_keys_of_configs_are_those_of_mm1_diff() -> None:
    assert leaves(CONFIG) == {
        "class": "Trainer",
        "steps": 30,
        "loader": "PackedLoader",
        "loader.batch_size": 4,
        "optimizer": "mine.optim:Lion",
        "optimizer.peak_lr": 0.002,
    }
    assert leaves({"init": {}, "sources": {"a": [], "b": None}}) == {
        "sources.a": [],
        "sources.b": None,
    }
