"""lm-evaluation-harness, run through its own command line in an environment of its own.

    MM1_LM_ENV=/tmp/lm-env pytest tests/harness/test_lm_eval.py

The environment is created there if it does not exist: some minutes and 2 GB.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from export.exports import loader, make_run, model

from mm1.data.document import Document, Text
from mm1.harness.text import TextModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MM1_LM_ENV" not in os.environ,
        reason="MM1_LM_ENV does not name an environment with lm-eval",
    ),
]

ROOT = Path(__file__).parents[2]

RECORDS = [
    {"question": "red or green?", "choices": ["red", "green cat"], "label": 0},
    {
        "question": "cat, dog",
        "choices": ["sun", "two", "three blue"],
        "label": 2,
    },
    {
        "question": "question three",
        "choices": ["answer", "dog dog"],
        "label": 1,
    },
]
COMMON = """
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
"""
TASKS = {
    "mm1_choice": (
        """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: label
"""
    ),
    "mm1_said": (
        """
output_type: generate_until
doc_to_text: "{{question}} "
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 5, do_sample: false}
metric_list: [{metric: exact_match}]
"""
    ),
    "mm1_last_word": (
        """
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[label]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
"""
    ),
    "mm1_text": (
        """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[0]}}"
metric_list: [{metric: word_perplexity}]
"""
    ),
}

SAME_RULES = """
import json, sys
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from mm1.data.tokenizer import Tokenizer
from mm1.harness.text import rolling_windows, tokenize_pair

tokenizer = Tokenizer.Config(path=sys.argv[1]).build()

class Theirs(TemplateLM):
    eot_token_id = tokenizer.end
    generate_until = loglikelihood_rolling = _loglikelihood_tokens = None

    def tok_encode(self, string, **_):
        return tokenizer.encode(string)

pieces = ["red", " red", "gre", "en", " ", "cat "]
pieces += ["\\n", "dog\\n\\n", ", sun?", "<image>", "\\u00e9"]
pairs = [(a + b, c + d) for a in pieces for b in pieces for c in pieces for d in pieces]
for pair in pairs:
    assert tokenize_pair(tokenizer, *pair) == Theirs()._encode_pair(*pair), pair
for length in range(1, 30):
    for room in range(1, 12):
        ids = list(range(length))
        ours = [(list(a), list(b)) for a, b in rolling_windows(ids, room + 1)]
        windows = get_rolling_token_windows(ids, -1, room, 1)
        first, *rest = [make_disjoint_window(w) for w in windows]
        assert first[0] == [-1]
        assert ours == [([], first[1]), *rest], (length, room)
print(len(pairs))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    folder = Path(os.environ["MM1_LM_ENV"])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--constraint",
            ROOT / "constraints.txt",
            f"{ROOT}[harness]",
        ]
        subprocess.run([python, *install], check=True)
    return python


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_run(folder, model(), loader())
    return folder


def in_its_environment(python: Path, *arguments: object) -> str:
    """With this checkout as the environment's mm1."""
    own = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [python, *map(str, arguments)],
        env=own,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def asked(
    python: Path, run: Path, folder: Path, *launcher: str
) -> tuple[str, dict[str, list[Any]]]:
    """What the command prints, and the samples it writes, by task."""
    (folder / "tasks").mkdir()
    (folder / "records.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in RECORDS)
    )
    for name, task in TASKS.items():
        text = (
            f"task: {name}\n"
            + COMMON.replace("FILE", str(folder / "records.jsonl"))
            + task
        )
        (folder / "tasks" / f"{name}.yaml").write_text(text)
    command = [
        *launcher,
        "-m",
        "mm1.harness.lm_eval",
        "--model",
        "mm1",
        "--model_args",
        f"run={run}",
    ]
    command += [
        "--tasks",
        ",".join(TASKS),
        "--include_path",
        str(folder / "tasks"),
    ]
    printed = in_its_environment(
        python, *command, "--output_path", folder / "out", "--log_samples"
    )
    files = {
        name: list((folder / "out").rglob(f"samples_{name}_*.jsonl"))
        for name in TASKS
    }
    assert all(len(paths) == 1 for paths in files.values()), files
    return printed, {
        n: [json.loads(x) for x in f[0].read_text().splitlines()]
        for n, f in files.items()
    }


def check(printed: str, samples: dict[str, list[Any]], run: Path) -> None:
    """Every number matches our own scorer."""
    ours = TextModel.load(run).predictor

    def scores(
        context: str, continuations: list[str]
    ) -> list[tuple[float, bool]]:
        return ours.score(
            [
                Document((Text(context, loss=False), Text(each)))
                for each in continuations
            ]
        )

    for name in TASKS:
        assert f"|{name}" in printed
        assert len(samples[name]) == len(RECORDS)
    for sample in samples["mm1_choice"]:
        record = sample["doc"]
        choices = scores(
            f"Question: {record['question']}\nAnswer:",
            [f" {choice}" for choice in record["choices"]],
        )
        reported = [
            (float(nats), greedy == "True")
            for ((nats, greedy),) in sample["resps"]
        ]
        assert reported == [
            (pytest.approx(nats, abs=1e-4), greedy) for nats, greedy in choices
        ]
        best = max(range(len(choices)), key=lambda i: choices[i][0])
        assert sample["acc"] == (best == record["label"])
    for sample in samples["mm1_last_word"]:
        record = sample["doc"]
        ((wanted, _),) = scores(
            record["question"], [f" {record['choices'][record['label']]}"]
        )
        assert float(sample["resps"][0][0][0]) == pytest.approx(
            wanted, abs=1e-4
        )
    for sample in samples["mm1_text"]:
        (wanted,) = ours.log_likelihood(
            [
                Document(
                    (
                        Text(
                            f"{sample['doc']['question']} {sample['doc']['choices'][0]}"
                        ),
                    )
                )
            ]
        )
        assert float(sample["resps"][0][0]) == pytest.approx(wanted, abs=1e-4)
    prompts = [
        Document((Text(f"{record['question']} "),)) for record in RECORDS
    ]
    answers = ours.generate(prompts, max_tokens=5, stop=("\n", "."))
    assert [
        sample["resps"][0][0]
        for sample in sorted(samples["mm1_said"], key=lambda s: s["doc_id"])
    ] == answers


def test_the_command_line_gives_our_own_numbers(
    python: Path, run: Path, tmp_path: Path
) -> None:
    check(*asked(python, run, tmp_path), run)


def test_ranks_share_the_requests(
    python: Path, run: Path, tmp_path: Path
) -> None:
    launcher = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    )
    check(*asked(python, run, tmp_path, *launcher), run)


def test_boundaries_and_windows_match_the_harness(
    python: Path, run: Path
) -> None:
    assert in_its_environment(python, "-c", SAME_RULES, run).strip() == str(
        11**4
    )


def test_a_mistake_is_one_line(python: Path, tmp_path: Path) -> None:
    command = [
        python,
        "-m",
        "mm1.harness.lm_eval",
        "--model",
        "mm1",
        "--model_args",
        f"run={tmp_path}",
    ]
    command += ["--tasks", "piqa"]
    own = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        env=own,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(f"mm1: {tmp_path} is no run folder")
    )
    assert "Traceback" not in done.stderr
