"""A checkpoint counts as soon as it is whole, and never before."""

from pathlib import Path

from worlds import make_world, text_only


def test_a_checkpoint_counts_before_the_next_one_is_made(
    tmp_path: Path,
) -> None:
    run = text_only(make_world(tmp_path / "world"), steps=9).build(
        folder=tmp_path / "run"
    )
    run._save_checkpoint()
    assert run.checkpoints.steps() == []
    assert run.checkpoints.pending is not None
    run.checkpoints.pending[0].result()
    run.checkpoints.settle()
    assert run.checkpoints.steps() == [0]


def test_only_the_newest_are_kept_and_half_written_ones_do_not_count(
    tmp_path: Path,
) -> None:
    run = text_only(make_world(tmp_path / "world"), steps=9).build(
        folder=tmp_path / "run"
    )
    for step in range(4):
        run.step = step
        run._save_checkpoint()
    run.checkpoints.finish()
    assert run.checkpoints.steps() == [2, 3]
    (tmp_path / "run" / "checkpoints" / "step-00000009.unfinished").mkdir()
    assert run.checkpoints.steps() == [2, 3]


def test_the_threads_that_save_end_with_the_run(tmp_path: Path) -> None:
    def threads() -> int:
        names = Path("/proc/self/task").glob("*/comm")
        return sum("gloo" in name.read_text() for name in names)

    run = text_only(
        make_world(tmp_path / "world"), steps=2, checkpoint_every=1
    ).build(folder=tmp_path / "run")
    before = threads()
    run._save_checkpoint()
    assert threads() > before
    run.fit()
    assert threads() == before
