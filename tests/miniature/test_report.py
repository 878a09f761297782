"""The demo's report on an invented demo folder: whole, partly missing, and hostile."""

import json
import shutil
from pathlib import Path

import pytest
from fake_demo import make_demo, write
from html_pages import Tree, check_self_contained, parse

from mm1.miniature.report import write_report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def demo(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "demo")


def report(demo: Path) -> Tree:
    out = demo / "report.html"
    write_report(demo, out)
    check_self_contained(out)
    return parse(out)


def test_page_holds_every_section(demo: Path) -> None:
    tree = report(demo)
    sections = {
        attributes.get("id")
        for tag, attributes in tree.tags
        if tag == "section"
    }
    assert sections == {
        "checks",
        "stages",
        "losses",
        "scores",
        "mixture",
        "packing",
        "questions",
    }
    links = {attributes["href"] for tag, attributes in tree.tags if tag == "a"}
    assert links == {f"#{name}" for name in sections}
    assert not [
        a for _, a in tree.tags if "missing" in (a.get("class") or "").split()
    ]
    charts = [
        attributes["aria-label"]
        for tag, attributes in tree.tags
        if tag == "svg"
    ]
    assert charts[:4] == [
        "Image encoder",
        "Language model",
        "Pre-training",
        "Fine-tuning",
    ]
    assert charts[4:] == [
        "colour",
        "shape",
        "count",
        "digits",
        "small digits",
        "word",
    ]


def test_numbers_are_those_of_the_files(demo: Path) -> None:
    text = " ".join(report(demo).words)
    assert "6 of 7" in text
    assert "failed" in text
    assert "460k" in text  # the encoder's parameters
    assert "wanted +5 points" in text
    assert "24 rows of 256 tokens" in text
    assert "12k documents, read 1.5 times" in text
    assert "torch 2.13.0" in text
    metrics = [
        json.loads(line)
        for line in (demo / "pretrain" / "metrics.jsonl")
        .read_text()
        .splitlines()
    ]
    last = [
        line["loss/captions"] for line in metrics if "loss/captions" in line
    ][-1]
    assert f"captions {last:.2f}" in text


def test_questions_show_right_and_wrong_answers_with_pictures(
    demo: Path,
) -> None:
    tree = report(demo)
    classes = [attributes.get("class") or "" for _, attributes in tree.tags]
    assert 8 <= classes.count("card question") <= 12
    assert {"right", "wrong"} <= set(classes)
    pictures = [attributes for tag, attributes in tree.tags if tag == "img"]
    assert len(pictures) > 20
    # Each question has one framed part; two shots are two parts before it.
    assert classes.count("shot asked") == classes.count("card question")
    text = " ".join(tree.words)
    assert (
        text.count(" · 0 shots (no demonstrations)")
        == text.count(" · 0 shots")
        > 0
    )
    assert "guessing would score. 0 shots (no demonstrations)." in text
    assert "before it sees images; 0 shots (no demonstrations)" in text


def test_controls_stand_beside_the_scores(demo: Path) -> None:
    """Restricted answers as a dashed line of their model, all controls in a table."""
    before = report(demo)
    assert "Dashed" not in " ".join(before.words)
    path = demo / "pretrain" / "scores.json"
    scores = json.loads(path.read_text())
    task = scores["colour"]
    scores["colour, restricted"] = task
    scores["colour, wrong labels"] = task
    write(path, scores)
    after = report(demo)
    text = " ".join(after.words)
    assert "restricted to the task's own words, which need no shots" in text
    assert text.count("before fine-tuning, restricted") >= 1
    assert "after fine-tuning, restricted" not in text
    assert "What the shots add" in text
    assert "\u00b7\N{NO-BREAK SPACE}wrong labels" in text
    one, two = (
        [a for tag, a in tree.tags if tag == "svg"] for tree in (before, after)
    )
    assert len(one) == len(two)


def test_text_of_others_is_escaped(demo: Path) -> None:
    hostile = '<script>alert("1")</script><img src=x onerror=alert(1)>'
    path = demo / "finetune" / "predictions" / "colour-4shot.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {
            "prediction": hostile,
            "answers": [hostile],
            "prompt": line["prompt"] + hostile,
        }
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(
        demo / "checks.json",
        [{"name": hostile, "passed": False, "detail": hostile}],
    )
    scores = json.loads((demo / "finetune" / "scores.json").read_text())
    scores["colour"]["metric"] = hostile
    write(demo / "finetune" / "scores.json", scores)
    tree = report(demo)
    assert hostile in " ".join(tree.words)
    assert "script" not in {tag for tag, _ in tree.tags}


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("checks.json", "checks.json is missing"),
        ("encoder", "encoder/metrics.jsonl is missing"),
        ("pretrain/metrics.jsonl", "pretrain/metrics.jsonl is missing"),
        ("finetune/scores.json", "finetune/scores.json is missing"),
        ("decoder/scores.json", "no text-only score"),
        ("finetune/summary.json", "not finished"),
        ("finetune/predictions/pictures/red-0.png", "picture cannot be read"),
    ],
)
def test_what_is_missing_is_named(demo: Path, gone: str, said: str) -> None:
    path = demo / gone
    assert path.exists()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in " ".join(report(demo).words)


@pytest.mark.parametrize(
    "name",
    [
        "speed.jsonl",
        "config.json",
        "packing.json",
        "predictions",
        "metrics.jsonl",
    ],
)
def test_a_kind_of_file_missing_everywhere_is_no_crash(
    demo: Path, name: str
) -> None:
    for path in demo.glob(f"*/{name}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    report(demo)


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    text = " ".join(report(tmp_path).words)
    assert "checks.json is missing" in text
    assert "packing.json is missing" in text


def test_half_written_and_odd_lines_are_passed_over(demo: Path) -> None:
    with (demo / "pretrain" / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 310, "loss": NaN}\n{"step": 320, "lo')
    (demo / "pretrain" / "scores.json").write_text('{"colour": ')
    text = " ".join(report(demo).words)
    assert "nan" not in text.lower().split()
    assert "pretrain/scores.json is missing" in text


def test_no_picture_from_outside_of_the_run_folder(demo: Path) -> None:
    path = demo / "finetune" / "predictions" / "colour-4shot.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    outside = "../pretrain/predictions/pictures/red-0.png"
    assert (demo / "finetune" / outside).is_file()
    lines[0]["pictures"][0] = outside
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "picture cannot be read" in " ".join(report(demo).words)
