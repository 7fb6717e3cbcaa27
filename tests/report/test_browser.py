"""The page in a real browser: it fits a telephone and a screen, is silent, asks for nothing, and passes axe.

NEXUS_CHROMIUM (or a chromium on the PATH) is the browser; NEXUS_AXE the file axe.min.js of the npm package axe-core. It is
driven by its DevTools protocol over two pipes: no driver is needed, and no port is open.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
BROWSER = os.environ.get("NEXUS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
AXE = os.environ.get("NEXUS_AXE")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--no-zygote",
    "--single-process",
    "--in-process-gpu",
    "--remote-debugging-pipe",
]
SECONDS = 60
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser here: install chromium, or name one in NEXUS_CHROMIUM"),
]


class Tab:
    """One page of one browser. `events` are all that it told so far."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]  # the browser's are 3 and 4
        script = f'exec "$@" 3<&{fds[0]} 4>&{fds[1]}'
        command = ["bash", "-c", script, "-", str(BROWSER), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        silent = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=fds, stdout=silent, stderr=silent)
        for fd in (theirs_in, theirs_out, *fds):
            os.close(fd)
        self.events: list[dict[str, Any]] = []
        self._sent, self._rest, self._session = 0, b"", None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda told: told.get("id") == self._sent)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                told = json.loads(line)
                self.events.append(told)
                if wanted(told):
                    return told
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the browser says nothing for {SECONDS} s"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser is gone"
            self._rest += data

    def evaluate(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def show(self, path: Path, width: int, scheme: str = "light", trusted: bool = False) -> None:
        self.call("Page.setBypassCSP", enabled=trusted)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        if not any(told.get("method") == "Page.loadEventFired" for told in self.events):
            self.wait(lambda told: told.get("method") == "Page.loadEventFired")

    def told(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") in methods]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    found = Tab(tmp_path / "profile")
    yield found
    found.close()


@pytest.fixture
def shown_page(page: str, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


WIDTHS = "[innerWidth, document.documentElement.scrollWidth - document.documentElement.clientWidth]"
DRAWN = "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height > 3)"
OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_is_silent_and_asks_for_nothing(tab, shown_page, width):
    tab.show(shown_page, width)
    tab.evaluate(OPEN)
    assert tab.evaluate(WIDTHS) == [width, 0]
    drawn = tab.evaluate(DRAWN)
    assert len(drawn) > 5 and all(drawn)
    assert tab.told("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []
    assert [sent["request"]["url"] for sent in tab.told("Network.requestWillBeSent")] == [shown_page.as_uri()]
    assert tab.evaluate("document.scripts.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(tab, shown_page, width, scheme):
    if AXE is None:
        pytest.skip("no axe here: npm install axe-core, and name its axe.min.js in NEXUS_AXE")
    tab.show(shown_page, width, scheme, trusted=True)
    tab.evaluate(OPEN)
    tab.evaluate(Path(AXE).read_text(encoding="utf-8") + "; 0")
    found = tab.evaluate("axe.run().then(r => [r.passes.length, r.violations.map(v => [v.id, v.nodes[0].html])])")
    assert found[0] > 20 and found[1] == []


def test_these_tests_can_fail(tab, shown_page):
    text = shown_page.read_text(encoding="utf-8")
    wide = '<main><p style="width:2000px;max-width:none">x</p><script>console.error("told")</script><img src="x.png">'
    shown_page.write_text(text.replace("<main>", wide), encoding="utf-8")
    tab.show(shown_page, 390)
    assert tab.evaluate(WIDTHS)[1] > 1000
    assert len(tab.told("Log.entryAdded")) >= 1  # the page's own policy stopped the script and the picture
    assert tab.told("Runtime.consoleAPICalled") == []
    tab.show(shown_page, 390, trusted=True)
    assert len(tab.told("Runtime.consoleAPICalled")) == 1
    assert len(tab.told("Network.requestWillBeSent")) == 2
