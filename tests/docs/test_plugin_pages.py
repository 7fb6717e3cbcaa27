"""What docs/plugins/ says of the hooks and of quarantine is what the code does."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from nexus_core import hooks
from nexus_core.discovery import PluginRef, hook_names, load, new_manager
from nexus_core.plugins import Plugins
from nexus_core.types import Kind

ROOT = Path(__file__).resolve().parents[2]
HOOKS_PAGE = (ROOT / "docs" / "plugins" / "hooks.md").read_text(encoding="utf-8")
INDEX_PAGE = (ROOT / "docs" / "plugins" / "index.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### `(\w+\(.*?\))`\n(.*?)(?=^##|\Z)", HOOKS_PAGE, re.MULTILINE | re.DOTALL))


def test_hook_headings_are_the_specifications() -> None:
    real = [f"{name}({', '.join(inspect.signature(getattr(hooks, name)).parameters)})" for name in hook_names()]
    assert list(SECTIONS) == real


@pytest.mark.parametrize("heading", SECTIONS)
def test_each_hook_is_documented_whole(heading: str) -> None:
    """When, by whom, what None means, and an example that goes through the facade's method for this hook."""
    text, hook = SECTIONS[heading], heading.split("(")[0]
    for word in ("* **When:**", "* **By:** `Plugins.", "* **None:**", "* **Must hold:**", "<!-- prints -->"):
        assert word in text
    method = re.search(r"\*\*By:\*\* `Plugins\.(\w+)\(", text)
    assert method is not None
    assert callable(getattr(Plugins, method[1]))
    example = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    assert f"@hookimpl\ndef {hook}(" in example
    assert f".{method[1]}(" in example
    arguments = re.search(r"\* \*\*Arguments:\*\*(.*?)\n\* ", text, re.DOTALL)
    assert arguments is not None
    for argument in inspect.signature(getattr(hooks, hook)).parameters:
        assert f"`{argument}`" in arguments[1]


GOOD = """
from nexus_core.hooks import hookimpl
NEXUS_API = 1
@hookimpl
def detect_model_category(source): return None
"""
LOAD = "@hookimpl\ndef load_teacher(source, options): return None\n"
# The row's first cell -> the module's source (None: there is no module), and what the distribution requires.
FAULTS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "the module raises when it is imported": ("raise ValueError('no luck')", ()),
    "a syntax error": ("def :", ()),
    "the entry point names a module that does not exist": (None, ()),
    "a dependency is not installed": (GOOD, ("no-such-package",)),
    "a dependency has another version": (GOOD, ("nexus-core>=99",)),
    "no `NEXUS_API`": (GOOD.replace("NEXUS_API = 1", ""), ()),
    "another `NEXUS_API`": (GOOD.replace("NEXUS_API = 1", "NEXUS_API = 99"), ()),
    "a misspelt hook": (GOOD + LOAD.replace("load_teacher", "load_teachr"), ()),
    "an argument that the hook does not have": (GOOD + LOAD.replace("(source", "(path"), ()),
    "a hook wrapper": (
        GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("return None", "return (yield)"),
        (),
    ),
    "no hook that its kind is for": (GOOD.split("@hookimpl")[0] + LOAD, ()),
    "two distributions with one name and kind": (GOOD, ()),
}
ROWS = dict(re.findall(r"^\| ([^|]+) \| `([^|]+)` \|$", INDEX_PAGE.split("## Why a plugin")[1], re.MULTILINE))


def test_every_row_of_the_table_is_tried() -> None:
    assert list(ROWS) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_quarantine_reason(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, requires = FAULTS[fault]
    ref = PluginRef(Kind.TEACHER, "x", "nexus_teacher_x.plugin", "nexus-teacher-x", "0.1.0", requires)
    if source is not None:
        package = tmp_path / "nexus_teacher_x"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nexus_teacher_x", "nexus_teacher_x.plugin"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    rival = PluginRef(Kind.TEACHER, "x", "nexus_teacher_other.plugin", "nexus-teacher-other", "0.1.0")
    status = load(ref, new_manager(), rivals=[ref, rival] if fault.startswith("two") else [ref])
    for name in ("nexus_teacher_x", "nexus_teacher_x.plugin"):
        sys.modules.pop(name, None)
    said = re.escape(ROWS[fault]).replace(r"\.\.\.", ".+")
    assert re.fullmatch(said, status.reason), status.reason


def test_the_same_module_without_a_fault_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nexus_teacher_y.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    status = load(PluginRef(Kind.TEACHER, "y", "nexus_teacher_y", "nexus-teacher-y", "0.1.0"), new_manager())
    sys.modules.pop("nexus_teacher_y", None)
    assert status.ok
    assert status.hooks == ("detect_model_category",)
