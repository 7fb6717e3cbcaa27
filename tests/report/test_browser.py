"""The page in a real browser: it fits a telephone and a screen, says nothing on the console, and passes axe.

NEXUS_CHROMIUM (or a chromium on the PATH) is the browser; NEXUS_AXE the file axe.min.js of the npm package axe-core.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
BROWSER = os.environ.get("NEXUS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
AXE = os.environ.get("NEXUS_AXE")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser here: install chromium, or name one in NEXUS_CHROMIUM"),
]

# The page stands in a frame of the wanted width, whatever the least width of the browser's own window is.
FRAME = """<!doctype html><title>{scheme}</title><body><iframe style="width:{width}px;height:900px;border:0" srcdoc="{page}">
</iframe><script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", async () => {{
  const inside = frame.contentWindow, root = inside.document.documentElement;
  inside.document.querySelectorAll("details").forEach(d => d.open = true);
  const found = {{width: root.clientWidth, needs: root.scrollWidth, violations: null,
    pictures: [...inside.document.querySelectorAll("svg")].every(s => s.getBoundingClientRect().height > 0)}};
  if (inside.axe) found.violations = (await inside.axe.run()).violations.map(v => v.id + ": " + v.nodes[0].html);
  const out = document.createElement("pre"); out.id = "found"; out.textContent = JSON.stringify(found);
  document.body.append(out);
}});
</script>"""


def look(page: str, folder: Path, width: int = 1280, dark: bool = False, axe: str = "") -> tuple[dict, str]:
    """What the browser found of the page, and what it wrote on its console."""
    inner = page.replace("</head>", f"<script>{axe}</script></head>") if axe else page
    if axe:
        inner, removed = POLICY.subn("", inner)  # which would not let axe run
        assert removed == 1
    path = folder / "frame.html"
    path.write_text(FRAME.format(width=width, page=html.escape(inner), scheme=dark), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    options += ["--single-process", "--no-zygote"] if "headless_shell" not in str(BROWSER) and not _whole() else []
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--window-size=1400,1000"]
    options += ["--blink-settings=preferredColorScheme=0"] if dark else []
    command = [str(BROWSER), *options, "--dump-dom", path.as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    found = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout, re.DOTALL)
    assert found, ended.stderr[-2000:]
    return json.loads(html.unescape(found[1])), "\n".join(re.findall(r".*CONSOLE.*", ended.stderr))


def _whole() -> bool:
    """A whole browser; a bare headless shell out of an archive cannot start helpers everywhere."""
    return Path(str(BROWSER)).name in NAMES[:-1] and Path(str(BROWSER)).parent.name == "bin"


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_the_console_is_silent(page, tmp_path, width):
    found, console = look(page, tmp_path, width)
    assert (found["width"], found["needs"]) == (width, width) and found["pictures"]
    assert console == ""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(page, tmp_path, width, dark):
    if AXE is None:
        pytest.skip("no axe here: npm install axe-core, and name its axe.min.js in NEXUS_AXE")
    found, _ = look(page, tmp_path, width, dark, Path(AXE).read_text(encoding="utf-8"))
    assert found["violations"] == []


def test_this_test_can_fail(page, tmp_path):
    wide = page.replace("<main>", '<main><p style="width:2000px">x</p><script>console.error("told")</script>')
    found, console = look(POLICY.sub("", wide), tmp_path, 390)
    assert found["needs"] > 390 and "told" in console
