"""A Chromium for the tests of pages: the system's, or Playwright's.

python tests/browser.py     # says which; installs Playwright's if there is none
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
INSTALL_SECONDS = 300
"""As long may a download of 120 to 180 MB take."""


class NoBrowser(Exception):
    """There is none, or it does not start."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window.

    Raises:
        NoBrowser: there is none, or it does not start.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise NoBrowser("pip install playwright") from error
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None and not own.is_file():
            raise NoBrowser(f"there is none of {', '.join(NAMES)}, nor {own}")
        try:
            browser = playwright.chromium.launch(
                executable_path=found, args=["--no-sandbox"]
            )
        except Error as error:
            said = str(error).strip().splitlines()[0]
            raise NoBrowser(f"{found or own} does not start: {said}") from error
        yield browser
        browser.close()


def said() -> str:
    """What the tests of pages will run in; raises `NoBrowser`."""
    with chromium() as browser:
        return f"Chromium {browser.version}"


def main() -> None:
    try:
        print(said())
        return
    except NoBrowser as error:
        print(f"{error}; trying to install Playwright's", flush=True)
    try:
        install()
        print(said())
    except NoBrowser as error:
        print(f"the tests of pages will be skipped: {error}")


def install() -> None:
    """Playwright's own; raises `NoBrowser`, such as where there is no network."""
    command = [sys.executable, "-m", "playwright", "install", "chromium"]
    try:
        subprocess.run(
            command,
            timeout=INSTALL_SECONDS,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBrowser(str(error)) from error
    except subprocess.CalledProcessError as error:
        lines = error.stdout.strip().splitlines()
        reasons = [line for line in lines if line.startswith("Error")]
        raise NoBrowser((reasons or lines or ["no reason"])[0]) from error


if __name__ == "__main__":
    main()
