"""A page in headless Chromium: what it asked the network for, what it complained of, how wide it is, how it looks.

The browser is spoken to over the pipe that `--remote-debugging-pipe` opens (messages of JSON, each ended by a zero
byte), so no port, no driver and no further package is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SILENT_SCROLLERS = """[...document.querySelectorAll('.scroll')].filter(box => {
  const remark = box.nextElementSibling;
  const said = remark && remark.classList.contains('scrolls') && remark.offsetHeight > 0;
  return box.offsetParent && box.scrollWidth > box.clientWidth && !said;
}).length"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Return the first browser on the path."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


needs_chromium = pytest.mark.skipif(find_chromium() is None, reason=f"no browser here: none of {', '.join(NAMES)}")


@dataclass
class Visit:
    """What was seen of one page."""

    requests: list[str] = field(default_factory=list)
    """Addresses asked for, without the page's own and those whose bytes are in the page (data:)."""
    complaints: list[str] = field(default_factory=list)
    """Console messages, log entries and exceptions."""
    page_width: int = 0
    """CSS pixels that the page's content takes; more than the screen's is horizontal overflow."""
    broken_images: int = 0
    scrolls_silently: int = 0
    """Boxes of tables that scroll sideways without a visible remark after them."""
    background: str = ""
    """Computed colour of the page."""
    screenshot: bytes = b""
    """PNG of the whole page."""


class _Browser:
    """Commands and events of one session with one page."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
        self._last = 0
        self._unread = b""
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        self._writing.write(json.dumps(message).encode() + b"\0")
        self._writing.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            chunk = self._reading.read1(1 << 20)
            assert chunk, "the browser has ended"
            self._unread += chunk
        message, self._unread = self._unread.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        if "method" in answer:
            self.events.append(answer)
        return answer

    def close(self) -> None:
        self._reading.close()
        self._writing.close()


@contextmanager
def _running(profile: Path) -> Iterator[_Browser]:
    to_browser, our_writing = os.pipe()
    our_reading, from_browser = os.pipe()
    options = ["--headless", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
               f"--user-data-dir={profile}"]  # fmt: skip
    if os.geteuid() == 0:  # Chromium's sandbox refuses to run for root
        options.append("--no-sandbox")
    redirect = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'  # the numbers that Chromium expects
    process = subprocess.Popen(
        ["bash", "-c", redirect, "bash", str(find_chromium()), *options],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    os.close(to_browser)
    os.close(from_browser)
    browser = _Browser(our_reading, our_writing)
    try:
        yield browser
    finally:
        browser.close()
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def visit(page: Path, profile: Path, width: int, height: int = 900, scheme: str = "light") -> Visit:
    """Open a page on a screen of that many CSS pixels whose user prefers the `scheme`; `profile` is the browser's own
    folder, empty or of a former visit."""
    address = page.resolve().as_uri()
    with _running(profile) as browser:
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            browser.call(f"{domain}.enable")
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.call("Page.navigate", url=address)
        browser.wait_for("Page.loadEventFired")
        seen = Visit()
        seen.page_width = _value(browser, "document.documentElement.scrollWidth")
        seen.broken_images = _value(browser, "[...document.images].filter(i => !i.naturalWidth).length")
        seen.scrolls_silently = _value(browser, SILENT_SCROLLERS)
        seen.background = _value(browser, "getComputedStyle(document.body).backgroundColor")
        seen.screenshot = base64.b64decode(
            browser.call("Page.captureScreenshot", captureBeyondViewport=True, format="png",
                         clip=_whole_page(browser))["data"]
        )  # fmt: skip
        for event in browser.events:
            _note(event, address, seen)
    return seen


def _value(browser: _Browser, expression: str) -> Any:
    return browser.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]


def _whole_page(browser: _Browser) -> dict[str, Any]:
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    return {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}


def _note(event: dict[str, Any], address: str, seen: Visit) -> None:
    details = event["params"]
    if event["method"] == "Network.requestWillBeSent":
        url = details["request"]["url"]
        if url != address and not url.startswith("data:"):
            seen.requests.append(url)
    elif event["method"] == "Runtime.consoleAPICalled":
        seen.complaints.append(str([argument.get("value") for argument in details["args"]]))
    elif event["method"] == "Log.entryAdded":
        seen.complaints.append(details["entry"]["text"])
    elif event["method"] == "Runtime.exceptionThrown":
        seen.complaints.append(details["exceptionDetails"]["text"])
