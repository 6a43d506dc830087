"""A real Chromium, as Debian and most continuous integration have it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
ABSENT = "no Chromium here (Debian: apt-get install chromium)"
PLACE = "https://report.example/"


def program() -> str | None:
    """Where it is; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def started() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """A page that is served once, with all that it says and asks for."""

    def __init__(self, browser: Any, text: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.text = text
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.context.route("**/*", self._answer)
        self.page.goto(PLACE)

    def _answer(self, route: Any) -> None:
        self.asked.append(route.request.url)
        if route.request.url == PLACE:
            route.fulfill(body=self.text, content_type="text/html")
        else:
            route.abort()

    def serious(self) -> list[str]:
        """What axe-core finds that keeps somebody from reading it."""
        import axe_playwright_python

        program = Path(axe_playwright_python.__path__[0]) / "axe.min.js"
        self.page.evaluate(program.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run({resultTypes: ['violations']})")
        assert found["passes"], "axe looked at nothing"
        return [
            f"{one['id']}: {one['nodes'][0]['html'][:200]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
