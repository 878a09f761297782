"""A job on this machine: an agent of torchrun for each node, all on loopback.

Agents and ranks may be killed at any time. torchrun starts ranks again; when an agent
is gone, all of them are stopped and started again from the newest checkpoint.
"""

import ctypes
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import mm1
from mm1.dist import PR_SET_PDEATHSIG, say
from mm1.launch.final_exit import FINAL_CODES, final_exit_code
from mm1.launch.job import TrainingJob, render
from mm1.runs.layout import checkpoint_steps
from mm1.stop_signals import leave_closed_terminal, stop_signals

AGAIN_CODE = 75
"""Exit code of a run that was stopped by a signal and has saved."""
POLL_SECONDS = 0.2
MARGIN_SECONDS = 15
"""What torchrun may take to end, after its ranks have."""
PR_SET_CHILD_SUBREAPER = 36
"""From <linux/prctl.h>."""
FAILURE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""What torchrun writes of a rank."""


def run_here(job: TrainingJob) -> int:
    """Trains until the run is finished, and returns an exit code as `mm1 train` does.

    A signal of `stop_signals` stops it with a checkpoint; a second one, at once.
    """
    script = render("here.sh", job, ranks_per_machine=job.nodes * job.processes)
    with signals_noted() as received, _orphans_adopted():
        failures = 0
        for number in itertools.count():
            steps = checkpoint_steps(job.out)
            attempt = _Attempt(job, script, number, received)
            code = attempt.run()
            if code is not None:
                return code
            failures = 0 if checkpoint_steps(job.out) != steps else failures + 1
            if failures > job.max_restarts:
                say(
                    f"mm1: failed {failures} times in a row without a new checkpoint;"
                    f" see {attempt.logs}"
                )
                return 1
            newest = (checkpoint_steps(job.out) or [0])[-1]
            say(f"starting all {job.nodes} nodes again from step {newest}")
    raise AssertionError("unreachable")


class _Attempt:
    """All agents, from when they are started until all are gone."""

    def __init__(
        self,
        job: TrainingJob,
        script: str,
        number: int,
        received: list[int],
    ) -> None:
        self.job = job
        self.received = received
        self.others = set(_children())
        """Children of this process that are not of the job."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{number}"
        self.logs = job.out / "logs" / name
        self.logs.mkdir(parents=True)
        shown: set[str] = set()
        port = str(_free_port())
        self.agents = [
            _Agent(
                self.logs,
                node,
                (script, "here.sh", str(node), name, port),
                job,
                shown,
            )
            for node in range(job.nodes)
        ]

    def run(self) -> int | None:
        """Returns the exit code, or None if the job is to be started again."""
        told = self._wait()
        lost = [agent for agent in self.agents if agent.process.poll()]
        self._stop()
        for agent in self.agents:
            agent.log.close()
        if not any(agent.process.returncode for agent in self.agents):
            return 0
        final = final_exit_code(self.logs / "exit-code")
        if final is None and not told:
            for agent in lost:
                say(agent.ending())
        return final or (AGAIN_CODE if told else None)

    def _wait(self) -> bool:
        """Waits for the end of one agent in error, or of all; True if told to stop."""
        while not self.received:
            codes = [agent.process.poll() for agent in self.agents]
            self._left()
            if any(codes) or None not in codes:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _stop(self) -> None:
        """Asks all that is left to save and end; kills what does not in time, or when
        a second signal comes."""
        for agent in self.agents:
            if agent.process.poll() is None:
                agent.process.terminate()
        before = len(self.received)
        limit = time.monotonic() + self.job.shutdown_timeout + MARGIN_SECONDS
        while self._left() and len(self.received) == before:
            if time.monotonic() > limit:
                say("mm1: not stopped in time, and killed")
                break
            time.sleep(POLL_SECONDS)
        while left := self._left():
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(POLL_SECONDS)

    def _left(self) -> list[int]:
        """The numbers of agents that run, and of what has lost its parent: ranks whose
        agent is gone, workers whose rank is."""
        self._follow()
        agents = {agent.process.pid: agent for agent in self.agents}
        return [
            number
            for number in set(_children()) - self.others
            if (
                agents[number].process.poll() is None
                if number in agents
                else os.waitpid(number, os.WNOHANG) == (0, 0)
            )
        ]

    def _follow(self) -> None:
        for agent in self.agents:
            agent.follow()


class _Agent:
    """torchrun for one node, with a log that the run's progress is read from."""

    def __init__(
        self,
        logs: Path,
        node: int,
        words: tuple[str, ...],
        job: TrainingJob,
        shown: set[str],
    ) -> None:
        """`shown` are the errors that have been shown, by any agent."""
        self.node = node
        self.path = logs / f"node-{node}.log"
        self.shown = shown
        environment = os.environ | python_environment() | _gpus_of(node, job)
        with self.path.open("w") as log:
            # In a session of its own: Ctrl-C in a terminal reaches this process alone.
            self.process = subprocess.Popen(
                ("bash", "-c", *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self.log = self.path.open(errors="replace")
        self.part = ""

    def follow(self) -> None:
        """Shows what is new: all that rank 0 says, and others' errors."""
        self.part += self.log.read()
        *lines, self.part = self.part.split("\n")
        for line in lines:
            rank, _, words = line.rpartition("]: ")
            failure = FAILURE.search(line)
            if words.startswith("mm1: "):
                if words not in self.shown:
                    self._say(words)
                self.shown.add(words)
            elif rank == "[rank0":
                self._say(words)
            elif failure and int(failure[1]) not in FINAL_CODES:
                self._say(
                    f"rank {failure[2]} of node {self.node}"
                    f" {_ended(int(failure[1]))}; see {self.path}"
                )

    def ending(self) -> str:
        """What became of it."""
        code = self.process.returncode
        return f"node {self.node} {_ended(code)}; see {self.path}"

    def _say(self, words: str) -> None:
        print(words, file=sys.stderr, flush=True)


def python_environment() -> dict[str, str]:
    """What lets another Python find this package."""
    path = [
        str(Path(mm1.__path__[0]).parent),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def _ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _gpus_of(node: int, job: TrainingJob) -> dict[str, str]:
    """Each agent numbers its ranks' GPUs from 0, among those it sees."""
    count = job.gpus_per_node
    if not count or job.nodes == 1:
        return {}
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        known.split(",")
        if known
        else [str(number) for number in range(count * job.nodes)]
    )
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(
            names[count * node : count * (node + 1)]
        )
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_with_parent() -> None:
    """Has the kernel send SIGTERM when what started this process is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(word) for word in text.split()]


@contextmanager
def _orphans_adopted() -> Iterator[None]:
    """Ranks whose agent is killed become children of this process, which waits for
    them: nothing of a start writes when the next one begins."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Notes signals that stop a run in a list."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        leave_closed_terminal()
        received.append(number)

    before = {number: signal.signal(number, note) for number in stop_signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
