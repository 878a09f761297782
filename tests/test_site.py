"""The site in a browser: it is searched, asks nothing of other hosts, and no page is
wider than a telephone."""

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("material", reason="pip install 'mm1[docs]'")
pytest.importorskip("mkdocstrings", reason="pip install 'mm1[docs]'")
pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
PAGES = ("index", "commands", "sources", "how-to/connector", "reference/python")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def build(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--site-dir",
        str(folder),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 390)])
def test_it_is_whole_by_itself(
    browser: Any, address: str, scheme: str, width: int
) -> None:
    page = browser.new_page(
        color_scheme=scheme, viewport={"width": width, "height": 800}
    )
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    for name in PAGES:
        page.goto(f"{address}/{name}.html")
        wide = "document.documentElement.scrollWidth - innerWidth"
        assert page.evaluate(wide) <= 0, name
    page.keyboard.press("/")
    page.keyboard.type("pixel shuffle")
    found = page.locator(".md-search-result__link")
    found.first.wait_for(state="attached")
    links = [str(each.get_attribute("href")) for each in found.all()]
    assert any("connectors.html" in link for link in links)
    assert not any("/source/" in link for link in links)
    assert faults == []
    assert [url for url in asked if not url.startswith(address)] == []
    page.close()
