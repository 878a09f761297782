"""Kills `mm1` at random moments, as `kill -9` and the kernel do when memory runs out,
runs the same command again until it ends, and compares every byte with a run that
nothing disturbed.

    python benchmarks/kills.py --kills 200 --out benchmarks/kills.md
    python benchmarks/kills.py --kills 4 --only prepare train    # the short form

What is killed is the command alone, the command with all of its processes, or one of
its processes (a rank, a worker, their fork server), which the command must then notice.
After each kill it looks for what is left behind: processes, shared memory, files in the
temporary folder, and at the end unfinished files.

Data, models and questions are those of the miniature world, made small, so that a
command takes seconds and kills fall into every part of its work. For the same reason
commands are forked from a process that has imported mm1, as importing takes longer than
all the rest; ranks, runs of a study and workers are started as they always are.
"""

import argparse
import functools
import hashlib
import importlib
import json
import multiprocessing
import multiprocessing.util
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "MM1_KILLS_MARK"
"""In the environment of every process of a command, whoever started it."""
GRACE_SECONDS = 20.0
"""For processes to notice that the one they worked for is gone."""
HANG_SECONDS = 240.0
UNEQUAL = re.compile(
    r"(.*/)?(speed\.jsonl|report\.md|log\.txt|attempts\.jsonl|writer\.lock|[^/]*\.html"
    r"|\.metadata|step-\d+/checksums\.json)"
)
"""What two undisturbed runs do not have in common: times, and the random name that
torch gives a checkpoint."""
SMALL = {"captions": 240, "pages": 120, "texts": 240, "conversations": 120}
SHARES = {
    "prepare": 5,
    "prepare, 2 workers": 3,
    "train": 6,
    "train, 2 workers": 2,
    "train, 2 ranks": 2,
    "train, 2 ranks, 2 workers": 1,
    "eval": 4,
    "study": 1,
    "demo": 2,
}
"""Command -> its part of the kills."""

TWO_RANKS = ("torchrun", "--standalone", "--nproc-per-node=2", "-m", "mm1.cli")


@dataclass
class Result:
    """What became of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    """By what was killed."""
    ends: int = 0
    """How often the command came to its end after kills."""
    lost: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    sockets: int = 0
    """Folders that Python's fork server keeps its socket in."""
    slowest: float = 0.0
    """Seconds until the last process of a killed command was gone."""


class Command:
    """A command in a forked process, with a session of its own."""

    def __init__(
        self, words: list[str], log: Path, environment: dict[str, str]
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                os.environ |= environment
                tempfile.tempdir = None
                with log.open("a") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                code = run_words(words)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                finish_process(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, seconds: float = HANG_SECONDS) -> int:
        """Raises TimeoutError."""
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.005)
        return code


def run_words(words: list[str]) -> int:
    """Runs a command in this process, and returns its exit code."""
    if words[0] == "torchrun":
        from torch.distributed.run import main as torchrun

        torchrun(words[1:])
        return 0
    if words[0] == "mm1":
        from mm1.cli import main as mm1

        sys.argv = words
        mm1()
        return 0
    return child(words[0], Path(words[1]))


def finish_process(code: int) -> None:
    """As the interpreter would, had it started here."""
    with suppress(BaseException):
        multiprocessing.util._exit_function()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class Campaign:
    """One command that is killed again and again in folders of its own."""

    def __init__(self, name: str, work: Path, rng: random.Random) -> None:
        self.name = name
        self.work = work
        self.rng = rng
        self.result = Result()
        self.place = work / re.sub(r"\W+", "-", name)
        self.temporary = self.place / "tmp"
        self.temporary.mkdir(parents=True)
        self.folder = self.place / "out"
        self.usual: set[str] = set()
        """What an undisturbed command leaves behind: torchrun a folder for logs."""
        self.sessions: set[int] = set()
        self.mark = uuid.uuid4().hex
        self.shared = set(os.listdir("/dev/shm"))
        self.before_writing = 0.0
        self.writing = 0.0
        self.expected: dict[str, str] = {}

    def run(self, kills: int, count: Any) -> Result:
        self._undisturbed()
        while self.result.kills.total() < kills:
            # Always the same path: some files name it.
            folder = self.folder
            # The last life takes all kills that are left.
            while self.result.kills.total() < kills:
                if not self._start_and_kill(folder):
                    break
                with count:
                    count.value += 1
            if self._finish(folder):
                self._compare(folder)
            for path in self.place.glob(f"{folder.name}*"):
                shutil.rmtree(path)
        return self.result

    def _undisturbed(self) -> None:
        folder = self.folder
        started = time.monotonic()
        process = self._start(folder)
        self._wait_for_change(process, folder)
        self.before_writing = time.monotonic() - started
        code = process.wait()
        self.writing = time.monotonic() - started - self.before_writing
        if code not in self._good_codes():
            log = (self.place / "log.txt").read_text(errors="replace")
            raise RuntimeError(f"it does not run: {log[-2000:]}")
        self.expected = contents(folder)
        shutil.rmtree(folder)
        self._left_behind("")
        self.usual = {plain(text) for text in self.result.left}
        self.result = Result()

    def _good_codes(self) -> tuple[int, ...]:
        # What the small models learn does not pass the demo's checks.
        return (0, 1) if self.name == "demo" else (0,)

    def _start(self, folder: Path) -> Command:
        words = command(self.name, self.work, folder)
        environment = {MARK: self.mark, "TMPDIR": str(self.temporary)}
        started = Command(words, self.place / "log.txt", environment)
        self.sessions.add(started.pid)
        return started

    def _start_and_kill(self, folder: Path) -> bool:
        """Returns False if the command ended before its time had come."""
        before = fingerprint(folder)
        process = self._start(folder)
        if self.rng.random() < 0.2:
            wait(process, self.rng.uniform(0, self.before_writing))
        else:
            self._wait_for_change(process, folder, before)
            wait(process, self.rng.uniform(0, self.writing / 3))
        if process.poll() is not None:
            if process.returncode not in self._good_codes():
                self._lose(f"ended with {process.returncode}: {self._log()}")
            return False
        self._kill(process)
        return True

    def _kill(self, process: Command) -> None:
        others = [
            pid
            for pid in marked(self.mark, self.sessions)
            if pid != process.pid
        ]
        kind = self.rng.choice(
            ("command", "all", "one") if others else ("all",)
        )
        if kind == "one":
            victims = [self.rng.choice(others)]
        elif kind == "command":
            victims = [process.pid]
        else:
            # Stopped first, so that none sees another one go.
            victims = [process.pid, *others]
            for pid in victims:
                send(pid, signal.SIGSTOP)
        for pid in victims:
            send(pid, signal.SIGKILL)
        self.result.kills[kind if others else "command"] += 1
        try:
            process.wait(HANG_SECONDS)
        except TimeoutError:
            self._lose(
                f"hung after one of its processes was killed: {self._log()}"
            )
            send(process.pid, signal.SIGKILL)
            process.wait()
        self._left_behind(kind)

    def _left_behind(self, kind: str) -> None:
        """Waits for processes to go, and notes what stays."""
        started = time.monotonic()
        while (alive := marked(self.mark, self.sessions)) and (
            time.monotonic() - started < GRACE_SECONDS
        ):
            time.sleep(0.05)
        self.result.slowest = max(
            self.result.slowest, time.monotonic() - started
        )
        for pid in alive:
            self._leave(f"process: {named(pid)}", kind)
            send(pid, signal.SIGKILL)
        for path in sorted(self.temporary.iterdir()):
            self._leave(f"temporary: {path.name}", kind)
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        for name in sorted(set(os.listdir("/dev/shm")) - self.shared):
            owner = re.match(r"torch_(\d+)_", name)
            if owner and not Path("/proc", owner[1]).exists():
                self._leave(f"shared memory: {name}", kind)
                self.shared.add(name)

    def _finish(self, folder: Path) -> bool:
        process = self._start(folder)
        try:
            code = process.wait(HANG_SECONDS)
        except TimeoutError:
            self._lose(f"hung: {self._log()}")
            send(process.pid, signal.SIGKILL)
            return False
        self._left_behind("end")
        if code not in self._good_codes():
            self._lose(f"ended with {code}: {self._log()}")
            return False
        self.result.ends += 1
        return True

    def _compare(self, folder: Path) -> None:
        found = contents(folder)
        for name in sorted(found.keys() | self.expected.keys()):
            if found.get(name) == self.expected.get(name):
                continue
            if name not in self.expected:
                self._leave(f"file: {name}", "end")
            else:
                now = "is missing" if name not in found else "has other bytes"
                self._lose(f"{name} {now}")

    def _wait_for_change(
        self, process: Command, folder: Path, before: str = ""
    ) -> None:
        while process.poll() is None and fingerprint(folder) == before:
            time.sleep(0.02)

    def _leave(self, what: str, kind: str) -> None:
        if plain(what) == "temporary: pymp-*":
            self.result.sockets += 1
        elif plain(what) not in self.usual:
            self.result.left.append(f"{what} ({kind})" if kind else what)

    def _lose(self, what: str) -> None:
        self.result.lost.append(what)

    def _log(self) -> str:
        lines = (self.place / "log.txt").read_text(errors="replace").split("\n")
        return next((x.strip() for x in reversed(lines) if x.strip()), "")


def command(name: str, work: Path, folder: Path) -> list[str]:
    """The words of a command that writes, or resumes, a folder."""
    kind, *options = name.split(", ")
    workers = "2" if "2 workers" in options else "0"
    out = ("--out", str(folder))
    if kind == "prepare":
        raw = work / "many"
        number = ("--workers", "2") if workers == "2" else ()
        tokenizer = ("--tokenizer", str(work / "world" / "tokenizer.json"))
        return [
            "mm1",
            "prepare",
            "captions",
            str(raw),
            *tokenizer,
            *number,
            *out,
        ]
    if kind == "train":
        start = TWO_RANKS if "2 ranks" in options else ("mm1",)
        config = str(work / "train.json")
        return [
            *start,
            "train",
            config,
            "--resume",
            f"loader.workers={workers}",
            *out,
        ]
    if kind == "eval":
        return ["mm1", "eval", str(work / "trained"), *out]
    return [kind, str(folder)]


def contents(folder: Path) -> dict[str, str]:
    """File -> hash, without what differs between undisturbed runs; names of folders do
    not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not UNEQUAL.fullmatch(name):
            data = path.read_bytes()
            if path.name == "manifest.json":
                # When raw files were written, which demo and study do themselves.
                data = re.sub(rb'"modified": \d+', b"", data)
            found[name] = hashlib.sha256(data).hexdigest()
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = "empty"
    return found


def fingerprint(folder: Path) -> str:
    """Changes as soon as anything in the folder does."""
    if not folder.parent.is_dir():
        return ""
    found = []
    for root in sorted(folder.parent.glob(f"{folder.name}*")):
        # os.walk passes over what vanishes meanwhile.
        for place, _, names in os.walk(root):
            for name in sorted(names):
                path = Path(place, name)
                if name != "writer.lock":
                    with suppress(FileNotFoundError):
                        state = path.stat()
                        found.append(
                            f"{path} {state.st_size} {state.st_mtime_ns}"
                        )
    return "\n".join(found)


def marked(mark: str, sessions: set[int]) -> list[int]:
    """Living processes of a command: those of its sessions, and those that were started
    with its environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state = (place / "stat").read_text().rpartition(")")[2].split()
            environment = (place / "environ").read_bytes()
            if state[0] != "Z" and (
                int(state[3]) in sessions
                or f"{MARK}={mark}".encode() in environment
            ):
                found.append(int(place.name))
        except OSError:
            continue
    return found


def named(pid: int) -> str:
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone by now"
    return b" ".join(words).decode(errors="replace")[:120]


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait(process: Command, seconds: float) -> None:
    with suppress(TimeoutError):
        process.wait(seconds)


# --- the commands, made small


def shrink() -> None:
    """Makes the miniature world, its stages and its questions small."""
    from mm1.miniature import ablations, demo
    from mm1.miniature.world import prepared
    from mm1.miniature.world.raw_files import Amounts

    prepared.Amounts = lambda: Amounts(**SMALL)  # type: ignore[assignment]
    prepared.NUM_FOUR_OBJECTS = 60
    for name, recipe in demo.STAGES.items():
        demo.STAGES[name] = made_small(recipe)
    ablations.STEPS = 6


def made_small(recipe: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(recipe)
    def made(folder: str) -> Any:
        return small(recipe(folder))

    return made


def small(config: Any) -> Any:
    config.steps = 8
    config.log_every = 2
    config.checkpoint_every = 2
    config.validate_every = 0
    config.scheduler.warmup_steps = 2
    if hasattr(config.loader, "packing_window"):
        config.loader.packing_window = 16
    for benchmark in config.benchmarks.values():
        if hasattr(benchmark, "num_questions"):
            benchmark.num_questions = 12
    return config


def child(kind: str, out: Path) -> int:
    """`mm1 demo` or `mm1 study` of the small world."""
    shrink()
    from mm1.cli import main
    from mm1.miniature.demo import run_demo

    if kind == "demo":
        return run_demo(out)
    questions = ("shots=(0,)", "steps=6", "checkpoint_every=2", "log_every=2")
    sys.argv = [
        *("mm1", "study", "miniature_isolation", "--seeds", "0", "--jobs", "2"),
        *("--out", str(out), *questions, "scheduler.warmup_steps=2"),
    ]
    main()
    return 0


def make_inputs(work: Path) -> None:
    """The world, a config to train, and a trained run to evaluate."""
    shrink()
    from mm1 import config as configs
    from mm1.miniature.demo import STAGES
    from mm1.miniature.recipes import miniature_pretrain
    from mm1.miniature.world.prepared import prepare_world

    prepare_world(work / "world")
    many = work / "many"
    many.mkdir()
    for tar in sorted((work / "world" / "raw" / "captions").glob("*.tar")):
        for number in range(12):
            shutil.copy(tar, many / f"{number:02}-{tar.name}")
    assert "pretrain" in STAGES
    config = small(miniature_pretrain(str(work)))
    config.init = {}
    config.steps = 40
    config.loader.micro_batch_size = 4  # two ranks have one each
    config.benchmarks = {}
    (work / "train.json").write_text(json.dumps(configs.to_json(config)))
    config = small(miniature_pretrain(str(work)))
    config.init = {}
    config.steps = 2
    questions = config.benchmarks
    config.benchmarks = {}
    config.build(folder=work / "trained").fit()
    config.benchmarks = questions
    from mm1.runs.description import write_config

    write_config(work / "trained", config)


# --- the campaign


def shares(names: list[str], kills: int) -> dict[str, int]:
    """Kills by command, in proportion to `SHARES`, each at least one."""
    total = sum(SHARES[name] for name in names)
    counts = {n: max(1, kills * SHARES[n] // total) for n in names}
    while sum(counts.values()) < kills:
        name = min(names, key=lambda n: counts[n] / SHARES[n])
        counts[name] += 1
    return counts


def run_campaign(
    names: list[str], kills: int, seed: int, jobs: int, work: Path
) -> dict[str, Result]:
    from mm1.progress import ProgressBar

    counts = shares(names, kills)
    total = sum(counts.values())
    context = multiprocessing.get_context("fork")
    count = context.Value("i", 0)
    with (
        ProgressBar("kills", total, transient=False) as bar,
        ProcessPoolExecutor(
            jobs, context, initializer=share_count, initargs=(count,)
        ) as pool,
    ):
        futures = {
            name: pool.submit(run_one, name, work, seed, counts[name])
            for name in sorted(names, key=lambda name: -counts[name])
        }
        while wait_for_futures(futures.values(), timeout=1.0).not_done:
            bar.update(count.value)
        bar.update(count.value, at_once=True)
    return {name: futures[name].result() for name in names}


COUNT: Any = None
"""Kills of all commands so far, in a process of the pool."""


def share_count(count: Any) -> None:
    global COUNT
    COUNT = count


def run_one(name: str, work: Path, seed: int, kills: int) -> Result:
    campaign = Campaign(name, work, random.Random(f"{seed} {name}"))
    try:
        campaign.run(kills, COUNT)
    except Exception as error:  # the other commands' results count all the same
        campaign.result.lost.append(f"{type(error).__name__}: {error}")
    print(f"{name}: {campaign.result}", file=sys.stderr, flush=True)
    return campaign.result


def in_a_fork(function: Callable[..., object], *arguments: Any) -> None:
    """So that this process starts no threads, which its own forks would lack."""
    process = multiprocessing.get_context("fork").Process(
        target=function, args=arguments
    )
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def import_everything() -> None:
    for module in (
        *("mm1.cli", "mm1.catalog", "mm1.miniature.demo", "mm1.study.runner"),
        *("mm1.prepare.pipeline", "mm1.train.trainer", "mm1.eval.evaluate"),
        *("datasets", "torch.distributed.run"),
    ):
        importlib.import_module(module)


def table(results: dict[str, Result]) -> Iterator[str]:
    kinds = ("command", "all", "one")
    yield (
        "| command | kills | of the command | of all its processes | of one of them |"
        " ends | lost | left behind | last process gone after |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, r in results.items():
        split = " | ".join(str(r.kills[kind]) for kind in kinds)
        yield (
            f"| {name} | {r.kills.total()} | {split} | {r.ends} | {len(r.lost)} |"
            f" {len(r.left)} | {r.slowest:.1f} s |"
        )
    split = " | ".join(
        str(sum(r.kills[kind] for r in results.values())) for kind in kinds
    )
    every = results.values()
    yield (
        f"| all | {sum(r.kills.total() for r in every)} | {split} |"
        f" {sum(r.ends for r in every)} | {sum(len(r.lost) for r in every)} |"
        f" {sum(len(r.left) for r in every)} |"
        f" {max(r.slowest for r in every):.1f} s |"
    )


def note(results: dict[str, Result], seconds: float) -> str:
    import torch

    cores = len(os.sched_getaffinity(0))
    lines = [
        "# Kills",
        "",
        (__doc__ or "").split("\n\n")[0].replace("\n", " "),
        "",
        f"    python benchmarks/kills.py {' '.join(sys.argv[1:])}",
        "",
        f"{platform.machine()}, {cores} cores, {platform.system()}"
        f" {platform.release()}, Python {platform.python_version()}, torch"
        f" {torch.__version__}; {seconds / 60:.0f} minutes.",
        "",
        *table(results),
        "",
        "*Ends*: how often a command came to its end after kills, and was compared."
        " *Lost*: a file with other bytes or none, a command that did not resume, or"
        " one that hung. *Left behind*: a process that lived"
        f" {GRACE_SECONDS:.0f} s longer than its command, shared memory, a file in the"
        " temporary folder, or a file that an undisturbed run does not have; what an"
        " undisturbed one leaves, too, does not count (torchrun: a folder for logs).",
    ]
    if sockets := sum(result.sockets for result in results.values()):
        lines += [
            "",
            f"Not counted: {sockets} folders `pymp-*` in the temporary folder, in which"
            " Python's `multiprocessing` keeps its fork server's socket. Python removes"
            " them where a process ends, not where it is killed.",
        ]
    for what in ("lost", "left"):
        found = Counter(
            f"{name}: {plain(text)}"
            for name, result in results.items()
            for text in getattr(result, what)
        )
        if found:
            title = {"lost": "Lost", "left": "Left behind"}[what]
            lines += ["", f"## {title}", ""]
            lines += [f"- {n} x {text}" for text, n in found.most_common()]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Without random names."""
    text = re.sub(r"(pymp|torchelastic|tmp)[-_]?\w+", r"\1-*", text)
    return re.sub(r"torch_\d+_\w+", "torch_*", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--jobs", type=int, default=2, help="commands at a time"
    )
    parser.add_argument(
        "--only", nargs="+", choices=sorted(SHARES), default=list(SHARES)
    )
    parser.add_argument("--out", type=Path, help="the note")
    arguments = parser.parse_args()
    # Before torch is loaded, and for every process that is started later.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mm1-kills-") as folder:
        work = Path(folder)
        import_everything()
        in_a_fork(make_inputs, work)
        results = run_campaign(
            arguments.only,
            arguments.kills,
            arguments.seed,
            arguments.jobs,
            work,
        )
    text = note(results, time.monotonic() - started)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(text)
    return int(any(r.lost or r.left for r in results.values()))


if __name__ == "__main__":
    sys.exit(main())
