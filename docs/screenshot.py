"""The picture in the README: `python docs/screenshot.py runs/multidigits/report.html docs/images/report.png`.

Needs Chromium and the package playwright, which `pip install -e '.[test]'` brings.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1280, 1180


def main(page: Path, picture: Path) -> None:
    """Write what a window of WIDTH x HEIGHT shows of the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        window.goto(page.resolve().as_uri())
        window.screenshot(path=str(picture))
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
