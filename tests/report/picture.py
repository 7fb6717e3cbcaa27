"""A headless Chromium, and the picture of a run's report that the README shows.

    python tests/report/picture.py RUN [--out docs/images/report.png]      or: make picture RUN=runs/default

NEXUS_CHROMIUM (or a chromium on the PATH) is the browser. It is driven by its DevTools protocol over two pipes: no driver
is needed, and no port is open.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--no-zygote",
    "--single-process",
    "--in-process-gpu",
    "--remote-debugging-pipe",
]
SECONDS = 60
WIDTH, HEIGHT = 1280, 1500
MOST = 400_000  # bytes of a picture in the repository
IMAGE = Path(__file__).parents[2] / "docs/images/report.png"


def find_browser() -> str | None:
    """None where there is none."""
    return os.environ.get("NEXUS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page of one browser. `events` are all that it told so far."""

    def __init__(self, browser: str, profile: Path) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]  # the browser's are 3 and 4
        script = f'exec "$@" 3<&{fds[0]} 4>&{fds[1]}'
        command = ["bash", "-c", script, "-", browser, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
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

    def picture(self, path: Path, width: int, height: int | None, scheme: str = "light") -> bytes:
        """The top of a page, as PNG, without the bar at its side; `height` None: all of it."""
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.show(path, width, scheme)
        whole = self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        clip = {"x": 0, "y": 0, "width": width, "height": min(height or whole, whole), "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])


def small(png: bytes) -> bytes:
    """The same in a palette of 256 colours, which a page of text and lines has not more of."""
    from PIL import Image

    found = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(found, "PNG", optimize=True)
    return found.getvalue()


def page_of(run: Path) -> str:
    """The report of the run, as `nexus report` writes it."""
    from nexus_core.cli.context import open_plugins, open_registry
    from nexus_core.report.collect import ReportOrder, collect
    from nexus_core.report.page import render

    return render(collect(ReportOrder(run, open_registry(), open_plugins())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=IMAGE)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--height", type=int, default=HEIGHT, help="0: all of the page")
    parser.add_argument("--scheme", choices=["light", "dark"], default="light")
    given = parser.parse_args()
    browser = find_browser()
    if browser is None:
        sys.exit("no browser here: install chromium, or name one in NEXUS_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.html")
        path.write_text(page_of(given.run), encoding="utf-8")
        tab = Tab(browser, Path(folder, "profile"))
        try:
            picture = small(tab.picture(path, given.width, given.height or None, given.scheme))
        finally:
            tab.close()
    if len(picture) > MOST and given.out == IMAGE:
        sys.exit(f"the picture has {len(picture):,} bytes, more than {MOST:,}: give a smaller --height")
    given.out.write_bytes(picture)
    print(f"written to {given.out}: {len(picture):,} bytes")


if __name__ == "__main__":
    main()
