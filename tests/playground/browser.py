"""A headless Chromium that shows the playground, driven as a person would: by typing, clicking and looking."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

__all__ = ["Browser", "Select"]

SECONDS = 60
DRIVER = "/usr/bin/chromedriver"


class Browser:
    """One window on the page."""

    def __init__(
        self,
        chromium: str,
        address: str,
        net_log: Path,
        size: tuple[int, int] = (1280, 900),
        phone: bool = False,
        dark: bool = False,
    ) -> None:
        self.address = address
        self.net_log = net_log
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        arguments = [
            "headless=new",
            "disable-dev-shm-usage",
            f"log-net-log={net_log}",
            f"window-size={size[0]},{size[1]}",
        ]
        if os.geteuid() == 0:
            arguments.append("no-sandbox")  # which Chromium refuses to have as root
        for argument in arguments:
            options.add_argument(f"--{argument}")
        if phone:
            metrics = {"width": size[0], "height": size[1], "pixelRatio": 2, "touch": True, "mobile": True}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.closed = False

    def show(self, query: str | dict[str, Any] = "") -> None:
        """Open the page, and wait until the text that it generates at once is complete, or it says why not."""
        self.driver.get(self.address + (query if isinstance(query, str) else f"?{urlencode(query)}"))
        self.wait(lambda: self.text("problem") or (self.is_idle() and self.all_are_scored()))

    def submit(self) -> None:
        """Press the button, and wait until the text is complete and every token has its score."""
        self.element("go").click()
        self.wait(lambda: self.text("problem") or (self.is_idle() and self.all_are_scored()))

    def is_idle(self) -> bool:
        return not self.element("stop").is_enabled()

    def all_are_scored(self) -> bool:
        script = "return [...document.querySelectorAll('.token')].map(token => 'bits' in token.dataset)"
        scored = self.driver.execute_script(script)
        return bool(scored) and all(scored)

    def ids(self, kind: str) -> list[int]:
        """The tokens on the page that were `given`, `generated` or `filled`."""
        script = f"return [...document.querySelectorAll('.token.{kind}')].map(token => token.dataset.ids)"
        return [int(id) for ids in self.driver.execute_script(script) for id in ids.split()]

    def shown_text(self) -> str:
        """The whole text as it stands on the page."""
        text: str = self.driver.execute_script("return document.getElementById('tokens').textContent")
        return text

    def element(self, id: str) -> WebElement:
        return self.driver.find_element(By.ID, id)

    def text(self, id: str) -> str:
        """Its text, also where it is for screen readers only."""
        return (self.element(id).get_attribute("textContent") or "").strip()

    def type(self, id: str, value: str) -> None:
        """Replace what a field holds."""
        self.element(id).clear()
        self.element(id).send_keys(value)

    def choose(self, group: str, value: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f"#{group} input[value={value}]").click()

    def wait(self, until: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(lambda _: until())

    def console(self) -> list[str]:
        """What the console showed since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Close the browser; the addresses that the page and its workers asked for, from Chromium's own network log."""
        self.close()
        log = json.loads(self.net_log.read_text(encoding="utf-8"))
        start = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
        events = [event.get("params", {}) for event in log["events"] if event["type"] == start]
        return [event["url"] for event in events if event.get("initiator", "not an origin") != "not an origin"]

    def close(self) -> None:
        if not self.closed:
            self.driver.quit()
            self.closed = True
