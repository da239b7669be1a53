"""The page as a person uses it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PLAYS = """() => {
    const video = document.querySelector('#video video')
    return video && video.readyState >= 3 && video.currentTime > 0.2 && video.videoWidth
}"""
STEP = r"""least => {
    const found = /step (\d+) of/.exec(document.querySelector('#shown')?.innerText ?? '')
    return found && Number(found[1]) >= least
}"""


class Visitor:
    """One browser, with its own storage, on the page.

    Attributes:
        hosts: that it has asked for anything.
        errors: what was written to its console.
    """

    def __init__(self, browser: Browser, url: str):
        self.context = browser.new_context(viewport={"width": 1400, "height": 1000})
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.goto(url)
        self.page.wait_for_selector("#prompt textarea")

    def ask(self, prompt: str, **values: Any) -> None:
        """Fill in the form, and press the button."""
        self.fill("prompt", prompt)
        for name, value in values.items():
            self.fill(name, value)
        self.page.click("#ask:not([disabled])")

    def give_picture(self, file: Path) -> None:
        self.page.click("text=Begin with a picture")
        self.page.set_input_files("#picture input[type=file]", file)
        self.page.wait_for_selector("#picture img")

    def fill(self, name: str, value: Any) -> None:
        self.page.fill(f"#{name} textarea, #{name} input", str(value))
        self.page.press(f"#{name} textarea, #{name} input", "Tab")

    def wait_for_value(self, name: str, value: str) -> None:
        arguments = [f"#{name} textarea, #{name} input", value]
        self.page.wait_for_function("([field, value]) => document.querySelector(field).value === value", arg=arguments)

    def wait_for_step(self, step: int) -> None:
        self.page.wait_for_function(STEP, arg=step)

    def wait_for_text(self, text: str) -> None:
        self.page.wait_for_selector(f"#shown >> text={text}")

    def wait_until_it_plays(self) -> int:
        """Returns the width of the video."""
        self.page.wait_for_selector("#ask:not([disabled])")
        return self.page.wait_for_function(PLAYS).json_value()

    def complaint(self) -> str:
        return self.page.inner_text("#shown [role=alert]")

    def in_gallery(self) -> int:
        return self.page.locator("#gallery video").count()

    def close(self) -> None:
        self.context.close()
