"""The page in a real browser: it fits a telephone and a screen, is silent, asks for nothing, and passes axe.

The browser is that of tests/report/picture.py; NEXUS_AXE is the file axe.min.js of the npm package axe-core.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHROMIUM, AXE = os.environ.get("NEXUS_CHROMIUM"), os.environ.get("NEXUS_AXE")  # tests do not see them later
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def picture(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/report/picture.py as a module."""
    return module_at(Path(__file__).with_name("picture.py"))


@pytest.fixture
def tab(picture: ModuleType, tmp_path: Path) -> Iterator[Any]:
    browser = CHROMIUM or picture.find_browser()
    if browser is None:
        pytest.skip("no browser here: install chromium, or name one in NEXUS_CHROMIUM")
    found = picture.Tab(browser, tmp_path / "profile")
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


def test_a_picture_of_it_is_small_enough_for_the_repository(picture, tab, shown_page):
    from PIL import Image

    made = picture.small(tab.picture(shown_page, picture.WIDTH, picture.HEIGHT))
    with Image.open(io.BytesIO(made)) as image:
        assert image.size == (picture.WIDTH, picture.HEIGHT) and len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert len(made) < picture.MOST
