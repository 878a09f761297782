"""The loop on a small prepared world: it learns, resumes to the byte, and gives the
same on any split of the work."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from worlds import contrastive, make_world, pretrain, reconstructive, text_only

from mm1.config import ConfigError
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.loader.loader import StepBatches
from mm1.runs.weights import load_model, load_part
from mm1.train import trainer
from mm1.train.divergence import Diverged
from mm1.train.shutdown import Interrupted
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in lines(folder) if "loss" in line]


def fit(config: Trainer.Config, folder: Path, **facts: Any) -> Path:
    config.build(folder=folder, **facts).fit()
    return folder


@pytest.fixture(scope="module")
def plain(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `pretrain` as it is, to be read alone."""
    return fit(pretrain(world), tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module", params=[pretrain, contrastive])
def whole(
    request: pytest.FixtureRequest,
    world: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Any, Path]:
    """What makes a run of this kind, and one that nothing interrupted."""
    if request.param is pretrain:
        return pretrain, request.getfixturevalue("plain")
    return request.param, fit(
        request.param(world), tmp_path_factory.mktemp("whole") / "run"
    )


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, *, how: str) -> None:
    """Makes the next run end in its `step`-th update: politely by a signal, or as `kill
    -9` does."""
    train_step = Trainer.train_step

    def ending(self: Trainer, data: StepBatches) -> None:
        train_step(self, data)
        if self.step + 1 == step:
            if how == "kill":
                if self.checkpoints.pending:
                    # A process takes its threads along; this one is not killed.
                    self.checkpoints.pending[0].exception()
                raise RuntimeError("gone")
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_step", ending)


@pytest.mark.parametrize(
    "make", [pretrain, text_only, contrastive, reconstructive]
)
def test_every_kind_of_run_learns_and_leaves_a_whole_folder(
    make: Any, world: Path, tmp_path: Path
) -> None:
    folder = fit(make(world, steps=24), tmp_path / "run")
    trained = [line for line in lines(folder) if "loss" in line]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert [line["step"] for line in trained] == list(range(2, 25, 2))
    assert any("validation" in line for line in lines(folder))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["finished"]
    assert all(count > 0 for count in summary["params"].values())
    assert {p.name for p in folder.iterdir()} >= {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "speed.jsonl",
    }
    load_model(folder, torch.device("cpu"))


def test_losses_and_tokens_are_logged_by_source(plain: Path) -> None:
    last = [line for line in lines(plain) if "loss" in line][-1]
    assert {
        "loss/pages",
        "loss/captions",
        "loss/text",
        "tokens/pages",
        "epoch/text",
        "skipped_documents/pages",
    } <= last.keys()
    assert last["tokens"] == 2 * 4 * 64  # two steps since the line before
    assert last["unpadded_tokens"] == sum(
        last[f"tokens/{name}"] for name in ("pages", "captions", "text")
    )


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("step", "how"),
    [
        (7, "kill"),
        (7, "signal"),
        pytest.param(3, "kill", marks=LONG),
        pytest.param(12, "kill", marks=LONG),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(
    whole: tuple[Any, Path],
    step: int,
    how: str,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, uncut = whole
    with monkeypatch.context() as patch:
        stop_at(patch, step, how=how)
        with pytest.raises(RuntimeError if how == "kill" else Interrupted):
            fit(make(world), tmp_path / "cut")
    cut = fit(make(world), tmp_path / "cut", resume=True)
    assert (cut / "metrics.jsonl").read_bytes() == (
        uncut / "metrics.jsonl"
    ).read_bytes()
    one = load_file(uncut / "model.safetensors")
    two = load_file(cut / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one | two)


def test_the_end_of_a_run_can_be_repeated(
    plain: Path, world: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "run"))
    before = (folder / "metrics.jsonl").read_bytes()
    fit(pretrain(world), folder, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_folder_holds_one_run(world: Path, tmp_path: Path) -> None:
    folder = fit(text_only(world, steps=1), tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        fit(text_only(world, steps=1), folder)


def test_micro_batches_do_not_change_the_result(
    plain: Path, world: Path, tmp_path: Path
) -> None:
    """Losses of 12 steps: worst measured 1.2e-7 relative; the order of fp32 sums
    differs."""
    for micro_batch_size in (4, 1):
        config = pretrain(world)
        assert config.loader.micro_batch_size == 2
        config.loader.micro_batch_size = micro_batch_size
        assert losses(
            fit(config, tmp_path / str(micro_batch_size))
        ) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.slow
def test_activation_checkpointing_does_not_change_the_result(
    plain: Path, world: Path, tmp_path: Path
) -> None:
    for mode in ("full", "selective"):
        run = fit(
            pretrain(world, activation_checkpointing=mode), tmp_path / mode
        )
        assert losses(run) == pytest.approx(losses(plain), rel=1e-6)


def test_bf16_computes_and_keeps_weights_in_fp32(
    world: Path, tmp_path: Path
) -> None:
    folder = fit(pretrain(world, precision="bf16", steps=4), tmp_path / "run")
    assert {
        t.dtype for t in load_file(folder / "model.safetensors").values()
    } == {torch.float32}
    assert (
        next(load_model(folder, torch.device("cpu"))[0].parameters()).dtype
        == torch.bfloat16
    )


def test_parts_start_from_other_runs_and_stay_frozen(
    world: Path, tmp_path: Path
) -> None:
    clip = fit(contrastive(world, steps=2), tmp_path / "clip")
    lm = fit(text_only(world, steps=2), tmp_path / "lm")
    config = pretrain(
        world,
        steps=2,
        init={"encoder": str(clip), "decoder": str(lm)},
        frozen=("encoder",),
    )
    joint = load_file(fit(config, tmp_path / "joint") / "model.safetensors")
    origin = load_file(clip / "model.safetensors")
    encoder = {
        name: t for name, t in origin.items() if name.startswith("encoder.")
    }
    assert all(
        torch.equal(joint[name], tensor) for name, tensor in encoder.items()
    )
    started = load_file(lm / "model.safetensors")
    assert any(
        not torch.equal(joint[name], tensor) for name, tensor in started.items()
    )


def test_parts_at_another_resolution_are_interpolated(
    world: Path, tmp_path: Path
) -> None:
    clip = fit(contrastive(world, steps=1), tmp_path / "clip")
    config = pretrain(world, steps=1, init={"encoder": str(clip)})
    config.model.encoder.image_size = 16
    joint = load_file(fit(config, tmp_path / "joint") / "model.safetensors")
    assert joint["encoder.position"].shape == (4, 4, 16)


def test_a_part_that_does_not_fit_is_named(world: Path, tmp_path: Path) -> None:
    lm = fit(text_only(world, steps=1), tmp_path / "lm")
    config = text_only(world)
    config.model.decoder.dim = 64
    model = config.model.build(vocab_size=30)
    tokenizer = Tokenizer.Config(path=str(lm)).build()
    with pytest.raises(ConfigError, match=r"decoder.*does not fit.*blocks\.0"):
        load_part(model, "decoder", lm, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="did you mean 'decoder'"):
        load_part(model, "decodr", lm, tokenizer=tokenizer)
    with pytest.raises(FileNotFoundError, match="not finished"):
        load_part(model, "decoder", tmp_path, tokenizer=tokenizer)
    other = train_tokenizer(
        ["other words"], tmp_path / "tokenizer.json", vocab_size=300
    )
    with pytest.raises(
        ConfigError,
        match=f"was trained with the tokenizer .* prepare them with --tokenizer {lm}",
    ):
        load_part(model, "decoder", lm, tokenizer=other)


def test_a_run_that_stays_broken_stops(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = text_only(world, steps=100).build(folder=tmp_path / "run")
    monkeypatch.setattr(
        run.optimizer,
        "step",
        lambda lr: (torch.tensor(torch.nan), torch.ones(())),
    )
    with pytest.raises(Diverged, match="peak_lr"):
        run.fit()


def test_rows_that_do_not_divide_are_an_error_before_training(
    world: Path, tmp_path: Path
) -> None:
    config = pretrain(world)
    config.loader.micro_batch_size = 3
    with pytest.raises(ConfigError, match="does not divide"):
        fit(config, tmp_path / "run")


def test_a_run_steps_at_the_rates_of_its_scheduler(
    world: Path, tmp_path: Path
) -> None:
    run = text_only(world, steps=3).build(folder=tmp_path / "run")
    step = run.optimizer.step
    rates: list[float] = []

    def watched(lr: float) -> Any:
        rates.append(lr)
        return step(lr)

    run.optimizer.step = watched  # type: ignore[method-assign]
    run.fit()
    assert rates == [run.scheduler.learning_rate(step) for step in range(3)]
    assert len(set(rates)) == 3


def test_a_seed_draws_weights_and_data(world: Path, tmp_path: Path) -> None:
    starts = []
    for number, seed in enumerate((0, 0, 1)):
        run = text_only(world, seed=seed).build(folder=tmp_path / str(number))
        data = next(run.loader.steps(None, rank=0, world_size=1))
        weights = run.model.get_parameter(
            "decoder.blocks.0.attention.out.weight"
        )
        full = getattr(weights, "full_tensor", lambda w=weights: w)().detach()
        starts.append((full, data.micro_batches[0].tokens))
        with run.lock:
            pass
    one, again, other = starts
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))


def test_what_a_step_draws_depends_on_its_number_and_the_seed(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step has a state of its own, another one with another seed, and a run that
    goes on has those of the whole."""
    drawn: list[float] = []
    count = trainer.accumulate_gradients

    def watched(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            drawn.append(float(torch.rand(())))
        return count(*args, **kwargs)

    monkeypatch.setattr(trainer, "accumulate_gradients", watched)
    for seed in (0, 1):
        text_only(world, steps=4, seed=seed).build(
            folder=tmp_path / f"whole-{seed}"
        ).fit()
    whole = drawn[:4]
    assert len(set(drawn)) == len(drawn) == 8
    drawn.clear()
    config = text_only(world, steps=2, seed=0)
    config.build(folder=tmp_path / "cut").fit()
    config.steps = 4
    config.build(folder=tmp_path / "cut", resume=True).fit()
    assert drawn == whole
