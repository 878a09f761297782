"""An export in an environment of its own, where mm1 was never installed: opened, and
served by `transformers serve`.

    MM1_HF_ENV=/tmp/hf-env pytest tests/export/test_mm1_served.py

The environment is made there once if there is none: some minutes and 2 GB.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import exports
import pytest
import torch
from exports import ask, compare, export, loader, model

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import image_size

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MM1_HF_ENV" not in os.environ, reason="MM1_HF_ENV names no environment"
    ),
]


@pytest.fixture(scope="module")
def python() -> Path:
    folder = Path(os.environ["MM1_HF_ENV"])
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        needs = [
            f"torch=={torch.__version__.partition('+')[0]}",
            "transformers[serving]",
            "pillow",
            "safetensors",
        ]
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *needs], check=True
        )
    found = subprocess.run(
        [python, "-I", "-c", "import mm1"], capture_output=True
    )
    assert b"No module named 'mm1'" in found.stderr
    return python


def test_it_opens_in_an_environment_without_mm1(
    python: Path, tmp_path: Path
) -> None:
    export(tmp_path, model(), loader(max_tiles=4))
    assert ask(tmp_path, python)["loaded"] == []
    compare(tmp_path)


@contextmanager
def served(folder: Path, python: Path, log: Path) -> Iterator[str]:
    """The address of `transformers serve`, once it answers."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ["--trust-remote-code", "--device", "cpu", "--port", str(port)]
    places = os.environ | {
        "HF_MODULES_CACHE": str(log.parent / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("w") as out:
        server = subprocess.Popen(
            [python.parent / "transformers", "serve", folder, *options],
            stdout=out,
            stderr=out,
            env=places,
        )
        try:
            address = f"http://localhost:{port}"
            for _ in range(600):
                assert server.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(
                        f"{address}/health", timeout=5
                    ).close()
                    break
                except urllib.error.URLError:
                    time.sleep(1)
            yield address
        finally:
            server.terminate()
            server.wait(60)


def said(address: str, folder: Path, messages: list[Any]) -> str:
    """The answer to a chat, by OpenAI's protocol."""
    body = json.dumps(
        {"model": str(folder), "max_tokens": 8, "messages": messages}
    ).encode()
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        body,
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def test_it_is_served(python: Path, tmp_path: Path) -> None:
    """Questions with no, one and two pictures, as data URLs: answers of the run
    itself."""
    export(tmp_path, model(), loader(max_tiles=4), kind="word")
    asked = exports.predictor(tmp_path / "run")
    folder = tmp_path / "hf"
    with served(folder, python, tmp_path / "log") as address:
        for num in range(3):
            pictures = [
                exports.picture(i, tmp_path).read_bytes() for i in range(num)
            ]
            urls = [
                f"data:image/png;base64,{base64.b64encode(data).decode()}"
                for data in pictures
            ]
            content: list[Any] = [
                {"type": "image_url", "image_url": {"url": url}} for url in urls
            ]
            content.append({"type": "text", "text": "red cat two"})
            images = tuple(Image(data, *image_size(data)) for data in pictures)
            wanted = asked.generate(
                [Document((*images, Text("red cat two\n")))], max_tokens=8
            )
            assert wanted[0]
            assert (
                said(address, folder, [{"role": "user", "content": content}])
                == wanted[0]
            )
