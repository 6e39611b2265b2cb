"""A headless Chromium, driven by the WebDriver protocol of its chromedriver."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMEDRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--force-device-scale-factor=1"]


class Browser:
    """A page in a browser that has no network."""

    def __init__(self, address: str, session: str) -> None:
        self._address, self._session = address, session

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return _call(method, f"{self._address}/session/{self._session}{path}", body)

    def open(self, page: Path) -> None:
        self.call("POST", "/url", {"url": page.absolute().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Return the value of a script, or that of the promise that it returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, key: str) -> None:
        """Press and release a key of the keyboard."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self.call("POST", "/actions", {"actions": [source]})

    def emulate(self, *, width: int, dark: bool = False, media: str = "") -> None:
        """Set the width of the window in pixels, the preferred colours, and the medium."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.develop("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.develop("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})

    def develop(self, command: str, parameters: Mapping[str, Any]) -> Any:
        """Send a command of the developer tools."""
        body = {"cmd": command, "params": dict(parameters)}
        return self.call("POST", "/goog/cdp/execute", body)

    def messages(self) -> list[str]:
        """Return the messages of the console since the last call."""
        return [each["message"] for each in self.call("POST", "/se/log", {"type": "browser"})]

    def picture(self) -> bytes:
        found = self.develop("Page.captureScreenshot", {"captureBeyondViewport": True})
        return base64.b64decode(found["data"])


def _call(method: str, address: str, body: Mapping[str, Any] | None) -> Any:
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(address, data, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)["value"]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser, and end it."""
    assert CHROMEDRIVER is not None
    command = [CHROMEDRIVER, "--port=0", "--allowed-ips=127.0.0.1"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "successfully on port" in line)
        port = int(line.strip().rstrip(".").rpartition(" ")[2])
        address = f"http://127.0.0.1:{port}"
        options = {"binary": CHROMIUM, "args": ARGUMENTS}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        capabilities = {"capabilities": {"alwaysMatch": wanted}}
        session = _call("POST", f"{address}/session", capabilities)["sessionId"]
        browser = Browser(address, session)
        try:
            offline = {"offline": True, "latency": 0}
            offline |= {"downloadThroughput": 0, "uploadThroughput": 0}
            browser.develop("Network.emulateNetworkConditions", offline)
            yield browser
        finally:
            browser.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()
        if driver.stdout is not None:
            driver.stdout.close()
