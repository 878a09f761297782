"""What the page shows of a run: the sequence as it is rendered, where the model looked,
demonstrations as its benchmarks have them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import mm1
from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.render import Renderer
from mm1.infer.image_attention import RecordedAttention, image_attention
from mm1.loaded_run import LoadedRun
from mm1.miniature.benchmarks import Miniature
from mm1.nn.attention import PackedAttention

pytest.importorskip("pydantic", reason="pip install 'mm1[chat]'")

from mm1.chat.inspection import (
    describe_attention,
    describe_run,
    describe_sequence,
    describe_shots,
)
from mm1.chat.protocol import ApiError


@pytest.fixture
def run(tmp_path: Path) -> LoadedRun:
    benchmarks = {"count": Miniature.Config(task="count", num_questions=3)}
    return mm1.load(tiny.write_run(tmp_path / "run", benchmarks=benchmarks))


def test_split_pictures_are_shown_tile_by_tile(run: LoadedRun) -> None:
    renderer = run.trained.renderer
    assert renderer.image_processor is not None
    processor = replace(
        renderer.image_processor, max_tiles=4, index_tokens=True
    )
    tiled: Renderer = replace(renderer, image_processor=processor)
    run.trained.renderer = tiled
    document = Document(
        (Text("red "), tiny.picture(1, 20), tiny.picture(2), Text(" cat"))
    )
    found = describe_sequence(run, document)
    assert found["num_tokens"] == len(tiled(document, end=False).tokens)
    before, large, small, after = found["pieces"]
    positions = [view["position"] for view in large["views"]]
    assert positions == [(0, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert [view["position"] for view in small["views"]] == [(0, 0)]
    assert "".join(token["text"] for token in before["tokens"]) == "red "
    assert (
        sum(
            piece.get("num_tokens") or len(piece["tokens"])
            for piece in (before, large, small, after)
        )
        == found["num_tokens"]
    )


def test_recorded_attention_computes_what_attention_does() -> None:
    q, k, v = torch.randn(3, 9, 4, 6, generator=torch.manual_seed(1))
    k = k[:, :2]
    v = v[:, :2]
    recorded = RecordedAttention(9, 3)
    mixed = recorded.attend(q, k, v)
    packed = PackedAttention(torch.tensor([0, 9], dtype=torch.int32), 9)
    torch.testing.assert_close(mixed, packed.attend(q, k, v))
    assert recorded.num_added == 4
    mean = recorded.total / 4
    torch.testing.assert_close(mean.sum(1), torch.ones(3))
    # the last three positions, each blind to what follows it
    assert (mean > 0).sum(1).tolist() == [7, 8, 9]


def test_attention_is_that_to_the_pictures_before_a_token(
    run: LoadedRun,
) -> None:
    document = Document(
        (tiny.picture(1), Text(" red "), tiny.picture(2), Text("cat"))
    )
    said = [5, 9, 12]
    rows = image_attention(run.predictor, document, said)
    assert rows.shape == (3, 8)
    assert (rows > 0).all()
    assert (rows.sum(1) < 1).all()
    shown = describe_attention(run, document, said)
    assert [each["id"] for each in shown] == said
    assert [len(part) for part in shown[0]["images"]] == [4, 4]
    first, second = shown[2]["images"]
    assert first + second == pytest.approx(rows[2].tolist())
    # the first token was chosen before the others were there
    alone = image_attention(run.predictor, document, said[:1])
    torch.testing.assert_close(alone[0], rows[0])
    for wrong in ([], [10_000], [-1]):
        with pytest.raises(ApiError, match="ids of an answer's tokens"):
            describe_attention(run, document, wrong)
    with pytest.raises(ApiError, match="up to 2048 tokens"):
        describe_attention(run, document, [5] * 2_048)


def test_demonstrations_are_those_of_the_benchmark(run: LoadedRun) -> None:
    assert describe_run("run", run)["benchmarks"] == ["count"]
    found = describe_shots(run, "count", 3, 1)
    benchmark = run.config.benchmarks["count"].build()
    place = benchmark.chosen[1]
    asked = benchmark.question(benchmark.test[place])
    shots = benchmark.shots(asked, place, 3)
    assert [shot["answer"] for shot in found["shots"]] == [
        shot.parts[-1].content.strip() for shot in shots
    ]
    assert found["answers"] == list(asked.answers)
    assert found["question"][-1]["text"] == "how many ?"
    assert found["layout"] == "plain"
    with pytest.raises(ApiError, match="no benchmark 'counts'"):
        describe_shots(run, "counts", 3, 1)


def test_a_benchmark_is_read_once(
    run: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Miniature.Config] = []
    build = Miniature.Config.build

    def counted(config: Miniature.Config) -> Any:
        built.append(config)
        return build(config)

    monkeypatch.setattr(Miniature.Config, "build", counted)
    first = describe_shots(run, "count", 2, 0)
    assert describe_shots(run, "count", 2, 0) == first
    assert len(built) == 1


@pytest.mark.parametrize(
    "error", [FileNotFoundError, PermissionError, ConfigError]
)
def test_a_benchmarks_path_stays_in_the_log(
    run: LoadedRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    def fail(_: Miniature.Config) -> Any:
        raise error("/home/user/annotations.json is missing")

    monkeypatch.setattr(Miniature.Config, "build", fail)
    with pytest.raises(ApiError, match="missing or damaged") as caught:
        describe_shots(run, "count", 2, 0)
    assert "/home" not in str(caught.value)
    assert "/home/user/annotations.json" in caplog.text
