"""A picture of a record's HTML report, for a README or a slide: its first screen, as a PNG.

$ pip install playwright pillow        # and a Chromium: apt-get install chromium
$ gate demo --out demo
$ python docs/examples/report_picture.py demo/.gate/digits-cnn/*-a27c09e60729 report.png
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from gate import reporters
from gate.commands.report import load_record

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
WIDE, HIGH = 1080, 1500
LARGEST = 200_000
"""Bytes of the picture."""


def main() -> int:
    """0 when the picture is written."""
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("record", type=Path, help="record.json, or the folder that holds it")
    asked.add_argument("picture", type=Path)
    asked.add_argument("--dark", action="store_true")
    given = asked.parse_args()
    page = reporters.get("html").render(load_record(given.record))
    given.picture.write_bytes(small(screen(page, "dark" if given.dark else "light")))
    return 0


def screen(page: str, scheme: str) -> bytes:
    """A PNG of the top of a page."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        sys.exit("no Chromium here: apt-get install chromium")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program, args=["--no-sandbox"])
        size = {"width": WIDE, "height": HIGH}
        view = browser.new_page(viewport=size, color_scheme=scheme)
        view.set_content(page)
        taken: bytes = view.screenshot()
        browser.close()
    return taken


def small(picture: bytes) -> bytes:
    """The same with fewer colours, in at most LARGEST bytes."""
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in (128, 32, 8):
        packed = io.BytesIO()
        whole.quantize(colours).save(packed, "PNG", optimize=True)
        if packed.tell() <= LARGEST:
            return packed.getvalue()
    sys.exit(f"the picture does not fit {LARGEST} bytes: make WIDE or HIGH smaller")


if __name__ == "__main__":
    sys.exit(main())
