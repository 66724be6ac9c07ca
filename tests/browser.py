"""A real browser without a window, for tests of pages."""

from __future__ import annotations

import gc
import json
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WAIT_S = 20
MARK = "<img src=x onerror=\"document.title='hacked'\">"
"""A name that would run a script, if a page took it for markup."""


class Browser:
    """Chromium, driven through Selenium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, *, width_px: int = 1280, height_px: int = 900, fragment: str = "") -> None:
        """Load a page and wait until its timeline, if it has one, is drawn."""
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get("about:blank")
        for log in ("performance", "browser"):
            self.driver.get_log(log)
        self.driver.get(page.as_uri() + fragment)
        self.wait("return !document.getElementById('chart') || isDrawn")

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str) -> None:
        """Wait until a script returns true."""
        end = time.monotonic() + WAIT_S
        while not self.run(script):
            assert time.monotonic() < end, f"waited in vain for: {script}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """The text of the first element."""
        found: str = self.run("return document.querySelector(arguments[0]).textContent", selector)
        return found

    def texts(self, selector: str) -> list[str]:
        """The text of every element."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
        )
        return found

    def click(self, selector: str) -> None:
        """Click the middle of the first element, as a mouse does."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector)
        from selenium.webdriver import ActionChains  # noqa: PLC0415 (not installed everywhere)

        found = self.driver.find_element("css selector", selector)
        ActionChains(self.driver, duration=20).move_to_element(found).pause(0.1).click().perform()

    def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is."""
        from selenium.webdriver import ActionChains  # noqa: PLC0415 (not installed everywhere)

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def press_with_control(self, key: str) -> None:
        """Press a key while Ctrl is held."""
        from selenium.webdriver import ActionChains, Keys  # noqa: PLC0415 (not installed everywhere)

        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def drag(self, selector: str, by_px: int) -> None:
        """Drag the middle of the first element to the right, in two moves."""
        from selenium.webdriver import ActionChains  # noqa: PLC0415 (not installed everywhere)

        found = self.driver.find_element("css selector", selector)
        chain = ActionChains(self.driver, duration=50).move_to_element(found).click_and_hold()
        chain.move_by_offset(by_px // 2, 0).move_by_offset(by_px - by_px // 2, 0).release().perform()

    def requests(self) -> set[str]:
        """Addresses that were asked for since the page was opened."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        sent = (event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent")
        return {address for address in sent if address != "about:blank"}

    def complaints(self) -> list[str]:
        """What the browser's console has against the page."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


def start_browser(downloads: Path) -> Iterator[Browser]:
    """Chromium with a driver of its version; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
        chrome.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
        yield Browser(chrome)
    finally:
        chrome.quit()
        with warnings.catch_warnings():  # Selenium leaves sockets open, which would fail a later test
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def wait_for(path: Path) -> Path:
    """Wait until a download is there."""
    end = time.monotonic() + 10
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} was not written; there are {list(path.parent.iterdir())}"
        time.sleep(0.05)
    return path
