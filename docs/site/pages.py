"""A hook of mkdocs: the repository's other pages on the site.

Pages link to README.md, LOG.md, notes in benchmarks/, READMEs and source files, all
outside of docs/. Each that is linked to becomes a page, and links are rewritten: they
work in the repository and on the site alike. The notebook becomes a page with its
stored outputs: mkdocs-jupyter would bring IPython, and load scripts from networks.
"""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
IN_NAVIGATION = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LOG.md",
)
"""Pages even if none links to them."""

OTHERS = 0.05
"""How a page outside of docs/ counts in a search, beside one of docs/."""

LINK = re.compile(
    r'(?<=\]\()[^)\s]+(?=\))|(?<=\bsrc=")[^"]+|(?<=\bsrcset=")[^"]+'
)

_origins: dict[str, Path] = {}
"""The file in the repository of each page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that pages link to, and those that these link to."""
    _origins.clear()
    waiting = [*DOCS.rglob("*.md"), *(ROOT / name for name in IN_NAVIGATION)]
    while waiting:
        path = waiting.pop()
        name = site_name(path)
        if name in _origins:
            continue
        _origins[name] = path
        text = page_text(path)
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=text))
        targets = (linked(path, link) for link in LINK.findall(text))
        waiting += (each for each in targets if each and not is_asset(each))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Rewrites links to files of the repository into links to their pages. In a search,
    pages of docs/ come before others, and source files not at all."""
    origin = _origins[page.file.src_uri]
    if DOCS not in origin.parents:
        is_source = origin.suffix != ".md"
        page.meta["search"] = {"exclude": is_source, "boost": OTHERS}
    folder = os.path.dirname(page.file.src_uri) or "."

    def rewritten(found: re.Match[str]) -> str:
        link = found.group()
        if (target := linked(origin, link)) is None:
            return link
        fragment = link.partition("#")[1:]
        return os.path.relpath(site_name(target), folder) + "".join(fragment)

    return LINK.sub(rewritten, markdown)


def linked(origin: Path, link: str) -> Path | None:
    """The file of the repository that a link leads to, if it leads to one."""
    parts = urlsplit(link)
    if parts.scheme or not parts.path:
        return None
    target = Path(os.path.normpath(origin.parent / parts.path))
    return target if target.is_file() and ROOT in target.parents else None


def is_asset(path: Path) -> bool:
    """Is it a picture, say, that mkdocs copies as it is?"""
    return DOCS in path.parents and path.suffix not in (".md", ".ipynb")


def site_name(path: Path) -> str:
    """Where the site has a file of the repository."""
    if path == ROOT / "README.md":
        return "index.md"
    if DOCS in path.parents:
        name = path.relative_to(DOCS).as_posix()
        return name.removesuffix(".ipynb") + ".md" * name.endswith(".ipynb")
    name = path.relative_to(ROOT).as_posix()
    return name if path.suffix == ".md" else f"source/{name}.md"


def page_text(path: Path) -> str:
    """A file as Markdown."""
    text = path.read_text()
    if path.suffix == ".md":
        return text
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join(part for cell in cells for part in cell_text(cell))
    name = path.relative_to(ROOT).as_posix()
    return f"# {name}\n\n````{path.suffix[1:]}\n{text.rstrip()}\n````\n"


def cell_text(cell: dict[str, Any]) -> list[str]:
    """A cell of a notebook, and its outputs: pictures, or else text."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        if "image/png" in data:
            content = "".join(data["image/png"]).replace("\n", "")
            image = f'<img alt="output" src="data:image/png;base64,{content}">'
            parts.append(image)
        else:
            text = "".join(data["text/plain"])
            parts.append(f"```text\n{text.rstrip()}\n```")
    return parts
