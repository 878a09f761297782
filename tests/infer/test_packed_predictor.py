"""Prompts at the end of packed rows: equal to single documents with isolation, and to a
forward pass over the whole row without."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny
import torch
import worlds

from mm1 import dist
from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.tokenizer import Tokenizer
from mm1.eval.benchmarks import Benchmark
from mm1.infer.packed_predictor import PackedPredictor, RenderedRow
from mm1.infer.predictor import Predictor, continued
from mm1.infer.trained_model import TrainedModel, make_renderer
from mm1.loader.collate import RenderedSegment
from mm1.loader.packed import PackedLoader
from mm1.nn.attention import PackedAttention


@dataclass
class World:
    trained: TrainedModel
    loader: PackedLoader.Config

    def packed(self, isolate: bool, restart: bool = True) -> PackedPredictor:
        loader = replace(
            self.loader, isolate=isolate, restart_positions=restart
        )
        return PackedPredictor(self.trained, loader, seed=5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = worlds.make_world(tmp_path_factory.mktemp("packed") / "world")
    run = worlds.pretrain(folder)
    tokenizer = Tokenizer.Config(path=str(folder / "text")).build()
    torch.manual_seed(3)
    model = run.model.build(vocab_size=tokenizer.vocab_size).eval()
    with torch.no_grad():  # so that answers depend on prompts
        for parameter in model.parameters():
            parameter.mul_(3.0)
    renderer = make_renderer(model, tokenizer, run.loader)
    return World(TrainedModel(model, renderer, torch.device("cpu")), run.loader)


def prompts() -> list[Document]:
    return [
        Document(
            (tiny.picture(i), Text(f" picture number {i % 3}", loss=False))
        )
        for i in range(7)
    ]


def with_answers() -> list[Document]:
    return [
        prompt + Document((Text(" shows text at last"),))
        for prompt in prompts()
    ]


def test_isolated_rows_answer_as_single_documents(world: World) -> None:
    alone = Predictor.of(world.trained)
    packed = world.packed(isolate=True)
    answers = packed.generate(prompts(), max_tokens=4)
    assert answers == alone.generate(prompts(), max_tokens=4)
    assert len(set(answers)) > 1
    tokens = [[3, 4, 9]] * 7
    assert torch.allclose(
        torch.tensor(packed.next_token_logits(prompts(), tokens)),
        torch.tensor(alone.next_token_logits(prompts(), tokens)),
        atol=1e-4,
    )
    assert packed.log_likelihood(with_answers()) == pytest.approx(
        alone.log_likelihood(with_answers()), abs=1e-4
    )


def naive_logits(packed: PackedPredictor, row: RenderedRow) -> torch.Tensor:
    """Of the token after the row, which is one document to attention."""
    lengths = [segment.stop - segment.start for segment in row]
    positions = (
        torch.cat([torch.arange(n) for n in lengths])
        if packed.loader.config.restart_positions
        else torch.arange(sum(lengths))
    )
    batch = packed._batch([row])
    ends = torch.tensor([0, sum(lengths)], dtype=torch.int32)
    model = packed.model
    hidden = model.decoder(
        model.inputs(batch), positions, PackedAttention(ends, sum(lengths))
    )
    return hidden[-1] @ model.decoder.head.T


@pytest.mark.parametrize("restart", [True, False])
@torch.no_grad()
def test_without_isolation_prompts_see_the_row(
    world: World, restart: bool
) -> None:
    packed = world.packed(isolate=False, restart=restart)
    again = world.packed(isolate=False, restart=restart)
    got = packed.next_token_logits(prompts(), [list(range(12))] * 7)
    for prompt, logits in zip(prompts(), got, strict=True):
        row = again._row(again.renderer(prompt, end=False), 0)
        assert len(row) > 1
        expected = naive_logits(again, row)[:12]
        assert torch.allclose(torch.tensor(logits), expected, atol=1e-4)


@pytest.mark.parametrize("restart", [True, False])
@torch.no_grad()
def test_answers_continue_their_rows(world: World, restart: bool) -> None:
    packed = world.packed(isolate=False, restart=restart)
    again = world.packed(isolate=False, restart=restart)
    tokenizer = again.renderer.tokenizer
    answers = packed.generate(prompts(), max_tokens=3)
    for prompt, answer in zip(prompts(), answers, strict=True):
        *before, last = again._row(again.renderer(prompt, end=False), 3)
        said: list[int] = []
        while len(said) < 3:
            document = continued(last.rendered, said)
            row = [*before, RenderedSegment.whole(document)]
            logits = naive_logits(again, row)
            logits[[tokenizer.pad, tokenizer.image]] = -torch.inf
            if (token := int(logits.argmax())) == tokenizer.end:
                break
            said.append(token)
        assert answer == tokenizer.decode(said)
    alone = Predictor.of(world.trained).generate(prompts(), max_tokens=3)
    assert answers != alone


def test_rows_keep_their_length_and_their_images(world: World) -> None:
    packed = world.packed(isolate=False)
    config = packed.loader.config
    shots = tuple(
        part for i in range(4) for part in (tiny.picture(i), Text(" page"))
    )
    for _ in range(10):
        prompt = packed.renderer(Document(shots), end=False)
        batch = packed._batch([packed._row(prompt, 5)])
        assert len(batch.tokens) <= config.sequence_length - 5
        assert len(batch.slots) <= config.max_images


def test_benchmarks_ask_in_packed_rows(world: World, tmp_path: Path) -> None:
    class Numbers(Benchmark):
        @dataclass(kw_only=True, slots=True)
        class Config(Benchmark.Config):
            pass

    alone = Numbers(Numbers.Config())
    packed = Numbers(Numbers.Config(packed_with=world.loader))
    assert type(alone._predictor(world.trained)) is Predictor
    assert isinstance(packed._predictor(world.trained), PackedPredictor)
    assert "in packed rows" in str(packed.describe_control(0))
    assert alone.describe_control(0) is None
    assert alone.settings(0) != packed.settings(0)


def test_several_ranks_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="run in one process"):
        world.packed(isolate=True)
